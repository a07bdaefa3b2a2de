"""Ego4D's files of narrations, in both schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from transporter_pl.datamodules.annotations import read_json
from transporter_pl.errors import TransporterError

# who acts (#C, and often the letter again), that it is somebody else (#O), and what the narrator could not make out
TAGS = (
    (re.compile(r"#C\b(\s+C\b)?", re.IGNORECASE), "the camera wearer"),
    (re.compile(r"#O\b", re.IGNORECASE), ""),
    (re.compile(r"#unsure\b", re.IGNORECASE), "something"),
)

Passes = Literal["both", 1, 2]
Tags = Literal["clean", "keep"]
Narration = tuple[object, str]  # its time in seconds, if the file is right, and its text


def read_narrations(file: Path, passes: Passes) -> Iterator[tuple[str, Iterator[Narration]]]:
    """(video_uid, its narrations) of a file: of ``narration.json``, or of ``all_narrations_redacted.json``.

    Args:
        file: The file.
        passes: Which passes; the second of the two does not tell them apart.

    Raises:
        TransporterError: If the file can't be read, is of neither schema, or has no passes to choose from.
    """
    content = read_json("annotations", file)
    plain = isinstance(content, dict) and isinstance(content.get("videos"), dict)
    videos = content["videos"] if plain else content
    if not isinstance(videos, dict):
        msg = f"annotations: {str(file)!r} holds no narrations by video; give narration.json, or the redacted ones"
        raise TransporterError(msg)
    if plain and passes != "both":
        msg = f"passes: {passes}, but {str(file)!r} does not tell them apart; use both, or give narration.json"
        raise TransporterError(msg)
    names = [f"narration_pass_{number}" for number in (1, 2) if passes in ("both", number)]
    for uid in list(videos):
        said = videos.pop(uid)  # not kept, as there are millions of narrations
        if plain:
            yield uid, _listed([said], "time", "text")
        else:
            yield uid, _listed([_entry(said, name) for name in names], "timestamp_sec", "narration_text")


def without_tags(text: str) -> str:
    """The narration as a sentence, with single spaces."""
    for tag, words in TAGS if "#" in text else ():
        text = tag.sub(words, text)
    return " ".join(text.split())


def _listed(parts: Iterable[object], time: str, text: str) -> Iterator[Narration]:
    """Narrations of the passes, one after the other; those without a text have an empty one."""
    for part in parts:
        rows = _entry(part, "narrations")
        for row in rows if isinstance(rows, list) else ():
            said = _entry(row, text)
            yield _entry(row, time), said if isinstance(said, str) else ""


def _entry(row: object, name: str) -> object:
    return row.get(name) if isinstance(row, dict) else None
