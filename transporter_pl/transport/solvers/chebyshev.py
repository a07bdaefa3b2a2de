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
WIDEST = 1e4  # half an interval, in √ς; more nodes than that asks for never pay


@dataclass(frozen=True)
class Grid:
    """Chebyshev nodes y_k = half cos θ_k of every ζ of one clip, for targets round 0.

    Attributes:
        half: Half of each interval's length, (P, 1).
        middle: μ, (P, 1).
        bend: κ < 1, (P, 1).
        count: r, the number of nodes.
        error: ε, bound of the error for a source at μ, rounding included.
    """

    half: Tensor
    middle: Tensor
    bend: Tensor
    count: int
    error: float

    def __getitem__(self, some: slice) -> Grid:
        """The same of some ζ."""
        return replace(self, **{name: getattr(self, name)[some] for name in ("half", "middle", "bend")})

    @property
    def angles(self) -> Tensor:
        """θ_k, (r,)."""
        return (self.orders + 0.5) * (math.pi / self.count)

    @property
    def orders(self) -> Tensor:
        """M = 0, …, r − 1."""
        return torch.arange(self.count, device=self.half.device, dtype=self.half.dtype)

    @property
    def transform(self) -> Tensor:
        """From values f(y_k) to coefficients of f = Σ_m c_m cos(m θ): c_m = (2 − [m = 0])/r Σ_k cos(m θ_k) f(y_k)."""
        return (2 - (self.orders == 0).to(self.half)[:, None]) / self.count * (self.orders[:, None] * self.angles).cos()

    def kernel(self, a: Tensor) -> Tensor:
        """exp(−(a_i − y_k)² + κ (y_k − μ)²) of sources a (P, N), (P, r, N)."""
        nodes = self.half * self.angles.cos()  # (P, r)
        level = self.bend * (nodes - self.middle).square()
        return (level[:, :, None] - (a[:, None, :] - nodes[:, :, None]).square()).exp()

    def waves(self, b: Tensor) -> Tensor:
        """cos(m θ_j) with half cos θ_j = b_j, of targets b (P, N), (P, r, N)."""
        return (self.orders[:, None] * (b / self.half).arccos()[:, None, :]).cos()

    def errors(self, a: Tensor) -> Tensor:
        """ε Σ_i exp(κ/(1 − κ) (a_i − μ)²), by which the interpolated sum over sources a (P, N) may be wrong, (P, 1)."""
        rise = self.bend / (1 - self.bend)
        return self.error * (rise * (a - self.middle).square()).exp().sum(-1, keepdim=True)


def centred(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sources and targets (…, N) less the middle of the targets' range: far from 0, nodes would be rounded too much."""
    with torch.no_grad():
        low, high = b.aminmax(dim=-1, keepdim=True)
    return a - (low + high) / 2, b - (low + high) / 2


def grid_of(a: Tensor, b: Tensor, error: float) -> Grid:
    """The smallest grid for centred sources a (P, N_i) and targets b (P, N_j) whose ε is ``error`` and the rounding."""
    half = MARGIN * b.abs().amax(-1, keepdim=True).clamp(min=1e-3)
    bend = LEVELLED / (2 * a.var(-1, keepdim=True, correction=0) + 1)
    count = nodes_needed((half * (1 - bend).sqrt()).max().item(), error)
    rounding = 4 * torch.finfo(b.dtype).eps
    return Grid(half, a.mean(-1, keepdim=True), bend, count, error + rounding)


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
    """The smallest r, or nearly, whose ``interpolation_error`` is no larger than ``error``.

    Above ``WIDEST``, and where half is not a number, as sources or targets aren't, it is more than ever pays.
    """
    return _nodes_needed(math.ceil(8 * half), error) if half <= WIDEST else 2**40


@lru_cache(maxsize=1024)
def _nodes_needed(eighths: int, error: float) -> int:
    count = 2
    while interpolation_error(eighths / 8, count) > error:
        count += 1 + count // 32
    return count
