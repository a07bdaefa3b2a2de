"""Several latent caches as one data set."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from transporter_pl.datamodules.cache.key import first_difference
from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.datamodules.cache.places import mapped_files
from transporter_pl.datamodules.cache.reading import CachedClips
from transporter_pl.datamodules.cache.shards import Shard
from transporter_pl.errors import TransporterError


class JoinedCaches(CachedClips):
    """The clips of one cache after those of another, all encoded in the same way.

    Args:
        paths: Folders or URLs of the caches, at least one.
        like: A cache that they shall be like; the first of them by default.

    Attributes:
        caches: The caches.
        key: What made the first; only ``clips`` and ``uncaptioned`` may differ in the others'.
        shapes: Shapes of one clip's encodings.

    Raises:
        TransporterError: If a cache is not there or not finished, or was made in another way (names the field).
    """

    def __init__(self, paths: Sequence[str | Path], like: LatentCache | None = None) -> None:
        mapped = mapped_files()
        self.caches = [LatentCache(path, mapped) for path in paths]
        for cache in self.caches:
            _check_alike(like or self.caches[0], cache)
        super().__init__(self.caches[0].shapes)
        self.key = self.caches[0].key
        self._starts = [0, *itertools.accumulate(len(cache) for cache in self.caches)]

    def __len__(self) -> int:
        """Number of clips."""
        return self._starts[-1]

    def find(self, clips: Sequence[int]) -> list[tuple[Shard, int]]:
        """The shard of each clip, opened, and its row there; -1 is the last clip."""
        numbers = [range(len(self))[clip] for clip in clips]
        owners = [bisect.bisect_right(self._starts, number) - 1 for number in numbers]
        found: dict[int, Iterator[tuple[Shard, int]]] = {}
        for owner in set(owners):
            own = [number - self._starts[owner] for number, of in zip(numbers, owners, strict=True) if of == owner]
            found[owner] = iter(self.caches[owner].find(own))
        return [next(found[owner]) for owner in owners]


def _check_alike(first: LatentCache, other: LatentCache) -> None:
    """Refuse to mix caches that were made in different ways."""
    # other clips, and whether they had captions, are the reason to join caches
    differing = first_difference(first.key, replace(other.key, clips="", uncaptioned=""))
    if differing is not None:
        field, was, now = differing
        msg = f"path: {first.path!r} was made with {field} = {was!r}, {other.path!r} with {now!r}; "
        raise TransporterError(msg + "train on caches that were made alike")
