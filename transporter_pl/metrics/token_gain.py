"""How much more probable the VLM finds the positive token."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanMetric

from transporter_pl.errors import TransporterError


class TokenGain(MeanMetric):
    """ΔP(token+) = P(token+ | x') − P(token+ | x), mean over videos, in [-1, 1]; ours, beside ΔCLIP_v."""

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")

    def update(self, positive: Tensor, start: Tensor) -> None:  # type: ignore[override]
        """Add P(token+) of the videos and of what they began as, both (B,)."""
        if positive.shape != start.shape:
            msg = f"start: shape {tuple(start.shape)} beside {tuple(positive.shape)}; give one for each video"
            raise TransporterError(msg)
        super().update(positive.float() - start.float())
