"""Models of the real architecture and size whose weights are drawn, not read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import initialization


@contextmanager
def random_weights(dtype: torch.dtype) -> Iterator[None]:
    """Models built in the block have weights of a type from the start, the same ones every time.

    They are drawn as each architecture itself starts a training, so values are small and activations finite, and where
    ``with torch.device(...)`` says, so that no copy in another type or place is ever made.

    Args:
        dtype: The weights' type.
    """
    before, truncated = torch.get_default_dtype(), initialization.trunc_normal_
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        initialization.trunc_normal_ = _normal
        try:
            yield
        finally:
            initialization.trunc_normal_ = truncated
            torch.set_default_dtype(before)


def _normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, **_: object) -> Tensor:
    """Without truncation, which draws again until all values suit: slow, and impossible for tensors without data."""
    drawn: Tensor = initialization.normal_(tensor, mean, std)
    return drawn
