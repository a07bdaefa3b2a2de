"""The ports of what metrics see with, and their registries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from transporter_pl.adapters import Frozen, VLMAdapter
from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry


class Encoder(Frozen, ABC):
    """What both kinds have in common.

    Attributes:
        label: What it is, for the heading of a table.
    """

    label: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_pretrained(cls, path: str | None = None, device: torch.device | str = "cpu") -> Self:
        """Load it; ``None`` stands for its usual weights.

        Raises:
            MissingPart: If the weights are not here; names them and how to get them.
        """

    @classmethod
    def path_for(cls, vlm: VLMAdapter) -> str | None:
        """The weights that judge what is drawn for a VLM; by default the usual ones."""
        return None


class VideoEncoder(Encoder):
    """Makes one vector of features of a video.

    Attributes:
        num_features: F.
    """

    num_features: int

    @abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → features (B, F) in at least single precision."""


class ImageTextEncoder(Encoder):
    """Puts images and texts into one space, in which the cosine says how well they suit each other."""

    @abstractmethod
    def images(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → (B, K, D), not normalised; K = T for one that sees single frames, or 1."""

    @abstractmethod
    def texts(self, captions: list[str]) -> Tensor:
        """Captions → (B, D), not normalised."""


video_encoders: Registry[type[VideoEncoder]] = Registry("video_encoders")
text_encoders: Registry[type[ImageTextEncoder]] = Registry("text_encoders")


def check_videos(**videos: Tensor) -> None:
    """Refuse what is no batch of videos, and batches of different shapes.

    Raises:
        TransporterError: Naming the first that is wrong.
    """
    shape = next(iter(videos.values())).shape
    for name, video in videos.items():
        if video.ndim != 5 or video.shape[2] != 3 or not video.is_floating_point():
            msg = f"{name}: {video.dtype} of shape {tuple(video.shape)}; give floats in [0, 1] of shape (B, T, 3, H, W)"
            raise TransporterError(msg)
        if video.shape != shape:
            msg = f"{name}: shape {tuple(video.shape)} beside {tuple(shape)}; give as many videos of the same geometry"
            raise TransporterError(msg)


def check_as_many(videos: Tensor, texts: list[str]) -> None:
    """Refuse another number of texts than of videos.

    Raises:
        TransporterError: If so.
    """
    if len(videos) != len(texts):
        msg = f"texts: {len(texts)} for {len(videos)} videos; give one for each"
        raise TransporterError(msg)
