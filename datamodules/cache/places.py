"""Where a cache lies: a folder, whose files are mapped into memory, or a bucket, whose files are read in ranges."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import fsspec

from transporter_pl.errors import TransporterError

MAPPED = 256  # files that are mapped at once; a process may have 1024 open

Span = tuple[str, int, int]  # a file, and the first and the last byte but one

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was used last, as much as a limit allows; several threads may use it, and every process has its own.

    Args:
        limit: Weight of all together; the last one is kept whatever it weighs.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._weight = limit, 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def get(self, name: K) -> V | None:
        """What is kept under a name, if anything is."""
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                return None
            self._kept.move_to_end(name)
            return found[0]

    def keep(self, name: K, value: V, weight: int = 1) -> None:
        """Keep something, in the place of what was used longest ago."""
        with self._lock:
            if name in self._kept:
                self._weight -= self._kept.pop(name)[1]
            self._kept[name] = value, weight
            self._weight += weight
            while self._weight > self._limit and len(self._kept) > 1:
                self._weight -= self._kept.popitem(last=False)[1][1]

    def __reduce__(self) -> tuple[type[Recent[K, V]], tuple[int]]:
        """Empty."""
        return Recent, (self._limit,)


def mapped_files() -> Recent[str, mmap.mmap]:
    """No files yet; of too many, those that were used longest ago are closed once nobody looks at them."""
    return Recent(MAPPED)


class Place:
    """A folder, or any URL that fsspec knows, such as ``s3://bucket/cache`` (with ``pip install s3fs``).

    Args:
        path: The folder or the URL.
        mapped: Files that are mapped, where several places share the number of those that may be.

    Raises:
        TransporterError: If the URL's kind is not known, or the package that reads it is not installed.
    """

    def __init__(self, path: str | Path, mapped: Recent[str, mmap.mmap] | None = None) -> None:
        self.path = str(path)
        self.remote = "://" in self.path
        self._mapped = mapped_files() if mapped is None else mapped
        self._system: Any = None
        if self.remote:
            self._connect()

    def __str__(self) -> str:
        return self.path

    def __getstate__(self) -> dict[str, Any]:
        """Without a connection, which every process makes for itself."""
        return {**self.__dict__, "_system": None}

    def text(self, name: str) -> str | None:
        """A whole text file; ``None`` if there is none."""
        found = self.whole(name)
        return None if found is None else found.decode("utf-8", "replace")

    def whole(self, name: str) -> bytes | None:
        """A whole file; ``None`` if there is none."""
        try:
            if self.remote:
                return bytes(self._connect().cat_file(self._url(name)))
            return Path(self.path, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: If there is none.
        """
        if self.remote:
            return int(self._connect().size(self._url(name)))
        return Path(self.path, name).stat().st_size

    def read(self, spans: Sequence[Span]) -> list[memoryview]:
        """Parts of files; those of a bucket are asked for at once.

        Raises:
            OSError: If a file can't be read, or ends too early.
        """
        if not self.remote:
            return [self._view(*span) for span in spans]
        asked = [span for span in spans if span[1] < span[2]]  # systems differ in what an empty range is
        urls, starts, stops = [self._url(file) for file, _, _ in asked], *([s[part] for s in asked] for part in (1, 2))
        found = iter(self._connect().cat_ranges(urls, starts, stops, on_error="raise"))
        views = [memoryview(next(found) if start < stop else b"") for _, start, stop in spans]
        for view, (file, start, stop) in zip(views, spans, strict=True):
            _check_whole(file, len(view), stop - start)
        return views

    def _view(self, file: str, start: int, stop: int) -> memoryview:
        mapped = self._map(file)
        _check_whole(file, len(mapped), stop)
        if hasattr(mmap, "MADV_WILLNEED") and stop > start:  # a disk then reads the span in one go, not by pages
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, stop - page)
        return memoryview(mapped)[start:stop]

    def _map(self, file: str) -> mmap.mmap:
        path = self._url(file)
        mapped = self._mapped.get(path)
        if mapped is None:
            with Path(path).open("rb") as opened:
                _check_whole(file, os.fstat(opened.fileno()).st_size, 1)  # what is empty can't be mapped
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._mapped.keep(path, mapped)
        return mapped

    def _url(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def _connect(self) -> Any:  # noqa: ANN401  (fsspec has no types)
        if self._system is None:
            try:
                self._system, _ = fsspec.core.url_to_fs(self.path)
            except (ImportError, ValueError) as error:
                msg = f"path: {self.path!r} can't be read ({error}); install what reads such URLs, or give a folder"
                raise TransporterError(msg) from error
        return self._system


def read(asked: Sequence[tuple[Place, Span]]) -> list[memoryview]:
    """Parts of files in several places, each of which is asked once.

    Raises:
        TransporterError: If a file can't be read, or ends too early.
    """
    found = [memoryview(b"")] * len(asked)
    for place in dict.fromkeys(place for place, _ in asked):
        numbers = [number for number, (where, _) in enumerate(asked) if where is place]
        try:
            views = place.read([asked[number][1] for number in numbers])
        except OSError as error:
            msg = (
                f"path: {place.path!r} can't be read ({error}); see that it is there, and `transporter cache verify` it"
            )
            raise TransporterError(msg) from error
        for number, view in zip(numbers, views, strict=True):
            found[number] = view
    return found


def _check_whole(file: str, size: int, least: int) -> None:
    if size < least:
        msg = f"{file} is cut short"
        raise OSError(msg)
