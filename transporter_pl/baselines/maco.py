"""MACO: magnitude-constrained optimisation (Fel et al., 2023, arXiv 2306.06805), over videos."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import NAdam
from torch.optim.lr_scheduler import LambdaLR

from transporter_pl.baselines.base import Baseline, Canvas
from transporter_pl.baselines.parametrisations import Colours, mean_magnitude, odd_phase, spectrum, waves
from transporter_pl.baselines.transforms import Draws, add_noise, crop
from transporter_pl.errors import TransporterError, check_not_negative

SMALLEST_CROP = 64  # pixels a side: of a larger frame, a box of fewer shows a VLM but few of its patches


class MACO(Baseline):
    """x = sigmoid(A F⁻¹(m e^{iφ}) + mean): ascent on the phases φ alone, m the mean magnitude of natural clips.

    Spectrum, colours and their mean are those of the natural clips, measured before the sigmoid, so that videos have
    their contrast and tint; the paper measures pixels. It averages many crops a step; here a step is one crop, and one
    forward pass, as everywhere. Its crops are of pictures far larger than what its networks see; here the VLM sees
    whole frames, so a crop has 64 pixels a side at least, and is all of a smaller frame.

    Args:
        canvas: What is drawn on, with natural clips of its geometry.
        lr: Of NAdam, constant; a phase is in radians.
        first_crop: Side of the box that the VLM is shown, as a share of the frame's, at first; it changes linearly.
        last_crop: The same at last.
        noise: Standard deviation of what is added to the pixels; the paper has 0.05 to 0.08.

    Raises:
        TransporterError: If an option is out of its range, or the natural clips are of other shapes or lack contrast.
    """

    score = "logit"
    needs_natural = True

    def __init__(
        self,
        canvas: Canvas,
        lr: float = 1.0,
        first_crop: float = 0.5,
        last_crop: float = 0.05,
        noise: float = 0.08,
    ) -> None:
        super().__init__(canvas)
        check_not_negative(lr=lr, noise=noise)
        for name, side in (("first_crop", first_crop), ("last_crop", last_crop)):
            if not 0 < side <= 1:
                msg = f"{name}: {side} is no share of the frame's side; give a number above 0, up to 1 for all of it"
                raise TransporterError(msg)
        self.lr, self.noise, self.crops = lr, noise, (first_crop, last_crop)
        self.phase = nn.Parameter(spectrum(canvas.noise()).angle())
        natural = _natural(canvas)
        self.colours = Colours.measured(natural)
        self.register_buffer("magnitude", mean_magnitude(map(self.colours.inverse, natural)), persistent=False)
        self.magnitude: Tensor

    def pixels(self) -> Tensor:
        """The videos (B, T, 3, H, W) in [0, 1]."""
        phase = odd_phase(self.phase, self.canvas.video.width)
        video: Tensor = self.colours(waves(torch.polar(self.magnitude.expand_as(phase), phase), self.canvas.video))
        return video

    def transform(self, video: Tensor, progress: float, draws: Draws) -> Tensor:
        """A box of the frame, and noise."""
        first, last = self.crops
        bound = min(1.0, SMALLEST_CROP / min(video.shape[-2:]))
        side = max(bound, first + (last - first) * progress)
        return add_noise(crop(video, side, side, draws), self.noise, draws)

    def optimiser(self, steps: int) -> tuple[NAdam, LambdaLR]:
        """NAdam with a constant learning rate."""
        nadam = NAdam(self.parameters(), self.lr)
        return nadam, LambdaLR(nadam, lambda _: 1.0)


def _natural(canvas: Canvas) -> Tensor:
    """The natural clips, which come in no other shape than they are drawn in."""
    natural, wanted = canvas.natural, canvas.shape[1:]
    if natural is None or natural.shape[1:] != wanted:
        shape = natural if natural is None else tuple(natural.shape)
        msg = f"natural: clips of shape {shape} do not fit; give some of (M, {', '.join(map(str, wanted))})"
        raise TransporterError(msg)
    return natural
