"""Normalised pixels as parameters, from noise, kept in their range: what GradViT and LEAPS optimise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from transporter_pl.baselines.base import Baseline, Canvas

MEAN, STD = 0.5, 0.25  # about ImageNet's, and [0, 1] is exactly |u| ≤ 2


class PixelBaseline(Baseline):
    """A baseline whose parameters are normalised pixels u: x = ½ + ¼ u, with u ~ N(0, I) at the start.

    After every step u is projected onto |u| ≤ 2, so that x is in [0, 1].

    Args:
        canvas: What is drawn on.
    """

    def __init__(self, canvas: Canvas) -> None:
        super().__init__(canvas)
        self.normalised = nn.Parameter(canvas.noise())
        self._project()

    def pixels(self) -> Tensor:
        """The videos (B, T, 3, H, W) in [0, 1]."""
        return MEAN + STD * self.normalised

    def adam(self, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> Adam:
        """Adam whose steps end with the projection."""
        optimiser = Adam([self.normalised], lr, betas)
        optimiser.register_step_post_hook(lambda *_: self._project())
        return optimiser

    @torch.no_grad()
    def _project(self) -> None:
        self.normalised.clamp_((0 - MEAN) / STD, (1 - MEAN) / STD)


def normalised(video: Tensor) -> Tensor:
    """Pixels x in [0, 1] → u."""
    return (video - MEAN) / STD
