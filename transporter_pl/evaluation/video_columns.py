"""Columns that other encoders than the VLM's see: are the videos natural, and do they show their caption?"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, get_args

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.columns import BATCH, Column, fed, real_clips, wanted
from transporter_pl.evaluation.encoders import EncoderColumn, once
from transporter_pl.metrics.aesthetic import Aesthetic
from transporter_pl.metrics.clip import CLIPGain, VideoCLIPScore
from transporter_pl.metrics.encoders import VideoEncoder, video_encoders
from transporter_pl.metrics.frechet import FrechetVideoDistance
from transporter_pl.metrics.perceptual import Net, VideoLPIPS

if TYPE_CHECKING:
    from transporter_pl.evaluation.cases import ReferenceClips
    from transporter_pl.evaluation.samples import Judged


class FVD(EncoderColumn):
    """Fréchet video distance between the videos and real clips that are none of the cases'.

    Args:
        encoder: Registered name or class path of the video encoder.
        path: Its weights; by default those that judge the VLM, usually the same for all.
    """

    label, better, decimals = "FVD", "down", 1
    encoders = video_encoders

    def __init__(self, encoder: str = "i3d", path: str | None = None) -> None:
        super().__init__(encoder, path)

    @property
    def note(self) -> str:
        """Whose features they are, and what few videos do to it."""
        few = "the fewer the videos, the larger it is: compare figures of as many, among them those of real clips"
        return f"{super().note}; {few}"

    def measure(self, judged: Judged) -> float:
        """In the features' units, squared."""
        metric = _seen(self.encoder(judged), judged.references)
        metric.reset()
        return float(fed(metric, judged.vlm.device, judged.drawn.video, real=False).compute())


class LPIPS(Column):
    """LPIPS_v: perceptual distance to the case's own real clip of ε+, mean over frames.

    Args:
        net: The net whose layers are compared: ``alex``, ``vgg`` or ``squeeze``.

    Raises:
        TransporterError: If it is another.
    """

    label, better, decimals = "LPIPS_v", "down", 3

    def __init__(self, net: Net = "alex") -> None:
        if net not in get_args(Net):
            msg = f"columns.lpips.net: {net!r} is none of {', '.join(get_args(Net))}; give one of them"
            raise TransporterError(msg)
        self.net = net

    @property
    def note(self) -> str:
        """The net."""
        return f"LPIPS_v with the net {self.net!r}"

    def measure(self, judged: Judged) -> float:
        """From 0 on."""
        metric = _lpips(self.net)
        metric.reset()
        return float(fed(metric, judged.vlm.device, judged.drawn.video, real_clips(judged)).compute())


class CLIPScore(EncoderColumn):
    """CLIP_v: 100 cos between the video and ε+, mean over frames."""

    label = "CLIP_v"

    def measure(self, judged: Judged) -> float:
        """In [-100, 100]."""
        device = judged.vlm.device
        return float(fed(VideoCLIPScore(self.encoder(judged)), device, judged.drawn.video, wanted(judged)).compute())


class CLIPChange(EncoderColumn):
    """ΔCLIP_v, against the clip of ε− that the generator draws with the same seed; see ``metrics.clip.CLIPGain``."""

    label = "ΔCLIP_v"

    def measure(self, judged: Judged) -> float:
        """In [-200, 200]."""
        device = judged.vlm.device
        seen = judged.drawn.video, judged.start, wanted(judged)
        return float(fed(CLIPGain(self.encoder(judged)), device, *seen).compute())


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
        metric = _aesthetic(self.head, self.clip)
        metric.reset()
        return float(fed(metric, judged.vlm.device, judged.drawn.video).compute())


@cache  # the cells of a table share their references, and to see them takes longest
def _seen(encoder: VideoEncoder, references: ReferenceClips) -> FrechetVideoDistance:
    """A metric that has seen the references, and keeps their sums when it is reset."""
    metric = FrechetVideoDistance(encoder).to(encoder.device)
    metric.reset_real_features = False
    for clips in references.batches(BATCH):
        metric.update(clips.to(encoder.device), real=True)
    return metric


@once  # these two load their nets themselves
def _lpips(net: Net) -> VideoLPIPS:
    return VideoLPIPS(net)


@once
def _aesthetic(head: str, clip: str) -> Aesthetic:
    return Aesthetic(head, clip)
