"""Does a transport keep what its port promises?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from transporter_pl.testing.findings import Finding, expect, findings, reaches, rowwise, same
from transporter_pl.transport.base import PlanTransport, Source, Transport, new_transport

COUNT = 7  # tokens N
Make = Callable[[int], Transport]


def check_transport(name: str, options: Mapping[str, Any] | None = None, width: int = 16) -> list[Finding]:
    """Every promise of the ``Transport`` port, on random tokens of two clips.

    Args:
        name: Registered name or class path, as in a configuration of Φ.
        options: Its options, as there.
        width: Token width D.

    Raises:
        TransporterError: If the name is unknown, or an option not accepted.
    """

    def make(seed: int) -> Transport:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return new_transport(name, width, options or {})

    make(0)  # what a user can get wrong is raised, and no finding
    checks = [_reads, _transported, _plan, _one_token, _precision, _batch, _gradients, _weights, _folder]
    return findings(checks, make)


def _reads(make: Make) -> Iterator[str]:
    reads, known = make(0).reads, get_args(Source)
    if not (isinstance(reads, tuple) and reads and set(reads) <= {*known} and len({*reads}) == len(reads)):
        yield f"reads: {reads!r} is no tuple of some of {', '.join(known)}"


def _transported(make: Make) -> Iterator[str]:
    transport = make(0)
    yield from expect("z̃", transport(*_tokens(transport)), (2, COUNT, transport.width))


def _plan(make: Make) -> Iterator[str]:
    transport = make(0)
    tokens = _tokens(transport)
    plan = transport.plan(*tokens)
    if plan is None:
        return
    yield from expect("plan", plan, (2, COUNT, COUNT))
    gap = (plan.sum(1) - 1).abs().max().item()
    if gap > 1e-4 or plan.min() < 0:
        yield f"plan: columns are no weights; they sum to 1 up to {gap:.2e}, the least entry is {plan.min():.2e}"
    if isinstance(transport, PlanTransport):
        yield from same("z̃ and plan.mT @ first", transport(*tokens), plan.mT @ tokens[0])


def _one_token(make: Make) -> Iterator[str]:
    transport = make(0)
    yield from expect("z̃ of one token", transport(*_tokens(transport, count=1)), (2, 1, transport.width))


def _precision(make: Make) -> Iterator[str]:
    """What comes out is of the type that went in, and sums over tokens are exact."""
    transport = make(0)
    tokens = _tokens(transport)
    halved = [x.bfloat16() for x in tokens]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = transport(*tokens)
    yield from _of_type("z̃ under autocast", cast, torch.float32)
    yield from same("z̃ under autocast", cast, transport(*tokens))
    moved = transport(*halved)
    yield from _of_type("z̃ of bfloat16", moved, torch.bfloat16)
    yield from same("z̃ of bfloat16", moved, transport(*(x.float() for x in halved)))
    yield from _of_type("z̃ of bfloat16, with weights of bfloat16", transport.bfloat16()(*halved), torch.bfloat16)


def _batch(make: Make) -> Iterator[str]:
    transport = make(0)
    yield from rowwise("z̃", transport, *_tokens(transport))


def _gradients(make: Make) -> Iterator[str]:
    transport = make(0)
    tokens = _tokens(transport)
    for index, name in enumerate(transport.reads):

        def moved(value: Tensor, index: int = index) -> Tensor:
            return transport(*tokens[:index], value, *tokens[index + 1 :])  # type: ignore[no-any-return]

        yield from reaches(f"z̃ → {name}", moved, tokens[index], everywhere=False)


def _weights(make: Make) -> Iterator[str]:
    transport = make(0)
    moved = transport(*_tokens(transport))
    learned = {name: weight for name, weight in transport.named_parameters() if weight.requires_grad}
    if learned and moved.requires_grad:
        (moved * torch.linspace(-1, 1, moved.numel()).view_as(moved)).sum().backward()
    for name, weight in learned.items():
        if weight.grad is None or not weight.grad.any():
            yield f"weights: no gradient at {name}"


def _folder(make: Make) -> Iterator[str]:
    """A folder of Φ holds options and ``state_dict``; nothing else comes back."""
    transport, again = make(0), make(1)
    again.load_state_dict(transport.state_dict())
    tokens = _tokens(transport)
    yield from same("z̃ after save and load", again(*tokens), transport(*tokens))


def _tokens(transport: Transport, count: int = COUNT) -> list[Tensor]:
    """Standardised tokens of two clips for each that it reads."""
    draws = torch.Generator().manual_seed(2)
    return [torch.randn(2, count, transport.width, generator=draws) for _ in transport.reads]


def _of_type(what: str, value: Tensor, dtype: torch.dtype) -> Iterator[str]:
    if value.dtype != dtype:
        yield f"{what}: {value.dtype}, expected {dtype}"
