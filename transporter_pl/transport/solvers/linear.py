"""ζ-OT in time and memory linear in N: the kernel of one-dimensional points is smooth, and is interpolated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transporter_pl.transport.solvers import streamed
from transporter_pl.transport.solvers.chebyshev import Grid, centred, grid_of

TOLERANCE = 1e-3
# How much smaller than the tolerance the kernel's own error is, so that targets may lie where sources are thin
SPARE = 1e-3
# Tokens at a time, and entries (ζ · nodes · tokens) at a time: whatever N is, a CPU's cache then holds the same
TILE, BLOCK = 2**12, 2**21
# What things take, in both passes, of what a pair (i, j) of one ζ takes when it is summed exactly, on a CPU: a
# multiply-add of a matrix product, and an entry of the two factors
MULTIPLY_ADD, ENTRY = 1 / 300, 5.0
log = logging.getLogger(__name__)


def transported(a: Tensor, b: Tensor, source: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """z̃_j = Σ_i T̃_ij ẑ1_i with T̃ = mean_ζ softmax_i(−(a_iζ − b_jζ)²), without any N × N matrix.

    Both sums of a target, Σ_i exp(−(a_i − b_j)²) ẑ1_i and its normaliser l_j, are functions of b_j alone, and are
    interpolated as ``chebyshev`` says, from their values at r nodes; the range of the targets over √ς determines r.
    Where each is wrong by ε Σ_i exp(κ/(1 − κ) (a_i − μ)²) at most, ``Grid.errors``, relative to max_i |ẑ1_i|, it is
    |z̃_j − exact| ≤ mean_ζ(2 ``errors`` / l_jζ) max_i |ẑ1_i|: large only where a target is far from nearly all sources.
    Targets for which this exceeds the tolerance are summed exactly; all are, where most are of that kind, where nodes
    would cost more than they save, or where something is not finite. No bound is known for the gradients.

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
    products = projections * nodes * width * (3 * (sources + targets) + 2 * nodes)
    entries = projections * nodes * (sources + targets)
    exact = sources * targets * (projections + 3 * width * MULTIPLY_ADD)
    return products * MULTIPLY_ADD + entries * ENTRY < exact


@torch.no_grad()
def pays(a: Tensor, b: Tensor, source: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether interpolation takes less time than exact sums, for the range that the targets b (B, P, N_j) have."""
    grid = grid_of(*centred(a.flatten(0, 1), b.flatten(0, 1)), SPARE * tolerance)
    return nodes_pay(grid.count, a, b, source)


def error_bound(a: Tensor, b: Tensor, grid: Grid) -> Tensor:
    """mean_ζ(2 ``errors`` / l_jζ), (N_j,), for centred a (P, N_i) and b (P, N_j); infinite where l_jζ is lost in it."""
    total, ones = torch.zeros_like(b[0]), torch.ones_like(a[0, :, None])
    for some in _groups(grid, a, b):
        part = grid[some]
        below, wrong = _sums(part, a[some], ones), 2 * part.errors(a[some])
        for tile in _tiles(b):
            found = (part.waves(b[some, tile]) * below).sum(1)
            # where the error is no less than l_jζ, another order of the sum may find it at 0 or below
            total[tile] += torch.where(found > wrong, wrong / found, torch.inf).sum(0)
    return total / len(b)


def _of_clip(a: Tensor, b: Tensor, source: Tensor, tolerance: float) -> Tensor:
    """Of one clip: a (P, N_i), b (P, N_j), source (N_i, D) → (N_j, D)."""
    near_a, near_b = centred(a, b)
    with torch.no_grad():
        grid = grid_of(near_a, near_b, SPARE * tolerance)
        paying = nodes_pay(grid.count, a, b, source)
        # what is not finite is above the tolerance too
        far = (~(error_bound(near_a, near_b, grid) <= tolerance)).nonzero()[:, 0] if paying else None
    if far is None or len(far) > b.shape[1] // 4:
        why = f"{grid.count} nodes don't pay" if far is None else f"{len(far)} targets are far from all sources"
        log.debug("linear: all %s targets summed exactly, as %s", b.shape[1], why)
        return _exact(a, b, source)
    moved: Tensor = _Interpolated.apply(near_a, near_b, source, grid)  # type: ignore[no-untyped-call]
    return moved.index_copy(0, far, _exact(a, b[:, far], source)) if len(far) else moved


def _exact(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    return streamed.transported(a[None], b[None], source[None])[0]


class _Interpolated(torch.autograd.Function):
    """With a column of ones beside ẑ1, the sums at the nodes hold the normaliser's too, as their last column."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, source: Tensor, grid: Grid) -> Tensor:  # noqa: ANN401  (autograd's own)
        extended = torch.cat([source, torch.ones_like(source[:, :1])], 1)
        moved = source.new_zeros(b.shape[1], source.shape[1])
        kept = [_sums(grid[some], a[some], extended) for some in _groups(grid, a, b)]
        for some, sums in zip(_groups(grid, a, b), kept, strict=True):
            for tile in _tiles(b):
                weights = _weights(grid[some], b[some, tile], sums[..., -1:])
                moved[tile].addmm_(weights.flatten(0, 1).mT, sums[..., :-1].flatten(0, 1))
        ctx.grid = grid
        ctx.save_for_backward(a, b, extended, *kept)
        return moved / len(a)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401  (autograd's own)
        a, b, extended, *kept = ctx.saved_tensors
        grad = grad / len(a)
        to_a, to_b, to_source = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(extended[:, :-1])
        for some, sums in zip(_groups(ctx.grid, a, b), kept, strict=True):
            grid, to_sums = ctx.grid[some], torch.zeros_like(sums)
            for tile in _tiles(b):
                leaves = [x.detach().requires_grad_() for x in (b[some, tile], sums[..., -1:])]
                with torch.enable_grad():
                    weights = _weights(grid, *leaves)
                pulled = torch.autograd.grad(weights, leaves, sums[..., :-1] @ grad[tile].mT)
                to_b[some, tile], to_below = pulled
                to_sums += torch.cat([weights.detach() @ grad[tile], to_below], -1)
            at_nodes = grid.transform.mT @ to_sums
            for tile in _tiles(a):
                leaf = a[some, tile].detach().requires_grad_()
                with torch.enable_grad():
                    kernel = grid.kernel(leaf)
                to_source[tile].addmm_(kernel.detach().flatten(0, 1).mT, at_nodes[..., :-1].flatten(0, 1))
                (to_a[some, tile],) = torch.autograd.grad(kernel, leaf, at_nodes @ extended[tile].mT)
        return to_a, to_b, to_source, None


def _sums(grid: Grid, a: Tensor, values: Tensor) -> Tensor:
    """Coefficients, (P, r, D), of Σ_i exp(−(a_i − b)² + κ (b − μ)²) v_i as a function of b; values v (N_i, D)."""
    at_nodes = a.new_zeros(len(a), grid.count, values.shape[1])
    for tile in _tiles(a):
        at_nodes += grid.kernel(a[:, tile]) @ values[tile]
    return grid.transform @ at_nodes


def _weights(grid: Grid, b: Tensor, below: Tensor) -> Tensor:
    """cos(m θ_j) / l_jζ of targets b (P, N), (P, r, N), by the normaliser's coefficients (P, r, 1)."""
    waves = grid.waves(b)
    return waves / (waves * below).sum(1, keepdim=True)


def _tiles(x: Tensor) -> Iterator[slice]:
    """Tokens by groups."""
    return (slice(start, start + TILE) for start in range(0, x.shape[1], TILE))


def _groups(grid: Grid, a: Tensor, b: Tensor) -> Iterator[slice]:
    """ζ by groups, as many at once as ``BLOCK`` has room for."""
    at_once = max(1, BLOCK // (grid.count * min(TILE, max(a.shape[1], b.shape[1]))))
    return (slice(start, start + at_once) for start in range(0, len(a), at_once))
