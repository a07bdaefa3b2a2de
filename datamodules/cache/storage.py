"""In which type a cache stores numbers, and what that costs in accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.precision import Storage

LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448


@dataclass(frozen=True)
class Stored:
    """A tensor of a batch of clips as it is stored.

    Attributes:
        values: In the type of the storage, (B, ...).
        scale: What float8 values are multiplied by, (B,), float32; ``None`` for other types.
    """

    values: Tensor
    scale: Tensor | None = None


def check_storage(storage: str) -> None:
    """Refuse a type that a cache can't be stored in.

    Raises:
        TransporterError: If so (lists the types).
    """
    if storage not in get_args(Storage):
        msg = f"storage: {storage!r} is unknown; choose {', '.join(get_args(Storage))}"
        raise TransporterError(msg)


def store(x: Tensor, storage: str) -> Stored:
    """Clips x (B, ...) in the type of the storage.

    float8 (4 bits of exponent, 3 of mantissa) gets a scale for each clip, so that its largest value is the type's.
    """
    kind: torch.dtype = getattr(torch, storage)
    if kind != torch.float8_e4m3fn:
        return Stored(x.to(kind))
    largest = x.float().abs().flatten(1).amax(1) if x[0:1].numel() else x.new_zeros(len(x)).float()
    scale = (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)  # 0 / 0 would not be 0
    return Stored((x.float() / _spread(scale, x)).clamp(-LARGEST, LARGEST).to(kind), scale)


def restore(stored: Stored) -> Tensor:
    """The inverse of ``store``; float8 comes back as bfloat16."""
    if stored.scale is None:
        return stored.values
    return (stored.values.float() * _spread(stored.scale, stored.values)).bfloat16()


def squared_error(x: Tensor, stored: Stored) -> tuple[float, float]:
    """Σ (x − x̂)² and Σ x², whose ratio's root is the relative error of what is stored."""
    sums = torch.zeros(2, dtype=torch.float64, device=x.device)
    for exact, kept in zip(x, restore(stored), strict=True):  # one at a time, as doubles of a batch are large
        exact = exact.double()
        sums += torch.stack([(exact - kept.double()).square().sum(), exact.square().sum()])
    error, total = sums.tolist()
    return error, total


def _spread(scale: Tensor, x: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (x.ndim - 1))
