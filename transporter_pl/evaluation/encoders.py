"""The encoders behind the columns, each loaded once a process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from transporter_pl.metrics.encoders import ImageTextEncoder, VideoEncoder, text_encoders, video_encoders

if TYPE_CHECKING:
    import torch


@cache
def video_encoder(name: str, path: str | None, device: torch.device) -> VideoEncoder:
    """The encoder of videos of a registered name or class path, with the weights of a path, or its own.

    Raises:
        MissingPart: If the weights are not here.
    """
    return video_encoders.get(name).from_pretrained(path, device)


@cache
def text_encoder(name: str, path: str | None, device: torch.device) -> ImageTextEncoder:
    """The encoder of images and texts, likewise.

    Raises:
        MissingPart: If the weights are not here.
    """
    return text_encoders.get(name).from_pretrained(path, device)
