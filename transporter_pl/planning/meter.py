"""Memory and arithmetic of code that runs, with real tensors or with ones that have a shape and no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._subclasses.fake_tensor as fake
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

SMALL = 2**20  # elements of a tensor whose values are kept: grids, masks, times
# their scalar keeps the memory of all differences, which it is computed in; without data it does not
KEEPING = {torch.ops.aten.mse_loss.default}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that live at the same time, and floating-point operations.

    Counted is what operations return, once for each storage, until it is freed. What an operation uses inside and the
    allocator's own losses are not.

    Attributes:
        live: Bytes that live now.
        peak: The most that lived at once.
        flops: Operations of matrix products, convolutions and attention so far; a multiply-add is two.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary(ref_type=weakref.ref)

    def hold(self, *owners: nn.Module | Tensor) -> None:
        """Count what was there before: tensors, or modules with their weights and buffers."""
        for owner in owners:
            for tensor in [owner] if isinstance(owner, Tensor) else [*owner.parameters(), *owner.buffers()]:
                self._see(tensor)

    def restart(self) -> None:
        """Begin the peak and the operations anew, at what lives now."""
        self.peak, self.flops = self.live, 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run one operation and look at what it returns."""
        try:
            result = func(*args, **(kwargs or {}))
        except fake.DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default or args[0].dtype != torch.bool:
                raise
            return False  # whether iterations may end early depends on data: all of them have to fit
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        least = args[0].nbytes if func in KEEPING else 0
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._see(value, least)
        return result

    def _see(self, tensor: Tensor, least: int = 0) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            size = max(least, storage.nbytes())
            self._seen[storage] = size
            weakref.finalize(storage, self._free, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, size: int) -> None:
        self.live -= size


@contextmanager
def without_data() -> Iterator[None]:
    """Tensors made in the block have a shape, a type and no data; small ones made of numbers keep their values.

    Such values are what models ask for: how many patches a frame has, which rows are padding, which of two experts
    serves a t. The tensors stand on the CPU, whose fused attention keeps as little as the GPU's: backward passes of
    tensors that only pretend to be on a GPU need one. Nothing in the block may deep-copy a tensor; torch can't.
    """
    limit = fake.CONSTANT_NUMEL_LIMIT
    fake.CONSTANT_NUMEL_LIMIT = SMALL
    try:
        with fake.FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        fake.CONSTANT_NUMEL_LIMIT = limit
