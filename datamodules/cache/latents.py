"""The latent cache as a data set."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

from transporter_pl.datamodules.cache.index import read_index
from transporter_pl.datamodules.cache.key import read_manifest
from transporter_pl.datamodules.cache.places import Place, Recent
from transporter_pl.datamodules.cache.reading import CachedClips
from transporter_pl.datamodules.cache.shards import Shard, shard_name
from transporter_pl.errors import TransporterError

HEADERS = 128 * 2**20  # bytes of shards' headers that are kept


class LatentCache(CachedClips):
    """What ``transporter encode`` wrote, clip by clip; opened in the same time whatever its size.

    Numbers come in the type that they are stored in, float8 as bfloat16.

    Args:
        path: Folder of the cache, or a URL that fsspec knows.
        mapped: Files that are mapped, where several caches share the number of those that may be.

    Attributes:
        path: The same, as text.
        key: What made the cache.
        shapes: Shapes of one clip's encodings.

    Raises:
        TransporterError: If there is no cache or it is not finished; while it is read, if a shard is damaged.
    """

    def __init__(self, path: str | Path, mapped: Recent[str, mmap.mmap] | None = None) -> None:
        self.place, self.path = Place(path, mapped), str(path)
        manifest, index = read_manifest(self.place), read_index(self.place)
        if manifest is None or index is None:
            state = "no latent cache" if manifest is None else "an unfinished latent cache"
            msg = f"path: {state} in {self.path!r}; run `transporter encode --out {self.path}` first"
            raise TransporterError(msg)
        super().__init__(manifest.shapes)
        self.key, self._index, self._shards = manifest.key, index, Recent[int, Shard](HEADERS)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._index)

    def find(self, clips: Sequence[int]) -> list[tuple[Shard, int]]:
        """The shard of each clip, opened, and its row there; -1 is the last clip."""
        found = [self._index.find(range(len(self))[clip]) for clip in clips]
        shards = {number: self._shards.get(number) for number, _ in found}
        unknown = [number for number, shard in shards.items() if shard is None]
        opened = self._opened(unknown) if unknown else {}
        return [(shards[number] or opened[number], row) for number, row in found]

    def _opened(self, numbers: Sequence[int]) -> dict[int, Shard]:
        """Some shards, whose headers are asked for at once."""
        opened = {}
        for number, header in zip(numbers, self._headers(numbers), strict=True):
            digest = self._index.digests[number].numpy().tobytes()
            opened[number] = Shard(self.place, number, header, digest)
            self._shards.keep(number, opened[number], opened[number].header)
        return opened

    def _headers(self, numbers: Sequence[int]) -> Sequence[bytes | None]:
        spans = [(shard_name(number), 8, 8 + int(self._index.headers[number])) for number in numbers]
        try:
            return [bytes(view) for view in self.place.read(spans)]
        except OSError:
            return [None] * len(numbers)  # each shard reads its own, so that the one that is not there is named
