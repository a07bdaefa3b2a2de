"""Several latent caches as one data set."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from transporter_pl.datamodules.cache.key import first_difference
from transporter_pl.datamodules.cache.latents import Item, LatentCache
from transporter_pl.datamodules.cache.shards import TENSORS
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Encoded


class JoinedCaches(Dataset[Encoded]):
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
        self.caches = [LatentCache(path) for path in paths]
        for cache in self.caches:
            _check_alike(like or self.caches[0], cache)
        self.key, self.shapes = self.caches[0].key, self.caches[0].shapes
        self._starts = [0, *itertools.accumulate(len(cache) for cache in self.caches)]

    def __len__(self) -> int:
        """Number of clips."""
        return self._starts[-1]

    def __getitem__(self, items: Item | Sequence[Item]) -> Encoded:
        """The batch of these clips, of one clip for a single item; see ``LatentCache``."""
        asked = [items] if isinstance(items, int | tuple) else items
        drawn = [item if isinstance(item, tuple) else (item, 0) for item in asked]
        parts = {}
        for cache, rows, clips in self._by_cache([clip for clip, _ in drawn]):
            draws = [drawn[row][1] for row in rows]
            parts[rows] = self.caches[cache][list(zip(clips, draws, strict=True))]
        return _batch(parts)

    def tensor(self, name: str, clips: Sequence[int]) -> Tensor:
        """One of ``TENSORS`` for some clips, (len(clips), ...); the condition is that of the first caption."""
        return _put({rows: self.caches[cache].tensor(name, own) for cache, rows, own in self._by_cache(clips)})

    def names(self, clip: int) -> tuple[str, tuple[str, ...]]:
        """A clip's id and captions."""
        cache, own = self._find(clip)
        return self.caches[cache].names(own)

    def _find(self, clip: int) -> tuple[int, int]:
        """The cache that holds a clip, and the clip's number there."""
        number = range(len(self))[clip]  # -1 is the last
        cache = bisect.bisect_right(self._starts, number) - 1
        return cache, number - self._starts[cache]

    def _by_cache(self, clips: Sequence[int]) -> list[tuple[int, tuple[int, ...], list[int]]]:
        """For every cache that some clips come from, their places among those asked for, and their numbers in it."""
        found = [self._find(clip) for clip in clips]
        caches = sorted({cache for cache, _ in found})
        places = {cache: tuple(row for row, (own, _) in enumerate(found) if own == cache) for cache in caches}
        return [(cache, rows, [found[row][1] for row in rows]) for cache, rows in places.items()]


def _batch(parts: dict[tuple[int, ...], Encoded]) -> Encoded:
    """One batch of parts, each of which fills some of its rows."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    named = [name for rows, part in parts.items() for name in zip(rows, part.ids, part.captions, strict=True)]
    _, ids, captions = zip(*sorted(named), strict=True)
    return Encoded(ids, captions, **{n: _put({rows: getattr(p, n) for rows, p in parts.items()}) for n in TENSORS})


def _put(parts: dict[tuple[int, ...], Tensor]) -> Tensor:
    """One tensor of parts, each of which fills some of its rows."""
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return first
    out = first.new_empty(sum(map(len, parts)), *first.shape[1:])
    for rows, part in parts.items():
        out[list(rows)] = part
    return out


def _check_alike(first: LatentCache, other: LatentCache) -> None:
    """Refuse to mix caches that were made in different ways."""
    # other clips, and whether they had captions, are the reason to join caches
    differing = first_difference(first.key, replace(other.key, clips="", uncaptioned=""))
    if differing is not None:
        field, was, now = differing
        msg = f"path: {first.path!r} was made with {field} = {was!r}, {other.path!r} with {now!r}; "
        raise TransporterError(msg + "train on caches that were made alike")
