"""How clips that lie in shards become batches, of one cache or several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from transporter_pl.datamodules.cache.memory import Memory
from transporter_pl.datamodules.cache.places import read
from transporter_pl.datamodules.cache.shards import TENSORS, Shard
from transporter_pl.datamodules.cache.storage import Stored, restore
from transporter_pl.samples import Encoded, Shapes

# a clip's number; and a number that chooses among its captions, 0 if left out
Item = int | tuple[int, int]


class CachedClips(Dataset[Encoded]):
    """Clips whose encodings lie in shards; a batch is put together once, wherever its clips lie.

    Args:
        shapes: Shapes of one clip's encodings.

    Attributes:
        shapes: The same.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes, self._memory = shapes, Memory()

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips."""

    @abstractmethod
    def find(self, clips: Sequence[int]) -> list[tuple[Shard, int]]:
        """The shard of each clip, opened, and its row there.

        Raises:
            TransporterError: If a shard is missing or damaged.
        """

    def __getitem__(self, items: Item | Sequence[Item]) -> Encoded:
        """The batch of these clips, of one clip for a single item."""
        asked = [items] if isinstance(items, int | tuple) else items
        drawn = [item if isinstance(item, tuple) else (item, 0) for item in asked]
        found = zip(self.find([clip for clip, _ in drawn]), drawn, strict=True)
        rows = [(shard, row, draw % len(shard.records.captions(row))) for (shard, row), (_, draw) in found]
        records = [(shard.records[row], caption) for shard, row, caption in rows]
        tensors = dict(zip(TENSORS, self._read(TENSORS, rows), strict=True))
        return Encoded(tuple(r.id for r, _ in records), tuple(r.captions[c] for r, c in records), **tensors)

    def tensor(self, name: str, clips: Sequence[int]) -> Tensor:
        """One of ``TENSORS`` for some clips, (len(clips), ...); the condition is that of the first caption."""
        (found,) = self._read((name,), [(shard, row, 0) for shard, row in self.find(clips)])
        return found

    def names(self, clip: int) -> tuple[str, tuple[str, ...]]:
        """A clip's id and captions."""
        ((shard, row),) = self.find([clip])
        record = shard.records[row]
        return record.id, record.captions

    def _read(self, names: Sequence[str], rows: Sequence[tuple[Shard, int, int]]) -> list[Tensor]:
        """Tensors of (shard, row, caption), all asked for at once."""
        spans = [[(shard.place, shard.spans(name, row, caption)) for shard, row, caption in rows] for name in names]
        views = iter(read([(place, span) for column in spans for place, parts in column for span in parts]))
        columns = [[[next(views) for _ in parts] for _, parts in column] for column in spans]
        return [self._tensor(name, rows[0][0].dtype(name), column) for name, column in zip(names, columns, strict=True)]

    def _tensor(self, name: str, dtype: torch.dtype, views: list[list[memoryview]]) -> Tensor:
        shape = self.shapes.tokens if name == "reencoded" else getattr(self.shapes, name)
        values, scales = [parts[0] for parts in views], [parts[1] for parts in views if len(parts) > 1]
        if not scales:
            return self._memory.assembled(values, dtype, shape)
        return self._memory.looked_up(values, _tables(self._memory.assembled(scales, torch.float32, ())), shape)


def _tables(scale: Tensor) -> Tensor:
    """What each of float8's 256 values stands for, (B, 256); a look-up takes a quarter of the time of computing it."""
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    return restore(Stored(values.expand(len(scale), 256), scale))
