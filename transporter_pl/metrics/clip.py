"""How well videos suit their captions."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchmetrics import MeanMetric

from transporter_pl.metrics.encoders import ImageTextEncoder, check_as_many, check_videos


class VideoCLIPScore(MeanMetric):
    """CLIP_v = 100 cos(image, text), mean over frames, then over videos; a negative cosine stays negative.

    CLIPScore (arXiv 2104.08718) of single frames, without its cut at 0.

    Args:
        encoder: What the videos and captions are seen with.
    """

    def __init__(self, encoder: ImageTextEncoder) -> None:
        super().__init__(nan_strategy="disable")
        self.encoder = encoder

    def update(self, video: Tensor, texts: list[str]) -> None:  # type: ignore[override]
        """Add videos (B, T, 3, H, W) in [0, 1] and the caption of each."""
        check_videos(video=video)
        check_as_many(video, texts)
        super().update(clip_scores(self.encoder, video, self.encoder.texts(texts)))


class CLIPGain(MeanMetric):
    """ΔCLIP_v = CLIP_v(x', ε+) − CLIP_v(x, ε+): how much better the video x' suits ε+ than a clip x of ε−.

    The paper's Δ is not defined; this is that of Concept Sliders (arXiv 2311.12092).

    Args:
        encoder: What the videos and captions are seen with.
    """

    def __init__(self, encoder: ImageTextEncoder) -> None:
        super().__init__(nan_strategy="disable")
        self.encoder = encoder

    def update(self, video: Tensor, start: Tensor, texts: list[str]) -> None:  # type: ignore[override]
        """Add videos x' and clips x of ε−, both (B, T, 3, H, W) in [0, 1], and the captions ε+."""
        check_videos(video=video, start=start)
        check_as_many(video, texts)
        text = self.encoder.texts(texts)
        super().update(clip_scores(self.encoder, video, text) - clip_scores(self.encoder, start, text))


def clip_scores(encoder: ImageTextEncoder, video: Tensor, text: Tensor) -> Tensor:
    """100 cos of each video (B, T, 3, H, W) and its encoded text (B, D), mean over frames; (B,)."""
    images = encoder.images(video).float()
    return 100 * cosine_similarity(images, text[:, None].float(), dim=-1).mean(1)
