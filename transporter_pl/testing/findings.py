"""What the contract suites are made of: checks that say what is wrong, a message each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """One broken promise.

    Attributes:
        name: The check that found it.
        message: What was expected and what came.
    """

    name: str
    message: str


def findings(checks: list[Callable[..., Iterator[str]]], plugin: object) -> list[Finding]:
    """What the checks say about a plug-in."""
    found = []
    for check in checks:
        name = check.__name__.strip("_")
        try:
            found += [Finding(name, message) for message in check(plugin)]
        except Exception as error:  # whatever a plug-in raises is a finding
            found.append(Finding(name, f"raised {type(error).__name__}: {error}"))
    return found


def expect(what: str, value: Tensor, shape: tuple[int, ...]) -> Iterator[str]:
    """Of this shape, and finite."""
    if tuple(value.shape) != shape:
        yield f"{what}: shape {tuple(value.shape)}, expected {shape}"
    if not value.isfinite().all():
        yield f"{what}: not all finite"


def reaches(
    what: str, function: Callable[[Tensor], Tensor], value: Tensor, *, everywhere: bool = True
) -> Iterator[str]:
    """Gradients arrive at every row (frame, channel or token), or at least somewhere (padded text may be masked)."""
    value = value.detach().requires_grad_()
    output = function(value).float()
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(4)).to(output.device)
    (gradient,) = torch.autograd.grad((output * weight).sum(), value) if output.requires_grad else (None,)
    if gradient is None or not gradient.isfinite().all():
        yield f"{what}: no finite gradient"
        return
    silent = (gradient == 0).flatten(2).all(-1)
    if silent.all() or (everywhere and silent.any()):
        first = silent.nonzero()[0].tolist()
        yield f"{what}: no gradient at {int(silent.sum())} of {silent.numel()} rows, the first at {first}"


def rowwise(what: str, function: Callable[..., Tensor], *values: Tensor) -> Iterator[str]:
    """Every clip as if it were alone, and the same when asked again."""
    together = function(*values)
    yield from same(f"{what}: twice the same input", function(*values), together)
    alone = torch.cat([function(*(v[None] for v in row)) for row in zip(*values, strict=True)])
    yield from same(f"{what}: a clip in a batch and alone", together, alone)


def same(what: str, value: Tensor, expected: Tensor) -> Iterator[str]:
    """Equal but for rounding."""
    if value.shape != expected.shape or not close(value, expected):
        gap = (value - expected).abs().max().item() if value.shape == expected.shape else float("nan")
        yield f"{what}: differ by {gap:.2e}"


def close(value: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal but for rounding: that of half precision, where either has it."""
    half = torch.bfloat16 in (value.dtype, expected.dtype) or torch.float16 in (value.dtype, expected.dtype)
    scale = expected.float().std().item() + 1e-12
    return torch.allclose(value.float(), expected.float(), rtol=0, atol=(3e-2 if half else 1e-4) * scale)
