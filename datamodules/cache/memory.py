"""Memory of batches, which is used again: the first touch of a new page takes longer than reading what goes there."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 32  # arrays, four a batch


class Memory:
    """Puts tensors together in memory that no tensor holds any more; there is as much as was ever held at a time."""

    def __init__(self) -> None:
        # arrays, and of each the view that was given away last, which torch holds as long as a tensor lives on it
        self._arrays: deque[NDArray[np.uint8]] = deque(maxlen=KEPT)
        self._views: deque[weakref.ref[Any]] = deque(maxlen=KEPT)
        self._lock = Lock()

    def assembled(self, views: Sequence[memoryview], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Rows of bytes → (rows, *shape); what a row does not fill is zero."""
        out = self._take(len(views), int(torch.Size(shape).numel()) * dtype.itemsize)
        for row, view in zip(out, views, strict=True):
            row[: len(view)] = view
            row[len(view) :] = 0
        return torch.from_numpy(out).view(dtype).view(len(views), *shape)

    def _take(self, rows: int, size: int) -> NDArray[np.uint8]:
        with self._lock:
            known = enumerate(zip(self._arrays, self._views, strict=True))
            free = (number for number, (array, view) in known if array.shape == (rows, size) and view() is None)
            number = next(free, None)
            if number is None:
                number = -1
                self._arrays.append(np.empty((rows, size), np.uint8))  # NumPy asks for huge pages, torch does not
                self._views.append(weakref.ref(self._arrays[-1]))
            given = self._arrays[number][:]
            self._views[number] = weakref.ref(given)
            return given

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        """Empty, as every process has its own."""
        return Memory, ()
