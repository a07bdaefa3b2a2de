"""Hyperparameters as checkpoints hold them: plain data, which loads with ``weights_only=True``."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import TypeVar, cast

T = TypeVar("T")


def plain(value: object) -> object:
    """Dataclasses as dictionaries of their fields, also inside lists; anything else as it is."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def built(kind: type[T], value: object) -> T:
    """The inverse of ``plain``: a dataclass from itself, or from its fields."""
    return value if isinstance(value, kind) else kind(**cast("dict[str, object]", value))
