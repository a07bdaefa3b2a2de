"""How many parameters a model has, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

MOST = 0.9  # of a model: a part as large as this is shown as its own parts
DEPTH = 3


@dataclass(frozen=True)
class Size:
    """The weights of one part of a model.

    Attributes:
        name: Model and part: "vlm.language_model".
        parameters: Their number; weights that parts share count in the first of them.
        bytes: What they take in their type.
    """

    name: str
    parameters: int
    bytes: int


def sizes_of(name: str, model: nn.Module) -> list[Size]:
    """The parts of a model, the largest taken apart where it is nearly all there is."""
    seen: set[int] = set()
    found = [_size(part, module, seen) for part, module in _parts(name, model, DEPTH)]
    return [size for size in found if size.parameters]


def _parts(name: str, model: nn.Module, depth: int) -> Iterator[tuple[str, nn.Module]]:
    whole = _count(model)
    children = [(child, module) for child, module in model.named_children() if _count(module)]
    own = sum(_count(module) for _, module in children)
    if depth == 0 or own < whole or isinstance(model, nn.ModuleList | nn.Sequential):
        yield name, model  # some parameters are in none of its parts
        return
    for child, module in children:
        if _count(module) > MOST * whole:
            yield from _parts(name if len(children) == 1 else f"{name}.{child}", module, depth - 1)
        else:
            yield f"{name}.{child}", module


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _size(name: str, module: nn.Module, seen: set[int]) -> Size:
    mine = [p for p in module.parameters() if id(p) not in seen]
    seen.update(map(id, mine))
    return Size(name, sum(p.numel() for p in mine), sum(p.numel() * p.element_size() for p in mine))
