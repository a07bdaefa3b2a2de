"""ζ-OT block by block: exact on any device, in memory that neither P nor N² enters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from transporter_pl.transport.solvers import dense

# Entries (clips · ζ · targets · sources) at once. On a CPU they fit its second-level cache, where passes over them are
# several times faster than from memory; a GPU wants enough of them to be busy.
BLOCK = {"cpu": 2**18, "cuda": 2**24}


def transported(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    """z̃_j = Σ_i T̃_ij ẑ1_i with T̃ = mean_ζ softmax_i(−(a_iζ − b_jζ)²); T̃ is made and used for some targets at a time.

    The backward pass makes every block anew. With G_ij = ⟨ẑ1_i, ∂z̃_j⟩ / P and S_ijζ = T_ijζ (G_ij − Σ_i T_ijζ G_ij) it
    is ∂a_iζ = −2 Σ_j S_ijζ (a_iζ − b_jζ), ∂b_jζ = 2 Σ_i S_ijζ (a_iζ − b_jζ) and ∂ẑ1_i = Σ_j T̃_ij ∂z̃_j.

    Args:
        a: Projected sources over √ς, (B, P, N_i).
        b: Projected targets over √ς, (B, P, N_j).
        source: ẑ1, (B, N_i, D).

    Returns:
        z̃, (B, N_j, D); differentiable once.
    """
    moved: Tensor = _forward(a, b, source)
    return moved


def plan(a: Tensor, b: Tensor, iterations: int = 0) -> Tensor:
    """As ``dense.plan``, over some ζ at a time: keeps B·N_i·N_j numbers, and as many again for each ζ at once."""
    room = BLOCK.get(a.device.type, BLOCK["cuda"])
    at_once = max(1, room // (a.shape[0] * a.shape[2] * b.shape[2]))
    total = torch.zeros((), dtype=a.dtype, device=a.device)
    for some_a, some_b in zip(torch.split(a, at_once, 1), torch.split(b, at_once, 1), strict=True):
        part = checkpoint(dense.plan, some_a, some_b, iterations, use_reentrant=False)
        total = total + part * (some_a.shape[1] / a.shape[1])
    return total


# operations of their own: loops that neither torch.compile nor a planned run without data unrolls
@torch.library.custom_op(
    "transporter_pl::zeta_streamed", mutates_args=(), schema="(Tensor a, Tensor b, Tensor source) -> Tensor"
)
def _forward(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    parts = []
    for clips, targets, zetas in _blocks(a, b):
        plan = _zeros(a, b, clips, targets)
        for some in zetas:
            plan += _weights(a[clips, some], b[clips, some, targets]).sum(1)
        parts.append((plan @ source[clips] / a.shape[1]).flatten(0, 1))
    return torch.cat(parts).view(len(b), b.shape[2], -1)


@torch.library.custom_op(
    "transporter_pl::zeta_streamed_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor a, Tensor b, Tensor source) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad: Tensor, a: Tensor, b: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    to_a, to_b, to_source = (torch.zeros_like(x) for x in (a, b, source))
    for clips, targets, zetas in _blocks(a, b):
        coming = grad[clips, targets] / a.shape[1]
        wanted = coming @ source[clips].mT  # G, (clips, targets, N_i)
        plan = _zeros(a, b, clips, targets)
        for some in zetas:
            sources, aims = a[clips, some], b[clips, some, targets]
            weights = _weights(sources, aims)
            plan += weights.sum(1)
            pulled = _pulled(weights, wanted[:, None]).mul_(_gaps(sources, aims))
            to_a[clips, some] -= 2 * pulled.sum(2)
            to_b[clips, some, targets] = 2 * pulled.sum(3)
        to_source[clips] += plan.mT @ coming
    return to_a, to_b, to_source


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401  (autograd's own)
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401  (autograd's own)
    found: tuple[Tensor, Tensor, Tensor] = _backward(grad, *ctx.saved_tensors)
    return found


_forward.register_fake(lambda a, b, source: source.new_empty(len(b), b.shape[2], source.shape[2]))
_backward.register_fake(lambda grad, a, b, source: tuple(torch.empty_like(x) for x in (a, b, source)))
_forward.register_autograd(_gradients, setup_context=_keep)


@register_flop_formula(torch.ops.transporter_pl.zeta_streamed)  # type: ignore[untyped-decorator]
def _forward_flops(a: Any, b: Any, source: Any, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401  (shapes)
    return int(2 * source[0] * source[1] * b[2] * source[2])


@register_flop_formula(torch.ops.transporter_pl.zeta_streamed_backward)  # type: ignore[untyped-decorator]
def _backward_flops(grad: Any, a: Any, b: Any, source: Any, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401  (shapes)
    return 2 * _forward_flops(a, b, source)


def _gaps(sources: Tensor, aims: Tensor) -> Tensor:
    """a_iζ − b_jζ, (clips, ζ, targets, sources): softmax is fastest along contiguous memory."""
    return sources[:, :, None, :] - aims[:, :, :, None]


def _weights(sources: Tensor, aims: Tensor) -> Tensor:
    """T_ijζ, (clips, ζ, targets, sources)."""
    return _gaps(sources, aims).square_().neg_().softmax(-1)


def _pulled(weights: Tensor, wanted: Tensor) -> Tensor:
    """S = T (G − Σ_i T G): softmax's own backward pass, in one sweep."""
    pulled: Tensor = torch.ops.aten._softmax_backward_data(wanted.expand_as(weights), weights, -1, weights.dtype)
    return pulled


def _zeros(a: Tensor, b: Tensor, clips: slice, targets: slice) -> Tensor:
    return a.new_zeros(len(a[clips]), b[0, 0, targets].numel(), a.shape[2])


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, list[slice]]]:
    """Clips, targets, and all ζ in groups, so that each block holds no more than ``BLOCK``'s entries, if it can.

    Either some clips are taken with all their targets, or one clip with some.
    """
    (batch, projections, sources), targets = a.shape, b.shape[2]
    room = BLOCK.get(a.device.type, BLOCK["cuda"])
    aims = min(targets, max(1, room // sources))
    at_once = min(projections, max(1, room // (sources * aims)))
    clips = min(batch, max(1, room // (sources * aims * at_once))) if aims == targets else 1
    zetas = _slices(projections, at_once)
    yield from ((some, these, zetas) for some in _slices(batch, clips) for these in _slices(targets, aims))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
