"""Memory of batches, which is used again: the first touch of a new page takes longer than reading what goes there."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 32  # arrays that nobody holds, some eight batches
CHUNK = 2**14  # bytes that are looked up at a time, for which NumPy makes eight times as many of its own


@dataclass
class Block:
    """An array, and the view of it that was given away last, which torch holds as long as a tensor lives on it."""

    array: NDArray[np.uint8]
    view: weakref.ref[Any]


class Memory:
    """Puts tensors together in memory that no tensor holds any more.

    Of every size of a row, there are at most as many arrays as were ever held at a time, whatever the numbers of rows;
    and at most ``KEPT`` arrays that nobody holds.
    """

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._lock = Lock()

    def assembled(self, views: Sequence[memoryview], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Rows of bytes → (rows, *shape); what a row does not fill is zero."""
        out = self._take(len(views), int(torch.Size(shape).numel()) * dtype.itemsize)
        for row, view in zip(out, views, strict=True):
            row[: len(view)] = view
            row[len(view) :] = 0
        return torch.from_numpy(out).view(dtype).view(len(views), *shape)

    def looked_up(self, views: Sequence[memoryview], tables: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Rows of bytes → (rows, *shape): what they stand for in the bfloat16 tables (rows, 256); the rest is zero."""
        out = self._take(len(views), int(torch.Size(shape).numel()) * tables.itemsize)
        numbers = out.view(np.int16)
        for row, view, table in zip(numbers, views, tables.view(torch.int16).numpy(), strict=True):
            for at in range(0, len(view), CHUNK):
                part = np.asarray(view[at : at + CHUNK])
                np.take(table, part, out=row[at : at + len(part)], mode="clip")  # other modes put it together twice
            row[len(view) :] = 0
        return torch.from_numpy(out).view(tables.dtype).view(len(views), *shape)

    def _take(self, rows: int, size: int) -> NDArray[np.uint8]:
        with self._lock:
            free = [block for block in self._blocks if block.view() is None]
            alike = [block for block in free if block.array.shape[1] == size]
            block = min((b for b in alike if len(b.array) >= rows), key=lambda b: len(b.array), default=None)
            dropped = free[:-KEPT]
            if block is None:  # all that are free have too few rows
                array = np.empty((rows, size), np.uint8)  # NumPy asks for huge pages, torch does not
                block, dropped = Block(array, weakref.ref(array)), dropped + alike
                self._blocks.append(block)
            given = block.array[:rows]
            block.view = weakref.ref(given)
            gone = set(map(id, dropped)) - {id(block)}
            self._blocks = [block for block in self._blocks if id(block) not in gone]
            return given

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        """Empty, as every process has its own."""
        return Memory, ()
