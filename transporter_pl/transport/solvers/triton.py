"""ζ-OT fused for GPUs: the P plans are made in registers, four times, and are never in memory."""
# mypy: disable-error-code="untyped-decorator, no-untyped-call, import-untyped, import-not-found"

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError

try:
    import triton
    import triton.language as tl
except ImportError as error:
    msg = "solver: 'triton' needs its package; pip install 'transporter-pl[triton]', or use streamed, or auto"
    raise TransporterError(msg) from error

LOG2E = tl.constexpr(math.log2(math.e))
FAR = tl.constexpr(1e18)  # sources that only fill a tile up lie here: they weigh nothing, and nothing overflows

# There are four kernels, with B·P·N² exponentials each. A scheduler issues 8 instructions while the special function
# unit does one exponential of a warp, so a loop is at the floor if it takes no more than 8 a weight. On compute
# capability 9.0, with N a multiple of 16, these take 7.5, 7.0, 9.8 and 10.1, within 128 registers. For that, a warp's
# lanes lie along the targets and a thread holds several sources: sums over sources stay in a thread, and what belongs
# to a target is loaded once for all of them. A tile of G serves GROUP ζ, or the second-level cache would be the floor:
# P / GROUP times B·N² numbers are read there.
GROUP = 8


def transported(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    """z̃_j = Σ_i T̃_ij ẑ1_i with T̃ = mean_ζ softmax_i(−(a_iζ − b_jζ)²); T̃ and its gradient are in memory, no T_ζ is.

    These two are B·N_i·N_j numbers of 4 bytes each, 0.54 GB at B 8 and N 4096 whatever P; all else is O(B·P·N + B·N·D).
    The two products with ẑ1 and ∂z̃ are torch's, in float32 or TF32 as ``torch.set_float32_matmul_precision`` says.

    Args:
        a: Projected sources over √ς, (B, P, N_i), float32.
        b: Projected targets over √ς, (B, P, N_j), float32.
        source: ẑ1, (B, N_i, D), float32.

    Returns:
        z̃, (B, N_j, D); differentiable once.

    Raises:
        TransporterError: If the tensors are not in float32, or not on a GPU (unless Triton's interpreter is on).
    """
    plan: Tensor = _plan(a, b)[0]
    return (source.mT @ plan).mT  # in this order the plan's gradient comes out contiguous


@torch.library.custom_op("transporter_pl::zeta_plan", mutates_args=())
def _plan(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T̃ (B, N_i, N_j); and of every column of every T_ζ what the kernels call nearest, slope, log_sum and mean."""
    _check(a)
    a, b = a.contiguous(), b.contiguous()
    (batch, projections, n_i), n_j = a.shape, b.shape[2]
    plan, columns = a.new_empty(batch, n_i, n_j), a.new_empty(4, *b.shape)
    nearest, slope, log_sum, mean = columns
    nearest.copy_(_nearest(a, b))
    torch.mul(nearest - b, -2 * math.log2(math.e), out=slope)
    with torch.cuda.device_of(a):
        _normalise[batch * projections, triton.cdiv(n_j, 128)](a, nearest, slope, log_sum, mean, n_i, n_j, 32, 128)
        grid = (triton.cdiv(n_j, 128), triton.cdiv(n_i, 32), batch)
        _average[grid](a, nearest, slope, log_sum, plan, projections, n_i, n_j, 32, 128)
    return plan, columns


@torch.library.custom_op("transporter_pl::zeta_plan_backward", mutates_args=())
def _pull(wanted: Tensor, a: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a and b by G (B, N_i, N_j), that of T̃.

    With S_ijζ = T_ijζ (G_ij − c_jζ) and c_jζ = Σ_i T_ijζ G_ij they are (1/P) Σ_j S_ijζ times −2 (a_iζ − b_jζ), and
    (1/P) Σ_i S_ijζ times 2 (a_iζ − b_jζ).
    """
    wanted, a = wanted.contiguous(), a.contiguous()
    (batch, projections, n_i), n_j = a.shape, columns.shape[3]
    nearest, slope, log_sum, mean = columns
    to_a, to_b, centre = torch.empty_like(a), torch.empty_like(mean), torch.empty_like(mean)
    groups = triton.cdiv(projections, GROUP)
    with torch.cuda.device_of(a):
        _pull_targets[groups, triton.cdiv(n_j, 128), batch](
            a, nearest, slope, log_sum, mean, wanted, centre, to_b, projections, n_i, n_j, GROUP, 4, 128
        )
        _pull_sources[groups, triton.cdiv(n_i, 32), batch](
            a, nearest, slope, log_sum, centre, wanted, to_a, projections, n_i, n_j, GROUP, 32, 32, num_warps=8
        )
    return to_a, to_b


@_plan.register_fake
def _(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape[0], a.shape[2], b.shape[2]), a.new_empty(4, *b.shape)


@_pull.register_fake
def _(wanted: Tensor, a: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), a.new_empty(columns.shape[1:])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401  (autograd's own)
    ctx.save_for_backward(inputs[0], output[1])


def _backward(ctx: Any, wanted: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401  (autograd's own)
    to_a, to_b = _pull(wanted, *ctx.saved_tensors)
    return to_a, to_b


_plan.register_autograd(_backward, setup_context=_keep)


def _check(a: Tensor) -> None:
    if a.dtype != torch.float32:
        msg = f"solver: 'triton' computes in float32, and the projections are in {a.dtype}; use streamed, or auto"
        raise TransporterError(msg)
    if not a.is_cuda and isinstance(_normalise, triton.JITFunction):
        msg = f"solver: 'triton' runs on GPUs, and the projections are on {a.device}; use streamed, or auto"
        raise TransporterError(msg)


def _nearest(a: Tensor, b: Tensor) -> Tensor:
    """The a_iζ nearest to every b_jζ, (B, P, N_j)."""
    ordered = a.sort(-1).values
    after = torch.searchsorted(ordered, b)
    below, above = (ordered.gather(-1, k.clamp(0, a.shape[2] - 1)) for k in (after - 1, after))
    return torch.where((b - below).abs() < (above - b).abs(), below, above)


@triton.jit
def _weights(a: tl.tensor, nearest: tl.tensor, slope: tl.tensor, log_sum: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """T_ijζ, and a_iζ less the nearest r_jζ: (a − b)² − (r − b)² = (a − r)(a − r + 2 (r − b)) loses no digits far away.

    ``slope`` is −2 log₂e (r − b), ``log_sum`` log₂ Σ_i of the weights without it, at least 0.
    """
    gap = a - nearest
    return tl.exp2(gap * (slope - gap * LOG2E) - log_sum), gap


@triton.jit
def _normalise(
    a: tl.tensor, nearest: tl.tensor, slope: tl.tensor, log_sum: tl.tensor, mean: tl.tensor,
    n_i: tl.tensor, n_j: tl.tensor, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
) -> None:  # fmt: skip
    """Log Σ_i of the weights, and the mean of their gaps; a program has one ζ and some targets."""
    line = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * TARGETS + tl.arange(0, TARGETS)
    at = line * n_j + j
    r = tl.load(nearest + at, mask=j < n_j, other=0.0)[None]
    s = tl.load(slope + at, mask=j < n_j, other=0.0)[None]
    total = tl.zeros((TARGETS,), tl.float32)
    moment = tl.zeros((TARGETS,), tl.float32)
    for start in range(0, n_i, SOURCES):
        i = start + tl.arange(0, SOURCES)
        x = tl.load(a + line * n_i + i, mask=i < n_i, other=FAR)[:, None]
        weight, gap = _weights(x, r, s, 0.0)
        total += tl.sum(weight, 0)
        moment += tl.sum(weight * gap, 0)
    tl.store(log_sum + at, tl.log2(total), mask=j < n_j)
    tl.store(mean + at, moment / total, mask=j < n_j)


@triton.jit
def _average(
    a: tl.tensor, nearest: tl.tensor, slope: tl.tensor, log_sum: tl.tensor, plan: tl.tensor,
    projections: tl.tensor, n_i: tl.tensor, n_j: tl.tensor, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
) -> None:  # fmt: skip
    """T̃; a program has a tile of it, and all ζ."""
    j = tl.program_id(0) * TARGETS + tl.arange(0, TARGETS)
    i = tl.program_id(1) * SOURCES + tl.arange(0, SOURCES)
    clip = tl.program_id(2).to(tl.int64)
    total = tl.zeros((SOURCES, TARGETS), tl.float32)
    for zeta in range(projections):
        line = clip * projections + zeta
        at = line * n_j + j
        x = tl.load(a + line * n_i + i, mask=i < n_i, other=FAR)[:, None]
        r = tl.load(nearest + at, mask=j < n_j, other=0.0)[None]
        s = tl.load(slope + at, mask=j < n_j, other=0.0)[None]
        z = tl.load(log_sum + at, mask=j < n_j, other=0.0)[None]
        weight, _ = _weights(x, r, s, z)
        total += weight
    inside = (i < n_i)[:, None] & (j < n_j)[None]
    tl.store(plan + (clip * n_i + i)[:, None] * n_j + j[None], total / projections, mask=inside)


@triton.jit
def _pull_targets(
    a: tl.tensor, nearest: tl.tensor, slope: tl.tensor, log_sum: tl.tensor, mean: tl.tensor, wanted: tl.tensor,
    centre: tl.tensor, to_b: tl.tensor, projections: tl.tensor, n_i: tl.tensor, n_j: tl.tensor,
    ZETAS: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
) -> None:  # fmt: skip
    """c, and the gradient of b: Σ_i S (a − b) = Σ_i T G gap − c Σ_i T gap; a program has some ζ and targets."""
    zeta = tl.program_id(0) * ZETAS + tl.arange(0, ZETAS)
    j = tl.program_id(1) * TARGETS + tl.arange(0, TARGETS)
    clip = tl.program_id(2).to(tl.int64)
    line = (clip * projections + zeta)[:, None]
    at, inside = line * n_j + j[None], (zeta < projections)[:, None] & (j < n_j)[None]
    r = tl.load(nearest + at, mask=inside, other=0.0)[:, None, :]
    s = tl.load(slope + at, mask=inside, other=0.0)[:, None, :]
    z = tl.load(log_sum + at, mask=inside, other=0.0)[:, None, :]
    c = tl.zeros((ZETAS, TARGETS), tl.float32)
    moment = tl.zeros((ZETAS, TARGETS), tl.float32)
    for start in range(0, n_i, SOURCES):
        i = start + tl.arange(0, SOURCES)
        x = tl.load(a + line * n_i + i[None], mask=(zeta < projections)[:, None] & (i < n_i)[None], other=FAR)
        tile = wanted + (clip * n_i + i)[:, None] * n_j + j[None]
        g = tl.load(tile, mask=(i < n_i)[:, None] & (j < n_j)[None], other=0.0)
        weight, gap = _weights(x[:, :, None], r, s, z)
        pull = weight * g[None]
        c += tl.sum(pull, 1)
        moment += tl.sum(pull * gap, 1)
    m = tl.load(mean + at, mask=inside, other=0.0)
    tl.store(centre + at, c, mask=inside)
    tl.store(to_b + at, 2 * (moment - c * m) / projections, mask=inside)


@triton.jit
def _pull_sources(
    a: tl.tensor, nearest: tl.tensor, slope: tl.tensor, log_sum: tl.tensor, centre: tl.tensor, wanted: tl.tensor,
    to_a: tl.tensor, projections: tl.tensor, n_i: tl.tensor, n_j: tl.tensor,
    ZETAS: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr,
) -> None:  # fmt: skip
    """The gradient of a; 2 log₂e (a − b) = 2 log₂e gap − slope; a program has some ζ and sources."""
    zeta = tl.program_id(0) * ZETAS + tl.arange(0, ZETAS)
    i = tl.program_id(1) * SOURCES + tl.arange(0, SOURCES)
    clip = tl.program_id(2).to(tl.int64)
    line = (clip * projections + zeta)[:, None]
    here, inside = line * n_i + i[None], (zeta < projections)[:, None] & (i < n_i)[None]
    x = tl.load(a + here, mask=inside, other=FAR)[:, :, None]
    total = tl.zeros((ZETAS, SOURCES, TARGETS), tl.float32)
    for start in range(0, n_j, TARGETS):
        j = start + tl.arange(0, TARGETS)
        at, there = line * n_j + j[None], (zeta < projections)[:, None] & (j < n_j)[None]
        r = tl.load(nearest + at, mask=there, other=0.0)[:, None, :]
        s = tl.load(slope + at, mask=there, other=0.0)[:, None, :]
        z = tl.load(log_sum + at, mask=there, other=0.0)[:, None, :]
        c = tl.load(centre + at, mask=there, other=0.0)[:, None, :]
        tile = wanted + (clip * n_i + i)[:, None] * n_j + j[None]
        g = tl.load(tile, mask=(i < n_i)[:, None] & (j < n_j)[None], other=0.0)
        weight, gap = _weights(x, r, s, z)
        total += weight * (g[None] - c) * (2 * LOG2E * gap - s)
    tl.store(to_a + here, -tl.sum(total, 2) / (LOG2E * projections), mask=inside)
