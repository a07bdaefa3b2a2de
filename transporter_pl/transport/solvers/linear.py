"""ζ-OT in time and memory linear in N: the kernel of one-dimensional points is smooth, and is interpolated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transporter_pl.transport.solvers import streamed
from transporter_pl.transport.solvers.chebyshev import Grid, grid_of

TOLERANCE = 1e-3
# How much smaller than the tolerance the kernel's own error is, so that targets may lie where sources are thin
SPARE = 1e-3
BLOCK = 2**24  # entries (ζ · nodes · N) at once
# What a multiply-add of a matrix product takes of what a pair (i, j) of one ζ takes in the exact backward and forward
# passes together; measured on a CPU by benchmarks/transport.py
MULTIPLY_ADD = 1 / 120


def transported(a: Tensor, b: Tensor, source: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """z̃_j = Σ_i T̃_ij ẑ1_i with T̃ = mean_ζ softmax_i(−(a_iζ − b_jζ)²), without any N × N matrix.

    exp(−(a_i − b)²) ≈ Σ_k exp(−(a_i − y_k)²) ℓ_k(b) at r Chebyshev nodes y_k round the targets, so that, with
    U_kζ = Σ_i exp(−(a_iζ − y_kζ)²) ẑ1_i and the same sum L_kζ without ẑ1_i,
    z̃_j = (1/P) Σ_ζ Σ_k ℓ_k(b_jζ) U_kζ / Σ_k ℓ_k(b_jζ) L_kζ. The range of the targets over √ς determines r.

    With ε the kernel's error, |z̃_j − exact| ≤ mean_ζ(2 ε N / l_jζ) max_i |ẑ1_i|, where l_jζ is the denominator: large
    only where a target lies far from nearly all sources. Targets for which this bound is above the tolerance are
    solved exactly; all are, where nodes would cost more than they save.

    Args:
        a: Projected sources over √ς, (B, P, N_i).
        b: Projected targets over √ς, (B, P, N_j).
        source: ẑ1, (B, N_i, D).
        tolerance: Largest error of a token, relative to the largest norm of a source.

    Returns:
        z̃, (B, N_j, D); differentiable once.
    """
    return torch.stack([_of_clip(*clip, tolerance) for clip in zip(a, b, source, strict=True)])


def nodes_pay(nodes: int, a: Tensor, b: Tensor, source: Tensor) -> bool:
    """Whether r nodes take less time than exact sums, both passes counted; of shapes (…, P, N) and (…, N_i, D)."""
    (projections, sources), targets, width = a.shape[-2:], b.shape[-1], source.shape[-1]
    products = 3 * (sources + targets) * projections * nodes * width
    exact = sources * targets * (projections + 3 * width * MULTIPLY_ADD)
    return products * MULTIPLY_ADD < exact


def pays(a: Tensor, b: Tensor, source: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether interpolation takes less time than exact sums, for the range that the targets b (B, P, N_j) have."""
    with torch.no_grad():
        grid = grid_of(a.flatten(0, 1), b.flatten(0, 1), SPARE * tolerance)
    return nodes_pay(grid.count, a, b, source)


def error_bound(a: Tensor, b: Tensor, grid: Grid) -> Tensor:
    """mean_ζ(2 ε N / l_jζ) for a (P, N_i) and b (P, N_j), (N_j,); infinite where some l_jζ is lost in the error."""
    total = torch.zeros_like(b[0])
    for some in _slices(grid, a, b):
        sums = grid[some].kernel(a[some]).sum(-1)
        below = (grid[some].cardinals(b[some]) * sums[..., None]).sum(1)
        total += torch.where(below > 0, 2 * grid[some].errors(a[some]) / below, torch.inf).sum(0)
    return total / len(b)


def _of_clip(a: Tensor, b: Tensor, source: Tensor, tolerance: float) -> Tensor:
    """Of one clip: a (P, N_i), b (P, N_j), source (N_i, D) → (N_j, D)."""
    with torch.no_grad():
        grid = grid_of(a, b, SPARE * tolerance)
        paying = nodes_pay(grid.count, a, b, source)
        far = (error_bound(a, b, grid) > tolerance).nonzero()[:, 0] if paying else None
    if far is None or len(far) > b.shape[1] // 4:
        return _exact(a, b, source)
    moved: Tensor = _Interpolated.apply(a, b, source, grid)  # type: ignore[no-untyped-call]
    return moved.index_copy(0, far, _exact(a, b[:, far], source)) if len(far) else moved


def _exact(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    return streamed.transported(a[None], b[None], source[None])[0]


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, source: Tensor, grid: Grid) -> Tensor:  # noqa: ANN401  (autograd's own)
        moved, kept = torch.zeros_like(source[:1]).expand(b.shape[1], -1).clone(), []
        for some in _slices(grid, a, b):
            kernel, weights = _factors(grid[some], a[some], b[some])
            kept.append(kernel @ source)
            moved.addmm_(weights.mT, kept[-1])
        ctx.grid = grid
        ctx.save_for_backward(a, b, source, *kept)
        return moved / len(a)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401  (autograd's own)
        a, b, source, *kept = ctx.saved_tensors
        grad = grad / len(a)
        to_a, to_b, to_source = (torch.zeros_like(x) for x in (a, b, source))
        for some, moved in zip(_slices(ctx.grid, a, b), kept, strict=True):
            with torch.enable_grad():
                leaves = [x[some].detach().requires_grad_() for x in (a, b)]
                kernel, weights = _factors(ctx.grid[some], *leaves)
            with torch.no_grad():
                to_moved = weights @ grad
                to_source.addmm_(kernel.mT, to_moved)
                pulled = to_moved @ source.mT, moved @ grad.mT
            to_a[some], to_b[some] = torch.autograd.grad((kernel, weights), leaves, pulled)
        return to_a, to_b, to_source, None


def _factors(grid: Grid, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """exp(−(a_iζ − y_kζ)²) as (P·r, N_i), and ℓ_k(b_jζ) / l_jζ as (P·r, N_j): T̃ᵀ is nearly their product over P."""
    kernel, cardinals = grid.kernel(a), grid.cardinals(b)
    below = (cardinals * kernel.sum(-1, keepdim=True)).sum(1, keepdim=True)
    return kernel.flatten(0, 1), (cardinals / below).flatten(0, 1)


def _slices(grid: Grid, a: Tensor, b: Tensor) -> Iterator[slice]:
    """Groups of ζ."""
    at_once = max(1, BLOCK // (grid.count * max(a.shape[1], b.shape[1])))
    return (slice(start, start + at_once) for start in range(0, len(a), at_once))
