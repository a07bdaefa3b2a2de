"""Clips of LAVIB (Stergiou 2024): tables of cut-out segments, each a file of about one second at 60 fps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from transporter_pl.datamodules.annotations import check_choice, read_table
from transporter_pl.datamodules.clips import CaptionedClips, Clip
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

LARGEST = {"name": 10**9, "shot": 10**9, "tmp_crop": 10, "vrt_crop": 1, "hrz_crop": 1}  # column → its largest value

Split = Literal["train", "val", "test"]
Subset = Literal["high_fm", "low_fm", "high_lv", "low_lv", "high_rc", "low_rc", "high_pl", "low_pl"]
Segments = Literal["segments", "segments_downsampled"]


class LavibClips(CaptionedClips):
    """Segments of LAVIB, in the folder that holds its ``annotations`` and its ``segments``; they have no captions.

    A segment lasts one second: T − 1 may be at most fps + 1/2, such as 9 frames at 8 fps.

    Args:
        root: Folder of the data set.
        video: Geometry that the clips are read in.
        split: ``train``, ``val`` or ``test``.
        subset: One of the challenges' halves, high or low in motion, luminance variance, contrast or pixel range, as
            their files are named; all segments of the split by default.
        segments: Folder of the files: ``segments``, or the smaller ``segments_downsampled``.
        limit: At most so many clips, spread evenly over those that have a file.

    Raises:
        TransporterError: If the folder or the table can't be read, or there is no clip to read.
    """

    def __init__(
        self,
        root: str | Path,
        video: VideoSpec,
        split: Split = "train",
        subset: Subset | None = None,
        segments: Segments = "segments",
        limit: int | None = None,
    ) -> None:
        check_choice("split", split, Split)
        check_choice("segments", segments, Segments)
        if subset is not None:
            check_choice("subset", subset, Subset)
        name = f"{split}.csv" if subset is None else f"{split}_{subset}.csv"
        super().__init__(root, _clips(Path(root) / "annotations" / name, segments), video, "none", limit)


def _clips(table: Path, segments: Segments) -> Iterator[Clip]:
    for place, row in read_table("root", table, tuple(LARGEST)):
        name, shot, *crops = (_number(row[column], column, place) for column in LARGEST)
        segment = f"{name}_shot{shot}_{'_'.join(map(str, crops))}"
        yield Clip(segment, f"{segments}/{segment}/vid.mp4")


def _number(text: str, column: str, place: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > LARGEST[column]:
        msg = f"{place}: {column} {text!r} is no integer from 0 to {LARGEST[column]}; correct or remove the line"
        raise TransporterError(msg)
    return int(text)
