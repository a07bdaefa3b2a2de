"""The latent cache as a data set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from transporter_pl.datamodules.cache.index import read_index
from transporter_pl.datamodules.cache.key import read_manifest
from transporter_pl.datamodules.cache.memory import Memory
from transporter_pl.datamodules.cache.places import Place, keep_last
from transporter_pl.datamodules.cache.shards import TENSORS, Shard
from transporter_pl.datamodules.cache.storage import Stored, restore
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Encoded

# a clip's number; and a number that chooses among its captions, 0 if left out
Item = int | tuple[int, int]


class LatentCache(Dataset[Encoded]):
    """What ``transporter encode`` wrote, clip by clip; opened in the same time whatever its size.

    Numbers come in the type that they are stored in, float8 as bfloat16.

    Args:
        path: Folder of the cache, or a URL that fsspec knows.

    Attributes:
        path: The same, as text.
        key: What made the cache.
        shapes: Shapes of one clip's encodings.

    Raises:
        TransporterError: If there is no cache or it is not finished; while it is read, if a shard is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.place, self.path = Place(path), str(path)
        manifest, index = read_manifest(self.place), read_index(self.place)
        if manifest is None or index is None:
            state = "no latent cache" if manifest is None else "an unfinished latent cache"
            msg = f"path: {state} in {self.path!r}; run `transporter encode --out {self.path}` first"
            raise TransporterError(msg)
        self.key, self.shapes, self._index = manifest.key, manifest.shapes, index
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._memory = Memory()

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._index)

    def __getitem__(self, items: Item | Sequence[Item]) -> Encoded:
        """The batch of these clips, of one clip for a single item."""
        asked = [items] if isinstance(items, int | tuple) else list(items)
        drawn = [item if isinstance(item, tuple) else (item, 0) for item in asked]
        found = [(*self._find(clip), draw) for clip, draw in drawn]
        rows = [(shard, row, draw % len(shard.records[row].captions)) for shard, row, draw in found]
        records = [(shard.records[row], caption) for shard, row, caption in rows]
        tensors = dict(zip(TENSORS, self._read(TENSORS, rows), strict=True))
        return Encoded(tuple(r.id for r, _ in records), tuple(r.captions[c] for r, c in records), **tensors)

    def tensor(self, name: str, clips: Sequence[int]) -> Tensor:
        """One of ``TENSORS`` for some clips, (len(clips), ...); the condition is that of the first caption."""
        (found,) = self._read((name,), [(*self._find(clip), 0) for clip in clips])
        return found

    def names(self, clip: int) -> tuple[str, tuple[str, ...]]:
        """A clip's id and captions."""
        shard, row = self._find(clip)
        return shard.records[row].id, shard.records[row].captions

    def _find(self, clip: int) -> tuple[Shard, int]:
        number, row = self._index.find(range(len(self))[clip])  # -1 is the last
        shard = self._shards.get(number)
        if shard is None:
            header, digest = int(self._index.headers[number]), self._index.digests[number].numpy().tobytes()
            shard = Shard(self.place, number, header, digest)
        keep_last(self._shards, number, shard)
        return shard, row

    def _read(self, names: Sequence[str], rows: Sequence[tuple[Shard, int, int]]) -> list[Tensor]:
        """Tensors of (shard, row, caption), all asked for at once."""
        spans = [[shard.spans(name, row, caption) for shard, row, caption in rows] for name in names]
        flat = [span for column in spans for parts in column for span in parts]
        try:
            read = iter(self.place.read(flat))
        except OSError as error:
            msg = (
                f"path: {self.path!r} can't be read ({error}); see that it is there, and `transporter cache verify` it"
            )
            raise TransporterError(msg) from error
        views = [[[next(read) for _ in parts] for parts in column] for column in spans]
        return [self._tensor(name, rows[0][0].dtype(name), column) for name, column in zip(names, views, strict=True)]

    def _tensor(self, name: str, dtype: torch.dtype, views: list[list[memoryview]]) -> Tensor:
        shape = self.shapes.tokens if name == "reencoded" else getattr(self.shapes, name)
        scales = [parts[1] for parts in views if len(parts) > 1]
        scale = self._memory.assembled(scales, torch.float32, ()) if scales else None
        return restore(Stored(self._memory.assembled([parts[0] for parts in views], dtype, shape), scale))

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, which every worker opens for itself."""
        return {**self.__dict__, "_shards": OrderedDict()}
