"""The simplest baseline: its parameters are the pixels."""

import torch
from torch import nn

from transporter_pl.baselines.base import Baseline
from transporter_pl.baselines.transforms import add_noise


class PlainPixels(Baseline):
    """Pixels through a sigmoid, Adam at a constant rate, a penalty that draws them to grey.

    Args:
        canvas: What is drawn on.
        lr: Learning rate.
        grey: Weight of the penalty.
    """

    score = "log_prob"

    def __init__(self, canvas, lr: float = 0.1, grey: float = 0.0) -> None:
        super().__init__(canvas)
        self.lr, self.grey = lr, grey
        self.raw = nn.Parameter(canvas.noise())

    def pixels(self):
        return self.raw.sigmoid()

    def transform(self, video, progress, draws):
        return add_noise(video, 0.02, draws).clamp(0, 1)

    def penalties(self, shown):
        return {"grey": self.grey * (shown.video - 0.5).square().mean((1, 2, 3, 4))}

    def optimiser(self, steps):
        optimiser = torch.optim.Adam(self.parameters(), self.lr)
        return optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)


class Primed(PlainPixels):
    """One that looks at a clip of the second word and at layers."""

    needs_stimulus = True
    reads_layers = True

    def penalties(self, shown):
        pairs = zip(shown.layers, shown.stimulus, strict=True)
        far = [(seen.mean(1) - wanted.mean(1)).square().mean(-1) for seen, wanted in pairs]
        return {"far": torch.stack(far).mean(0)}
