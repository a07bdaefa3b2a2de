"""What every data set of captioned video files gives: one clip at an index, and an account of what it can't give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from transporter_pl.samples import Clips, VideoSpec


@dataclass(frozen=True)
class BrokenClip:
    """A clip that is there but can't be used.

    Attributes:
        id: Its name.
        reason: Why, in one sentence.
    """

    id: str
    reason: str


class CaptionedClips(Dataset[Clips], ABC):
    """Captioned clips in video files.

    Attributes:
        video: Geometry that the clips are read in.
        ids: Name of the clip at every index.
        missing: Names of clips that are annotated, but whose files are not there.
        broken: Clips that are known to be of no use before any file is read.
    """

    video: VideoSpec
    ids: tuple[str, ...]
    missing: tuple[str, ...]
    broken: tuple[BrokenClip, ...]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> Clips:
        """A batch of one clip.

        Raises:
            TransporterError: If its file can't be read; the message names it.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Digest that changes with the clips, their order, captions or files."""


def join(clips: list[Clips]) -> Clips:
    """Batches of clips → one batch."""
    ids = tuple(name for c in clips for name in c.ids)
    return Clips(ids, torch.cat([c.video for c in clips]), tuple(caption for c in clips for caption in c.captions))
