"""How far generated videos are from real ones as distributions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.encoders import VideoEncoder


class FrechetVideoDistance(FrechetInceptionDistance):
    """FVD = ‖μ_r − μ_g‖² + tr(Σ_r + Σ_g − 2 (Σ_r Σ_g)^½), of a video encoder's features (arXiv 1812.01717).

    With the encoder ``i3d`` it is the FVD of the literature. It is biased: with few videos it is too large, and only
    values of equally many videos can be compared. Sums are kept in double precision.

    Args:
        encoder: What the videos are seen with.
    """

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__(feature=encoder, normalize=True)
        self.orig_dtype = torch.float64  # of the value; a process that has seen no video has to know it too

    def update(self, video: Tensor, real: bool) -> None:
        """Add videos (B, T, 3, H, W) in [0, 1] to the real ones, or to the generated."""
        super().update(video, real)
        self.orig_dtype = torch.float64

    def compute(self) -> Tensor:
        """The distance, in the features' units squared.

        Raises:
            TransporterError: If fewer than two real or two generated videos were added.
        """
        counts = self.real_features_num_samples, self.fake_features_num_samples
        if min(counts) < 2:
            msg = f"videos: {int(counts[0])} real and {int(counts[1])} generated; a spread needs at least 2 of each"
            raise TransporterError(msg)
        return super().compute()
