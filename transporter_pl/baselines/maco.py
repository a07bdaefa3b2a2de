"""MACO: magnitude-constrained optimisation (Fel et al., 2023, arXiv 2306.06805), over videos."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import NAdam
from torch.optim.lr_scheduler import LambdaLR

from transporter_pl.baselines.base import Baseline, Canvas
from transporter_pl.baselines.parametrisations import Colours, mean_magnitude, odd_phase, spectrum, waves
from transporter_pl.baselines.transforms import add_noise, crop
from transporter_pl.errors import TransporterError, check_not_negative

SMALLEST_CROP = 16


class MACO(Baseline):
    """x = sigmoid(A F⁻¹(m e^{iφ}) + mean): ascent on the phases φ alone, m the mean magnitude of natural clips.

    Spectrum, colours and their mean are those of the natural clips, measured before the sigmoid, so that videos have
    their contrast and tint; the paper measures pixels. It averages over many crops a step; here a step is one crop, and
    one forward pass, as everywhere.

    Args:
        canvas: What is drawn on, with natural clips of its geometry.
        learning_rate: Of NAdam, constant, in radians.
        first_crop: Side of the box that the VLM is shown, as a share of the frame's, in the first step; it falls
            linearly.
        last_crop: The same in the last. A box has 16 pixels a side at least, or the whole frame: the paper's 0.05 is of
            pictures far larger than what its networks see.
        noise: Standard deviation of what is added to the pixels.

    Raises:
        TransporterError: If an option is out of its range, or the natural clips are of another geometry or all alike.
    """

    score = "logit"
    needs_natural = True

    def __init__(
        self,
        canvas: Canvas,
        learning_rate: float = 1.0,
        first_crop: float = 0.5,
        last_crop: float = 0.05,
        noise: float = 0.08,
    ) -> None:
        super().__init__(canvas)
        check_not_negative(learning_rate=learning_rate, noise=noise)
        for name, side in (("first_crop", first_crop), ("last_crop", last_crop)):
            if not 0 < side <= 1:
                msg = f"{name}: {side} is no share of the frame's side; give a number above 0, up to 1 for all of it"
                raise TransporterError(msg)
        self.learning_rate, self.noise, self.crops = learning_rate, noise, (first_crop, last_crop)
        self.phase = nn.Parameter(spectrum(canvas.noise()).angle())
        natural = _natural(canvas)
        self.colours = Colours.measured(natural)
        self.register_buffer("magnitude", mean_magnitude(self.colours.inverse(natural)), persistent=False)
        self.magnitude: Tensor

    def pixels(self) -> Tensor:
        """The videos (B, T, 3, H, W) in [0, 1]."""
        phase = odd_phase(self.phase, self.canvas.video.width)
        return self.colours(waves(torch.polar(self.magnitude.expand_as(phase), phase), self.canvas.video))

    def transform(self, video: Tensor, progress: float) -> Tensor:
        """A box of the frame, and noise."""
        first, last = self.crops
        bound = min(1.0, SMALLEST_CROP / min(video.shape[-2:]))
        side = max(bound, first + (last - first) * progress)
        return add_noise(crop(video, side, side), self.noise)

    def optimiser(self, steps: int) -> tuple[NAdam, LambdaLR]:
        """NAdam with a constant learning rate."""
        nadam = NAdam(self.parameters(), self.learning_rate)
        return nadam, LambdaLR(nadam, lambda _: 1.0)


def _natural(canvas: Canvas) -> Tensor:
    natural = canvas.natural
    if natural is None or natural.shape[1:] != canvas.shape[1:]:
        shape = None if natural is None else tuple(natural.shape)
        msg = f"natural: clips of shape {shape}; give some of (M, {', '.join(map(str, canvas.shape[1:]))})"
        raise TransporterError(msg)
    return natural.float()
