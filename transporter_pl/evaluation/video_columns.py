"""Columns that other encoders than the VLM's see: are the videos natural, and do they show their caption?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from transporter_pl.evaluation.columns import Column, fed, real_clips, wanted
from transporter_pl.evaluation.encoders import text_encoder, video_encoder
from transporter_pl.metrics.aesthetic import Aesthetic
from transporter_pl.metrics.clip import CLIPGain, VideoCLIPScore
from transporter_pl.metrics.encoders import text_encoders, video_encoders
from transporter_pl.metrics.frechet import FrechetVideoDistance
from transporter_pl.metrics.perceptual import VideoLPIPS

if TYPE_CHECKING:
    from transporter_pl.evaluation.samples import Judged


class FVD(Column):
    """Fréchet video distance between the videos and real clips that are none of the cases'.

    Args:
        encoder: Registered name or class path of the video encoder whose features are compared.
        path: Its weights; by default its own.
    """

    label, better, decimals = "FVD", "down", 1

    def __init__(self, encoder: str = "i3d", path: str | None = None) -> None:
        self.kind, self.name, self.path = video_encoders.get(encoder), encoder, path

    @property
    def note(self) -> str:
        """The features."""
        return f"FVD on {self.kind.label}"

    def measure(self, judged: Judged) -> float:
        """In the features' units, squared."""
        device = judged.vlm.device
        metric = fed(
            FrechetVideoDistance(video_encoder(self.name, self.path, device)), device, judged.references, real=True
        )
        return float(fed(metric, device, judged.drawn.video, real=False).compute())


class LPIPS(Column):
    """LPIPS_v: perceptual distance to the case's own real clip of ε+, mean over frames.

    Args:
        net: The net whose layers are compared.
    """

    label, better, decimals = "LPIPS_v", "down", 3

    def __init__(self, net: Literal["alex", "vgg", "squeeze"] = "alex") -> None:
        self.net = net

    def measure(self, judged: Judged) -> float:
        """From 0 on."""
        return float(fed(VideoLPIPS(self.net), judged.vlm.device, judged.drawn.video, real_clips(judged)).compute())


class CLIPScore(Column):
    """CLIP_v: 100 cos between the video and ε+, mean over frames.

    Args:
        encoder: Registered name or class path of the encoder of images and texts.
        path: Its weights; by default its own.
    """

    label, better, decimals = "CLIP_v", "up", 2

    def __init__(self, encoder: str = "clip", path: str | None = None) -> None:
        self.kind, self.name, self.path = text_encoders.get(encoder), encoder, path

    @property
    def note(self) -> str:
        """The encoder."""
        return f"{self.label} on {self.kind.label}"

    def measure(self, judged: Judged) -> float:
        """In [-100, 100]."""
        device = judged.vlm.device
        metric = VideoCLIPScore(text_encoder(self.name, self.path, device))
        return float(fed(metric, device, judged.drawn.video, wanted(judged)).compute())


class CLIPChange(CLIPScore):
    """ΔCLIP_v, against the clip of ε− that the generator draws with the same seed; see ``metrics.CLIPGain``."""

    label = "ΔCLIP_v"

    def measure(self, judged: Judged) -> float:
        """In [-200, 200]."""
        device = judged.vlm.device
        metric = CLIPGain(text_encoder(self.name, self.path, device))
        return float(fed(metric, device, judged.drawn.video, judged.start, wanted(judged)).compute())


class AestheticScore(Column):
    """LAION's aesthetic score, mean over frames.

    Args:
        head: File of the head's weights.
        clip: Hub id or folder of the CLIP that it was trained on.
    """

    label, better, decimals = "aesthetic", "up", 2

    def __init__(self, head: str = "", clip: str = "") -> None:
        self.head, self.clip = head, clip

    def measure(self, judged: Judged) -> float:
        """From 1 to 10, as people rated pictures."""
        return float(fed(Aesthetic(self.head, self.clip), judged.vlm.device, judged.drawn.video).compute())
