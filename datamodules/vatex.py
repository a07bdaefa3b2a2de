"""Clips in VATEX's format (Wang et al. 2019): a JSON list of videoID and captions, beside ``<videoID>.mp4`` files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transporter_pl.datamodules.annotations import check_choice, read_json
from transporter_pl.datamodules.clips import CaptionedClips, Captions, Clip, window_around
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

# YouTube's ids may hold "_" and "-", so the seconds are what the end of the name says; nothing else is let through, so
# that no name leads out of the folder of videos
VIDEO_ID = re.compile(r"([A-Za-z0-9_-]{11})_([0-9]{6})_([0-9]{6})")
FIELDS = {"en": "enCap", "zh": "chCap"}
SUFFIXES = (".mp4", ".webm", ".mkv")  # what yt-dlp leaves, by what was on offer

Language = Literal["en", "zh"]
Window = Literal["start", "middle"]


@dataclass(frozen=True)
class VatexRow:
    """One annotated clip.

    Attributes:
        id: The videoID, also the file's name without its suffix.
        youtube: Id of the video it was cut from.
        start: Where it begins there, in seconds.
        end: Where it ends, in seconds.
        captions: ``enCap`` or ``chCap``, empty where the file has none.
    """

    id: str
    youtube: str
    start: int
    end: int
    captions: tuple[str, ...]


def parse_vatex(path: str | Path, language: Language = "en") -> list[VatexRow]:
    """Rows of an annotation file, in its order.

    Args:
        path: Annotation file.
        language: Of the captions: ``en``, or ``zh``, which not all files have.

    Raises:
        TransporterError: If the file can't be read, is no such list, or a videoID is not
            ``<11 characters>_<start>_<end>``.
    """
    rows = read_json("annotations", path)
    if not isinstance(rows, list):
        msg = f"annotations: {str(path)!r} holds no list but a {type(rows).__name__}; give one of VATEX's files"
        raise TransporterError(msg)
    file = f"annotations: {str(path)!r}"
    return [_parse_row(row, FIELDS[language], f"{file}, row {number}") for number, row in enumerate(rows)]


def _parse_row(row: object, field: str, place: str) -> VatexRow:
    fields = row if isinstance(row, dict) else {}
    name = fields.get("videoID")
    match = VIDEO_ID.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        msg = f"{place}: videoID {name!r} is not <11 characters>_<start>_<end>, each of 6 digits; correct or remove it"
        raise TransporterError(msg)
    captions = fields.get(field) or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        msg = f"{place}: {field} of {name!r} is not a list of strings; correct or remove it"
        raise TransporterError(msg)
    youtube, start, end = match.groups()
    return VatexRow(match[0], youtube, int(start), int(end), tuple(captions))


class VatexClips(CaptionedClips):
    """Captioned clips of a folder of ``<videoID>.mp4`` files that are already cut, as VATEX is commonly kept.

    A file may be ``.webm`` or ``.mkv`` instead. Many of VATEX's videos are gone: clips without a file are listed in
    ``missing``, those without a caption of the language in ``broken``. The files of ``private_test`` have no captions
    at all: read them with ``captions: none``.

    Args:
        root: Folder of the videos.
        annotations: Annotation file.
        video: Geometry that the clips are read in.
        captions: Of each clip's captions the ``first``, one at ``random`` (the same at every reading, by ``seed``),
            ``all``, or ``none``.
        language: Language of the captions, ``en`` or ``zh``.
        window: A clip lasts 10 s, what is read of it T / fps: from its ``start``, or from round its ``middle``.
        limit: At most so many clips, spread evenly over those that can be used.
        seed: Seed of ``random``.

    Raises:
        TransporterError: If the folder or the annotations can't be read, or there is no clip to read.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path,
        video: VideoSpec,
        captions: Captions = "first",
        language: Language = "en",
        window: Window = "start",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        check_choice("language", language, Language)
        check_choice("window", window, Window)
        rows = _clips(Path(root), annotations, video, language, window)
        super().__init__(root, rows, video, captions, limit, seed)


def _clips(root: Path, annotations: str | Path, video: VideoSpec, language: Language, window: Window) -> Iterator[Clip]:
    present = {path.name for path in root.iterdir()}
    for row in parse_vatex(annotations, language):
        names = (f"{row.id}{suffix}" for suffix in SUFFIXES)
        file = next((name for name in names if name in present), f"{row.id}.mp4")
        lasts = row.end - row.start
        start, end = (0.0, None) if window == "start" else window_around(lasts / 2, video, lasts)
        yield Clip(row.id, file, row.captions, start, end)
