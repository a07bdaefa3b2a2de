"""Types of numbers: where half precision is too little (sums over many tokens, exponents), and of what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Storage = Literal["bfloat16", "float32", "float8_e4m3fn"]  # of the latent cache


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """The tensors in at least float32, and a block that autocast does not reach."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]
