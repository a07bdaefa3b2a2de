"""The order in which a training sees its clips: a pure function of the seed and the position, which nobody has to list.

So memory and start-up do not grow with the data set, a training goes on in the middle of an epoch without reading what
came before, and any number of processes shares one order.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler

from transporter_pl.errors import TransporterError
from transporter_pl.samples import Encoded

Numbers = NDArray[np.uint64]
ROUNDS = 8  # of the Feistel network; four are random enough for large halves, halves of one or two bits need more
AT_ONCE = 64  # batches whose clips are looked up together, as a look-up takes as long for one clip as for hundreds


def keys_of(name: str) -> Numbers:
    """``ROUNDS`` random numbers that a name stands for, whichever version of a library draws others."""
    return np.frombuffer(hashlib.blake2b(name.encode()).digest(), "<u8", ROUNDS).astype(np.uint64)


def mixed(x: Numbers, key: np.uint64) -> Numbers:
    """Random 64 bits of every number and a key: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = x ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random bijection of range(count).

    A balanced Feistel network permutes the numbers below the next power of four; what falls outside the range is
    permuted again until it falls inside ("cycle walking", Black and Rogaway 2002), four times at most on average.

    Args:
        count: Size of the range.
        name: What the permutation is drawn by.
    """

    count: int
    name: str

    def __call__(self, places: Numbers) -> Numbers:
        """What stands at some places."""
        keys = keys_of(self.name)
        out = self._permuted(places, keys)
        while (outside := out >= self.count).any():
            out[outside] = self._permuted(out[outside], keys)
        return out

    def _permuted(self, x: Numbers, keys: Numbers) -> Numbers:
        bits = max(1, (max(1, self.count - 1).bit_length() + 1) // 2)
        low = np.uint64(2**bits - 1)
        left, right = x >> np.uint64(bits), x & low
        for key in keys:
            left, right = right, left ^ (mixed(right, key) & low)
        return (left << np.uint64(bits)) | right


@dataclass(frozen=True)
class Selection:
    """Some clips of a data set.

    Attributes:
        places: Where they stand.
        order: In which order of the data set; ``None`` is its own.
    """

    places: range
    order: Permutation | None = None

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.places)

    def __call__(self, rows: Numbers) -> Numbers:
        """Numbers of some of the clips."""
        places = rows + np.uint64(self.places.start)
        return places if self.order is None else self.order(places)


class Batches(DistributedSampler[list[tuple[int, int]]]):
    """Batches of one process, as lists of (clip, draw); a draw chooses among a clip's captions.

    Batch k of an epoch takes the positions [k·G, (k + 1)·G) of the epoch's order, G = processes · batch_size, and every
    process its share of them, so that several processes do what one does with larger batches. Where the order is
    shuffled, the last step is filled up from the beginning, so that all steps weigh alike and none is left half done at
    the end of an epoch. Otherwise every clip comes once, with its first caption, and the last batch is divided as
    evenly as possible: a clip is repeated only for a process that would have none.

    A ``DistributedSampler`` for Lightning's sake, which puts its own in the place of any other. Epochs are counted
    here, as Lightning counts one too many after a checkpoint at the end of one.

    Args:
        clips: What is sampled.
        batch_size: Clips a batch.
        seed: Seed of the order and of the captions.
        shuffle: Whether every epoch has an order, and captions, of its own.
        accumulate: Batches a step.
        processes: Number of processes.
        rank: Which of them this is.

    Attributes:
        taken: Positions that all processes together have used, of all epochs; where the next pass begins.
    """

    def __init__(
        self,
        clips: Selection,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        accumulate: int = 1,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(clips, processes, rank, shuffle, seed)  # type: ignore[arg-type]
        self.clips, self.batch_size, self.together = clips, batch_size, processes * batch_size
        self.accumulate, self.taken = accumulate if shuffle else 1, 0

    def __len__(self) -> int:
        """Batches an epoch, of each process."""
        return -(-len(self.clips) // (self.together * self.accumulate)) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """As many batches as an epoch has."""
        at = self.taken // self.together
        end = at + len(self)
        while at < end:
            epoch, number = divmod(at, len(self))
            numbers = range(number, min(number + AT_ONCE, len(self), number + end - at))
            yield from self.batches(epoch, numbers)
            at += len(numbers)

    def batches(self, epoch: int, numbers: range) -> list[list[tuple[int, int]]]:
        """What this process takes as some batches of an epoch."""
        positions = [self._positions(number) for number in numbers]
        items = self._items(epoch, np.concatenate(positions))
        ends = itertools.accumulate(map(len, positions))
        return [items[end - len(own) : end] for own, end in zip(positions, ends, strict=True)]

    def state_dict(self) -> dict[str, int]:
        """Where the training stands, and in which order; the same in all processes."""
        epoch, taken = divmod(self.taken, len(self) * self.together)
        state = {"seed": self.seed, "epoch": epoch, "taken": taken, "clips": len(self.clips)}
        return {**state, "batch_size": self.batch_size, "processes": self.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a training stood.

        Raises:
            TransporterError: If it stood in the middle of an epoch, and no batch of this size ends there, or the data
                set has another size.
        """
        taken, was = state["taken"], f"{state['batch_size']} on {state['processes']} process(es)"
        if taken and state["clips"] != len(self.clips):
            msg = f"path: the checkpoint stands in the middle of {state['clips']} training clips, not {len(self.clips)}"
            raise TransporterError(msg + "; give the caches that it was trained on")
        if taken % self.together:
            msg = f"batch_size: {self.batch_size} on {self.num_replicas} process(es), but the checkpoint stands after "
            msg += f"{taken} clips of its epoch, in batches of {was}; take those, or what divides {taken} together"
            raise TransporterError(msg)
        self.seed, self.taken = state["seed"], state["epoch"] * len(self) * self.together + taken

    def _items(self, epoch: int, positions: Numbers) -> list[tuple[int, int]]:
        if not self.shuffle:
            return [(clip, 0) for clip in self.clips(positions).tolist()]
        chosen = self.clips(Permutation(len(self.clips), f"clips-{self.seed}-{epoch}")(positions))
        draws = mixed(chosen, keys_of(f"captions-{self.seed}-{epoch}")[0]) >> np.uint64(1)
        return list(zip(chosen.tolist(), draws.tolist(), strict=True))

    def _positions(self, number: int) -> Numbers:
        """Positions of the epoch's order."""
        first, count = number * self.together, len(self.clips)
        size = self.together if self.shuffle else min(self.together, count - first)
        start, stop = (first + size * rank // self.num_replicas for rank in (self.rank, self.rank + 1))
        if start == stop:
            start, stop = first + self.rank % size, first + self.rank % size + 1
        return np.arange(start, stop, dtype=np.uint64) % np.uint64(count)


class ThreadedLoader(DataLoader[Encoded]):
    """A loader of whole batches whose workers are threads of this process.

    Reading a cache is copying, in which threads don't wait for each other; what processes read is copied once more.
    """

    def __iter__(self) -> Iterator[Encoded]:  # type: ignore[override]
        """Batches in the sampler's order; each worker is at most two ahead."""
        if not self.num_workers:
            yield from map(self.dataset.__getitem__, self.sampler)
            return
        pool, waiting = ThreadPoolExecutor(self.num_workers), deque[Future[Encoded]]()
        try:
            for items in self.sampler:
                waiting.append(pool.submit(self.dataset.__getitem__, items))
                if len(waiting) > 2 * self.num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class ResumableLoader(ThreadedLoader):
    """A loader of ``Batches`` that knows how many were taken; those that workers have read ahead do not count."""

    def __iter__(self) -> Iterator[Encoded]:  # type: ignore[override]
        """As many batches as an epoch has, from where the last pass was left."""
        order = cast(Batches, self.sampler)
        for batch in super().__iter__():
            order.taken += order.together
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the training stands."""
        return cast(Batches, self.sampler).state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on there, without reading what came before.

        Raises:
            TransporterError: As ``Batches`` says.
        """
        cast(Batches, self.sampler).load_state_dict(state_dict)
