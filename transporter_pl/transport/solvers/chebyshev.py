"""Interpolation of sums over the kernel exp(−(a − b)²), functions of b, at Chebyshev nodes, with a bound of the error.

Such a sum falls off steeply where sources are thin, and what is interpolated there would drown in the rounding of its
large values elsewhere. So another function is interpolated, exp(κ (b − μ)²) times the sum: of normally distributed
sources, of variance s², the sum falls off as exp(−(b − μ)² / (2 s² + 1)), and κ = 0.75 / (2 s² + 1) takes most of that
away. Both sums of a ratio are treated alike, so the factor is gone from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

ELLIPSES = [1 + 2 ** (x / 8) for x in range(-40, 32)]  # ρ of the Bernstein ellipses that are tried
MARGIN = 1.01  # how much wider than the data an interval is: at its very ends, arccos has no derivative
LEVELLED = 0.75  # share of a normal distribution's fall that κ takes away


@dataclass(frozen=True)
class Grid:
    """Chebyshev nodes y_k for every ζ of one clip.

    Attributes:
        centre: Middle of each interval, (P, 1).
        half: Half its length, (P, 1).
        middle: μ, (P, 1).
        bend: κ < 1, (P, 1).
        count: r, the number of nodes.
        error: ε, bound of the error for a source at μ, rounding included.
    """

    centre: Tensor
    half: Tensor
    middle: Tensor
    bend: Tensor
    count: int
    error: float

    def __getitem__(self, some: slice) -> Grid:
        """The same of some ζ."""
        tensors = ("centre", "half", "middle", "bend")
        return replace(self, **{name: getattr(self, name)[some] for name in tensors})

    @property
    def angles(self) -> Tensor:
        """θ_k of the nodes cos θ_k of [−1, 1], (r,)."""
        return (torch.arange(self.count, device=self.half.device, dtype=self.half.dtype) + 0.5) * (math.pi / self.count)

    def kernel(self, a: Tensor) -> Tensor:
        """exp(−(a_i − y_k)² + κ (y_k − μ)²) of sources a (P, N), (P, r, N)."""
        nodes = self.centre + self.half * self.angles.cos()  # (P, r)
        level = self.bend * (nodes - self.middle).square()
        return (level[:, :, None] - (a[:, None, :] - nodes[:, :, None]).square()).exp()

    def cardinals(self, b: Tensor) -> Tensor:
        """ℓ_k(b_j) = (1/r) (1 + 2 Σ_{m=1}^{r−1} cos(m θ_k) cos(m arccos b_j)) of targets b (P, N), (P, r, N)."""
        orders = torch.arange(self.count, device=b.device, dtype=b.dtype)
        turned = ((b - self.centre) / self.half).arccos()
        waves = (orders[:, None] * turned[:, None, :]).cos()  # (P, r, N)
        weights = (2 - (orders == 0).to(b.dtype)) / self.count
        return (self.angles[:, None] * orders).cos() * weights @ waves

    def errors(self, a: Tensor) -> Tensor:
        """ε Σ_i exp(κ/(1 − κ) (a_i − μ)²), by which the interpolated sum over sources a (P, N) may be wrong, (P, 1)."""
        rise = self.bend / (1 - self.bend)
        return self.error * (rise * (a - self.middle).square()).exp().sum(-1, keepdim=True)


def grid_of(a: Tensor, b: Tensor, error: float) -> Grid:
    """The smallest grid round targets b (P, N_j), for sources a (P, N_i), whose ε is ``error`` and the rounding."""
    low, high = b.aminmax(dim=-1, keepdim=True)
    half = MARGIN * ((high - low) / 2).clamp(min=1e-3)
    bend = LEVELLED / (2 * a.var(-1, keepdim=True, correction=0) + 1)
    count = nodes_needed((half * (1 - bend).sqrt()).max().item(), error)
    rounding = 4 * torch.finfo(b.dtype).eps
    return Grid((low + high) / 2, half, a.mean(-1, keepdim=True), bend, count, error + rounding)


def interpolation_error(half: float, count: int) -> float:
    """Bound of the error with which exp(−(a − b)²) is interpolated in b at Chebyshev nodes, for every a.

    A function that is analytic in the Bernstein ellipse of ρ, and there at most M, is interpolated at r nodes up to
    4 M ρ^{−(r−1)} / (ρ − 1) (Trefethen, Approximation Theory and Approximation Practice, theorem 8.2). Here
    M = exp(h²), with h = half (ρ − 1/ρ) / 2 the height of the ellipse. The best ρ of a list is taken. Levelled by κ,
    M is exp((1 − κ) h² + κ/(1 − κ) (a − μ)²): the first is the same for half the length times √(1 − κ).

    Args:
        half: Half the interval's length.
        count: r.
    """
    heights = ((rho, half * (rho - 1 / rho) / 2) for rho in ELLIPSES)
    logs = (math.log(4) + h * h - (count - 1) * math.log(rho) - math.log(rho - 1) for rho, h in heights)
    return math.exp(min(*logs, 700.0))


def nodes_needed(half: float, error: float) -> int:
    """The smallest r, or nearly, whose ``interpolation_error`` is no larger than ``error``."""
    return _nodes_needed(math.ceil(8 * half), error)


@lru_cache(maxsize=1024)
def _nodes_needed(eighths: int, error: float) -> int:
    count = 2
    while interpolation_error(eighths / 8, count) > error:
        count += 1 + count // 32
    return count
