"""How much people would like the frames, as LAION's predictor guesses."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchmetrics import MeanMetric

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.encoders import ImageTextEncoder, check_videos, text_encoders
from transporter_pl.metrics.missing import MissingPart

FILE = "sac+logos+ava1-l14-linearMSE.pth"
URL = f"https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/{FILE}"
WIDTHS = (768, 1024, 128, 64, 16, 1)
PLACES = ("0", "2", "4", "6", "7")  # of the linear layers; dropout stood between them


class Aesthetic(MeanMetric):
    """LAION-Aesthetics v2: a linear head on CLIP ViT-L/14's normalised embedding of a frame, mean over frames.

    Args:
        head: The file ``sac+logos+ava1-l14-linearMSE.pth``.
        clip: Hub id or folder of the CLIP that it was trained on; by default that of OpenAI.

    Raises:
        MissingPart: If the file or CLIP is not here.
        TransporterError: If the file holds something else.
    """

    def __init__(self, head: str = "", clip: str = "") -> None:
        super().__init__(nan_strategy="disable")
        self.head = load_head(head)
        self.encoder: ImageTextEncoder = text_encoders.get("clip").from_pretrained(clip or None)

    def update(self, video: Tensor) -> None:  # type: ignore[override]
        """Add videos (B, T, 3, H, W) in [0, 1]."""
        check_videos(video=video)
        images = normalize(self.encoder.images(video).float(), dim=-1)
        super().update(self.head(images)[..., 0].mean(1))


def load_head(path: str) -> nn.Sequential:
    """The head: Linear layers 768 → 1024 → 128 → 64 → 16 → 1 without activations.

    Raises:
        MissingPart: If there is no such file.
        TransporterError: If it holds something else.
    """
    if not path or not Path(path).is_file():
        lacking = f"no file {path!r}" if path else "no head is given"
        msg = f"aesthetic: {lacking}; get it by `curl -L -o '{FILE}' '{URL}'` and give its path as head"
        raise MissingPart(msg)
    layers = [nn.Linear(wide, narrow) for wide, narrow in pairwise(WIDTHS)]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for place, layer in zip(PLACES, layers, strict=True):
            layer.load_state_dict({name: state[f"layers.{place}.{name}"] for name in ("weight", "bias")})
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, RuntimeError) as error:
        msg = f"aesthetic: {path!r} is not the head ({error}); download it again from {URL}"
        raise TransporterError(msg) from error
    return nn.Sequential(*layers).eval().requires_grad_(False)
