"""Anybody's videos: a folder of files, and what is said of them in a table or in lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from transporter_pl.datamodules.annotations import read_lines, read_table, seconds_of
from transporter_pl.datamodules.clips import CaptionedClips, Captions, Clip, check_inside
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
Window = tuple[float, float | None]


class FolderClips(CaptionedClips):
    """Videos in a folder, with the captions of a ``.csv``, ``.tsv`` or ``.jsonl`` file, or all of them without any.

    The file has a ``video``, relative to the folder, and a ``caption`` a row. Rows of the same video are captions of
    one clip. ``start`` and ``end``, in seconds, cut a window out of a video: rows of the same video and window are then
    captions of one clip. The clip's name is its ``id`` where there is one, else the video's path without its suffix,
    with ``@<start>-<end>`` behind it where it has a window.

    Args:
        root: Folder of the videos.
        video: Geometry that the clips are read in.
        captions_file: File of the captions. Without one, all videos of the folder and of those below it (mp4, m4v, mov,
            webm, mkv) are read, in the order of their paths, and have no captions.
        captions: Of each clip's captions the ``first``, one at ``random`` (the same at every reading, by ``seed``),
            ``all``, or ``none``.
        limit: At most so many clips, spread evenly over those that can be used.
        seed: Seed of ``random``.

    Raises:
        TransporterError: If the folder or the file can't be read, a row of it is wrong (named with its line and
            column), or there is no clip to read.
    """

    def __init__(
        self,
        root: str | Path,
        video: VideoSpec,
        captions_file: str | Path | None = None,
        captions: Captions = "first",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if captions_file is None:
            super().__init__(root, _found(Path(root)), video, "none", limit)
        else:
            super().__init__(root, _described(Path(captions_file), captions), video, captions, limit, seed)


def _found(root: Path) -> Iterator[Clip]:
    """Every video; not what systems leave beside them, whose names begin with a dot."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    for file in sorted(path.as_posix() for path in paths if not path.name.startswith(".")):
        yield Clip(PurePosixPath(file).with_suffix("").as_posix(), file)


@dataclass
class _Described:
    """What the rows of one video and window say."""

    id: str
    captions: list[str] = field(default_factory=list)


def _described(file: Path, captions: Captions) -> Iterator[Clip]:
    """Clips of the file in the order of their first rows."""
    clips: dict[tuple[str, Window], _Described] = {}
    for place, row in _rows(file, ("video",) if captions == "none" else ("video", "caption")):
        video, window, name = _video(row, place), _window(row, place), _text(row, "id", place)
        clip = clips.setdefault((video, window), _Described(name))
        if name != clip.id:
            msg = f"{place}, id: {name!r}, but an earlier row of this video and window has {clip.id!r}; give them one"
            raise TransporterError(msg)
        clip.captions.append(_text(row, "caption", place))
    for (video, window), clip in clips.items():
        yield Clip(clip.id or _name(video, window), video, tuple(clip.captions), *window)


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix == ".jsonl":
        return read_lines("captions_file", file, columns)
    if file.suffix in DELIMITERS:
        return read_table("captions_file", file, columns, DELIMITERS[file.suffix])
    msg = f"captions_file: {str(file)!r} is of an unknown kind; give a .csv, .tsv or .jsonl file"
    raise TransporterError(msg)


def _name(video: str, window: Window) -> str:
    start, end = window
    name = PurePosixPath(video).with_suffix("").as_posix()
    return name if window == (0.0, None) else f"{name}@{start:.15g}-{'' if end is None else f'{end:.15g}'}"


def _text(row: dict[str, Any], column: str, place: str) -> str:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        msg = f"{place}, {column}: {value!r} is no text; correct or remove it"
        raise TransporterError(msg)
    return value or ""


def _video(row: dict[str, Any], place: str) -> str:
    file = _text(row, "video", place)
    check_inside(file, f"{place}, video")
    path = PurePosixPath(file)
    if not path.name:
        msg = f"{place}, video: {file!r} names no file; correct or remove the row"
        raise TransporterError(msg)
    return path.as_posix()


def _window(row: dict[str, Any], place: str) -> Window:
    start, end = seconds_of(row, "start", place) or 0.0, seconds_of(row, "end", place)
    if end is not None and end <= start:
        msg = f"{place}, end: {end:g} is not after the start, {start:g}; correct or remove the row"
        raise TransporterError(msg)
    return start, end
