"""Clips in VATEX's format (Wang et al. 2019): a JSON list of videoID and captions, beside ``<videoID>.mp4`` files."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transporter_pl.datamodules.clips import BrokenClip, CaptionedClips
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Clips, VideoSpec
from transporter_pl.video import read_video

# YouTube's ids may hold "_" and "-", so the seconds are what the end of the name says; nothing else is let through, so
# that no name leads out of the folder of videos
VIDEO_ID = re.compile(r"([A-Za-z0-9_-]{11})_([0-9]{6})_([0-9]{6})")


@dataclass(frozen=True)
class VatexRow:
    """One annotated clip.

    Attributes:
        id: The videoID, also the file's name without ``.mp4``.
        youtube: Id of the video it was cut from.
        start: Where it begins there, in seconds.
        end: Where it ends, in seconds.
        captions: ``enCap``, empty where the file has none.
    """

    id: str
    youtube: str
    start: int
    end: int
    captions: tuple[str, ...]


def parse_vatex(path: str | Path) -> list[VatexRow]:
    """Rows of an annotation file, in its order.

    Raises:
        TransporterError: If the file can't be read, is no such list, or a videoID is not
            ``<11 characters>_<start>_<end>``.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"annotations: {str(path)!r} can't be read as JSON ({error}); give one of VATEX's annotation files"
        raise TransporterError(msg) from error
    if not isinstance(rows, list):
        msg = f"annotations: {str(path)!r} holds no list but a {type(rows).__name__}; give one of VATEX's files"
        raise TransporterError(msg)
    return [_parse_row(row, f"annotations: {str(path)!r}, row {number}") for number, row in enumerate(rows)]


def _parse_row(row: object, place: str) -> VatexRow:
    fields = row if isinstance(row, dict) else {}
    name = fields.get("videoID")
    match = VIDEO_ID.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        msg = f"{place}: videoID {name!r} is not <11 characters>_<start>_<end>, each of 6 digits; correct or remove it"
        raise TransporterError(msg)
    captions = fields.get("enCap") or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        msg = f"{place}: enCap of {name!r} is not a list of strings; correct or remove it"
        raise TransporterError(msg)
    youtube, start, end = match.groups()
    return VatexRow(match[0], youtube, int(start), int(end), tuple(captions))


class VatexClips(CaptionedClips):
    """Captioned clips of a folder of ``<videoID>.mp4`` files that are already cut, as VATEX is commonly kept.

    Many of VATEX's videos are gone: clips without a file are listed in ``missing``, those without an English caption in
    ``broken``.

    Args:
        root: Folder of the videos.
        annotations: Annotation file.
        video: Geometry that the clips are read in.
        captions: Of each clip's captions, ``first``, one at ``random`` (the same at every reading, by ``seed``), or
            ``all``: as many items as captions, named ``<videoID>#<number>``.
        seed: Seed of ``random``.

    Raises:
        TransporterError: If the folder or the annotations can't be read, or no captioned clip has a file.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path,
        video: VideoSpec,
        captions: Literal["first", "random", "all"] = "first",
        seed: int = 0,
    ) -> None:
        if captions not in ("first", "random", "all"):
            msg = f"captions: {captions!r} is not one of first, random, all"
            raise TransporterError(msg)
        rows = parse_vatex(annotations)
        self.root, self.video = Path(root), video
        if not self.root.is_dir():
            msg = f"root: no folder {str(root)!r}; give the folder of the <videoID>.mp4 files"
            raise TransporterError(msg)
        present = {path.name for path in self.root.iterdir() if path.is_file()}  # not links that lead nowhere
        self.missing = tuple(row.id for row in rows if f"{row.id}.mp4" not in present)
        found = [row for row in rows if f"{row.id}.mp4" in present]
        self.broken = tuple(BrokenClip(row.id, "it has no English caption") for row in found if not row.captions)
        items = [item for row in found if row.captions for item in _items(row, captions, seed)]
        if not items:
            msg = (
                f"root: of the {len(rows)} clips in {str(annotations)!r}, {len(found)} have a file in {str(root)!r}, "
                "none of these a caption; give the folder of the <videoID>.mp4 files and annotations with enCap"
            )
            raise TransporterError(msg)
        self.ids, self.captions = (tuple(column) for column in zip(*items, strict=True))

    def __getitem__(self, index: int) -> Clips:
        """A batch of one clip."""
        pixels = read_video(self._path(self.ids[index]), self.video)
        return Clips((self.ids[index],), pixels[None], (self.captions[index],))

    @property
    def fingerprint(self) -> str:
        """Digest of names, captions and file sizes, in order."""
        items = zip(self.ids, self.captions, strict=True)
        listed = [(name, caption, self._path(name).stat().st_size) for name, caption in items]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def _path(self, name: str) -> Path:
        return self.root / f"{name.partition('#')[0]}.mp4"


def _items(row: VatexRow, captions: str, seed: int) -> list[tuple[str, str]]:
    """(name, caption) of each item that a row gives."""
    if captions == "all":
        return [(f"{row.id}#{number}", caption) for number, caption in enumerate(row.captions)]
    chosen = random.Random(f"{seed}/{row.id}").choice(row.captions) if captions == "random" else row.captions[0]
    return [(row.id, chosen)]
