"""Ways to compute ζ-OT's closed form: the same result, up to a tolerance, at other costs."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from transporter_pl.errors import TransporterError, did_you_mean
from transporter_pl.transport.solvers import dense, linear, streamed

Solver = Literal["auto", "dense", "streamed", "triton", "linear"]
SMALL = 2**22  # entries B·P·N² up to which autograd is as fast as anything
LONG = 1024  # tokens from which interpolation is worth a look at the data
HAS_TRITON = find_spec("triton") is not None
log = logging.getLogger(__name__)


def check_solver(name: str, iterations: int) -> None:
    """Refuse a name that is none, and one that can't iterate.

    Raises:
        TransporterError: If so (lists the names, suggests the nearest).
    """
    known = get_args(Solver)
    if name not in known:
        msg = f"solver: unknown name {name!r}.{did_you_mean(str(name), known)} Known: {', '.join(known)}"
        raise TransporterError(msg)
    if iterations and name in ("triton", "linear"):
        msg = f"solver: {name!r} knows the closed form alone, iterations: 0; use auto, dense or streamed"
        raise TransporterError(msg)


def solve(name: Solver, a: Tensor, b: Tensor, source: Tensor, tolerance: float) -> Tensor:
    """z̃ by the named solver; ``auto`` chooses by size, device and the range of the projections over √ς.

    Args:
        name: ``dense``, ``streamed``, ``triton``, ``linear`` or ``auto``.
        a: Projected sources over √ς, (B, P, N_i).
        b: Projected targets over √ς, (B, P, N_j).
        source: ẑ1, (B, N_i, D).
        tolerance: Of ``linear``.

    Returns:
        z̃, (B, N_j, D).

    Raises:
        TransporterError: If ``triton`` can't run here.
    """
    chosen = _chosen(a, b, source, tolerance) if name == "auto" else name
    if not torch.compiler.is_compiling():
        log.debug("ζ-OT of %s sources, %s targets, width %s: %s", tuple(a.shape), b.shape[2], source.shape[2], chosen)
    if chosen == "triton":
        from transporter_pl.transport.solvers import triton

        moved: Tensor = triton.transported(a, b, source)
        return moved
    # what depends on data can be neither planned without them nor compiled; it is no slower, and no larger, than this
    if chosen == "linear" and not _without_data(b):
        return linear.transported(a, b, source, tolerance)
    return dense.transported(a, b, source) if chosen == "dense" else streamed.transported(a, b, source)


def _chosen(a: Tensor, b: Tensor, source: Tensor, tolerance: float) -> Solver:
    if a.numel() * b.shape[2] <= SMALL:
        return "dense"
    if a.is_cuda and a.dtype == torch.float32 and HAS_TRITON:
        return "triton"
    if min(a.shape[2], b.shape[2]) >= LONG and not _without_data(b) and linear.pays(a, b, source, tolerance):
        return "linear"
    return "streamed"


def _without_data(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) or torch.compiler.is_compiling()
