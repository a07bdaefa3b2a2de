"""Where a cache lies: a folder, whose files are mapped into memory, or a bucket, whose files are read in ranges."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import fsspec

from transporter_pl.errors import TransporterError

MAPPED = 64  # files that are mapped at once; a process may have 1024 open

_KEEPING = Lock()

Span = tuple[str, int, int]  # a file, and the first and the last byte but one


def keep_last(kept: OrderedDict[Any, Any], name: object, value: object) -> None:
    """Keep what was used last, ``MAPPED`` of them; several threads may read."""
    with _KEEPING:
        kept[name] = value
        kept.move_to_end(name)
        if len(kept) > MAPPED:
            kept.popitem(last=False)


class Place:
    """A folder, or any URL that fsspec knows, such as ``s3://bucket/cache`` (with ``pip install s3fs``).

    Args:
        path: The folder or the URL.

    Raises:
        TransporterError: If the URL's kind is not known, or the package that reads it is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.remote = "://" in self.path
        self._mapped: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._system: Any = None
        if self.remote:
            self._connect()

    def __str__(self) -> str:
        return self.path

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and connections, which every process opens for itself."""
        return {**self.__dict__, "_mapped": OrderedDict(), "_system": None}

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
            OSError: If a file can't be read.
        """
        if not self.remote:
            return [self._view(*span) for span in spans]
        asked = [span for span in spans if span[1] < span[2]]  # systems differ in what an empty range is
        urls, starts, stops = [self._url(file) for file, _, _ in asked], *([s[part] for s in asked] for part in (1, 2))
        found = iter(self._connect().cat_ranges(urls, starts, stops, on_error="raise"))
        return [memoryview(next(found) if start < stop else b"") for _, start, stop in spans]

    def _view(self, file: str, start: int, stop: int) -> memoryview:
        mapped = self._map(file)
        if hasattr(mmap, "MADV_WILLNEED") and stop > start:  # a disk then reads the span in one go, not by pages
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, min(stop, len(mapped)) - page)
        return memoryview(mapped)[start:stop]

    def _map(self, file: str) -> mmap.mmap:
        mapped = self._mapped.get(file)
        if mapped is None:
            with Path(self.path, file).open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        keep_last(self._mapped, file, mapped)  # others are closed once nobody looks at them
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
