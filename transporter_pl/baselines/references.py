"""The clips that baselines and objectives look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec
from transporter_pl.video import read_video

NATURAL = 64  # natural clips that are looked at
VIDEOS = {".mp4", ".mkv", ".webm", ".mov", ".avi"}


@dataclass(frozen=True)
class References:
    """Clips of K targets, and natural ones.

    Attributes:
        negative: A clip of each ε−, (K, T, 3, H, W) in [0, 1], for the objective ``moved``.
        positive: A clip of each ε+, likewise, for the same and for a baseline that ``needs_stimulus``.
        natural: Any clips of the kind that the VLM knows, (M, T, 3, H, W), for one that ``needs_natural``.
    """

    negative: Tensor | None = None
    positive: Tensor | None = None
    natural: Tensor | None = None

    def part(self, rows: Tensor) -> References:
        """Those of some targets, and the same natural ones."""
        negative, positive = (None if clips is None else clips[rows] for clips in (self.negative, self.positive))
        return References(negative, positive, self.natural)

    @classmethod
    def read(
        cls,
        captions: Sequence[tuple[str, str]],
        files: Mapping[str, str],
        natural: str | Path | None,
        video: VideoSpec,
    ) -> Self:
        """From video files.

        Args:
            captions: ε− and ε+ of each target.
            files: Caption → video file; where one is missing, so are all clips of that end.
            natural: Folder of natural clips; ``None`` for none.
            video: Geometry.

        Raises:
            TransporterError: If a file can't be read, or the folder holds no video.
        """
        negative, positive = zip(*captions, strict=True)
        clips = None if natural is None else natural_clips(natural, video)
        return cls(_clips(negative, files, video), _clips(positive, files, video), clips)


def _clips(captions: Sequence[str], files: Mapping[str, str], video: VideoSpec) -> Tensor | None:
    if not all(caption in files for caption in captions):
        return None
    return torch.stack([read_video(files[caption], video) for caption in captions])


def natural_clips(folder: str | Path, video: VideoSpec) -> Tensor:
    """Clips of a folder's video files, (M, T, 3, H, W), at most ``NATURAL``, spread evenly over their names.

    Raises:
        TransporterError: If there is none, or one can't be read.
    """
    files = sorted(file for file in Path(folder).glob("*") if file.suffix in VIDEOS)
    if not files:
        msg = f"natural: no video file in {str(folder)!r}; give a folder of {', '.join(sorted(VIDEOS))} files"
        raise TransporterError(msg)
    count = min(len(files), NATURAL)
    return torch.stack([read_video(files[k * len(files) // count], video) for k in range(count)])
