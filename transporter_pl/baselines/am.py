"""Activation maximisation as Feature Visualization (Olah et al., 2017) has it, over videos."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from transporter_pl.baselines.base import Baseline, Canvas
from transporter_pl.baselines.parametrisations import Colours, fall, spectrum, waves
from transporter_pl.baselines.transforms import Draws, jitter, rotate_and_scale
from transporter_pl.errors import check_not_negative


class ActivationMaximisation(Baseline):
    """x = sigmoid(A F⁻¹(s c)): ascent on the waves c of a spectrum, each scaled by s, which falls with its frequency.

    Its transforms are the paper's: a grey margin, jitter of 8 pixels in all, zoom by 0.9 to 1.1, turn by up to 10°,
    jitter of 4. Its pictures have 128 pixels a side; on others, jitter has the same share of the frame. The paper's
    colours are correlated as those of ImageNet; here they are as ``Colours.opponent`` says.

    Args:
        canvas: What is drawn on.
        lr: Of Adam, constant.
        decay: Power of the spectrum's fall; 0 scales all waves alike.
        sd: Standard deviation of c at the start.

    Raises:
        TransporterError: If an option is negative or not finite.
    """

    score = "logit"

    def __init__(self, canvas: Canvas, lr: float = 0.05, decay: float = 1.0, sd: float = 0.01) -> None:
        super().__init__(canvas)
        check_not_negative(lr=lr, decay=decay, sd=sd)
        self.lr = lr
        # white noise's unitary spectrum is white: real and imaginary parts have variance 1/2
        start = math.sqrt(2) * sd * spectrum(canvas.noise())
        self.waves = nn.Parameter(torch.view_as_real(start).contiguous())
        self.register_buffer("scale", fall(canvas.video, decay), persistent=False)
        self.scale: Tensor
        self.colours = Colours.opponent()

    def pixels(self) -> Tensor:
        """The videos (B, T, 3, H, W) in [0, 1]."""
        video: Tensor = self.colours(waves(torch.view_as_complex(self.waves) * self.scale, self.canvas.video))
        return video

    def transform(self, video: Tensor, progress: float, draws: Draws) -> Tensor:
        """Jitter, turn and zoom, jitter again."""
        side = min(video.shape[-2:])
        shaken = rotate_and_scale(jitter(video, round(side * 4 / 128), draws), 10, 0.9, 1.1, draws)
        return jitter(shaken, round(side * 2 / 128), draws)

    def optimiser(self, steps: int) -> tuple[Adam, LambdaLR]:
        """Adam with a constant learning rate."""
        adam = Adam(self.parameters(), self.lr)
        return adam, LambdaLR(adam, lambda _: 1.0)
