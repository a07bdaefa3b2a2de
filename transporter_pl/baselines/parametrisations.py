"""Videos as sums of waves in uncorrelated colours: what feature visualisation optimises in the place of pixels.

One spectrum over time, height and width, and not one a frame: the phases of its waves carry motion, and what changes
slowly is reached first, as in natural videos. With a spectrum a frame, frames would know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn
from torch.fft import fftfreq, irfftn, rfftfreq, rfftn

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

AXES = (-4, -2, -1)  # T, H and W of (..., T, 3, H, W)
MARGIN = 0.01  # pixels nearer to 0 or 1 count as so near: there the sigmoid's inverse has no bound


def spectrum(video: Tensor) -> Tensor:
    """Real videos (..., T, 3, H, W) → their complex, unitary spectra over (T, H, W), (..., T, 3, H, W // 2 + 1)."""
    spectra: Tensor = rfftn(video, dim=AXES, norm="ortho")
    return spectra


def waves(spectra: Tensor, video: VideoSpec) -> Tensor:
    """The inverse: spectra (..., T, 3, H, W // 2 + 1) → real videos (..., T, 3, H, W)."""
    sides = (video.frames, video.height, video.width)
    videos: Tensor = irfftn(spectra, s=sides, dim=AXES, norm="ortho")
    return videos


def fall(video: VideoSpec, power: float) -> Tensor:
    """1 / max(f, 1/n)^power, f in cycles a pixel and a frame, n the longest side: the fall of natural spectra.

    Feature Visualization (Olah et al., 2017) has f over a picture's two axes; here time is the third.

    Args:
        video: Geometry.
        power: 1 is what natural pictures have about.

    Returns:
        (T, 1, H, W // 2 + 1).
    """
    time, down, across = fftfreq(video.frames), fftfreq(video.height), rfftfreq(video.width)
    squares = time[:, None, None, None] ** 2 + down[:, None] ** 2 + across**2
    lowest = 1 / max(video.frames, video.height, video.width)
    scale: Tensor = squares.sqrt().clamp_min(lowest) ** -power
    return scale


def odd_phase(phase: Tensor, width: int) -> Tensor:
    """Phases that a real video can have: φ(−k) = −φ(k), also in the planes that hold both k and −k.

    There a real transform would take the mean of both waves, and change their magnitudes with their phases.

    Args:
        phase: Any, (..., T, 3, H, W // 2 + 1).
        width: W.

    Returns:
        φ(k) − φ(−k) in these planes, φ elsewhere; of the same shape.
    """
    planes = [0] if width % 2 else [0, width // 2]
    mirrored = phase[..., planes].flip(-4, -2).roll((1, 1), (-4, -2))
    odd = phase.clone()
    odd[..., planes] = phase[..., planes] - mirrored
    return odd


class Colours(nn.Module):
    """From uncorrelated values of unit variance to pixels: x = sigmoid(A u + m), and back.

    Args:
        axes: A, (3, 3): a column is what one value does to red, green and blue, before the sigmoid.
        mean: m, (3,).
    """

    def __init__(self, axes: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("axes", axes, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.axes: Tensor
        self.mean: Tensor

    @classmethod
    def opponent(cls) -> Self:
        """Brightness, red against blue, and green against both, at 1 : 1/4 : 1/8, about grey.

        Ohta, Kanade and Sakai (1980) found these orthonormal axes in photographs, in this order of variance; each scale
        is a round number of the size that is seen there.
        """
        axes = torch.tensor([[1.0, 1.0, -1.0], [1.0, 0.0, 2.0], [1.0, -1.0, -1.0]])
        scales = torch.tensor([1.0, 1 / 4, 1 / 8])
        return cls(scales * axes / axes.norm(dim=0), torch.zeros(3))

    @classmethod
    def measured(cls, natural: Tensor) -> Self:
        """The mean colour of natural clips, and the symmetric root of the covariance within them, before the sigmoid.

        What one clip differs in from the next, such as a bright background, is no contrast within either.

        Args:
            natural: (M, T, 3, H, W) in [0, 1].

        Raises:
            TransporterError: If no clip has any contrast.
        """
        mean, covariance = (torch.stack(found).mean(0) for found in zip(*map(_moments, natural), strict=True))
        variances, vectors = torch.linalg.eigh(covariance)
        if not variances[-1] > torch.finfo(natural.dtype).eps:
            msg = f"natural: none of these {len(natural)} clips has any contrast; give natural clips"
            raise TransporterError(msg)
        root = vectors * variances.clamp_min(0).sqrt() @ vectors.mT
        return cls(root.to(natural), mean.to(natural))

    def forward(self, values: Tensor) -> Tensor:
        """Values u → pixels x, both (..., 3, H, W)."""
        return (torch.einsum("rc,...chw->...rhw", self.axes, values) + self.mean[:, None, None]).sigmoid()

    def inverse(self, video: Tensor) -> Tensor:
        """Pixels x → values u; 0 along an axis that natural colours do not have."""
        values = video.logit(MARGIN) - self.mean[:, None, None]
        return torch.einsum("cr,...rhw->...chw", torch.linalg.pinv(self.axes), values)


def _moments(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a clip's colours before the sigmoid, (3,) and (3, 3), in double."""
    values = clip.double().logit(MARGIN).movedim(-3, 0).flatten(1)
    return values.mean(1), values.cov(correction=0)


def mean_magnitude(values: Iterable[Tensor]) -> Tensor:
    """Mean magnitude of the clips' spectra, for videos of zero mean and unit variance in each of the three values.

    Standardised once: with an ``odd_phase`` no phase changes a wave's magnitude, and by Parseval's theorem none changes
    a video's variance.

    Args:
        values: Uncorrelated values of M clips, (T, 3, H, W) each; in one tensor, or made one after the other.

    Returns:
        (T, 3, H, W // 2 + 1).
    """
    magnitude = torch.zeros(())
    for clip in values:  # their number does not matter: the power below is divided out
        magnitude = magnitude + spectrum(clip).abs()
    magnitude[0, :, 0, 0] = 0
    frames, _, height, width = clip.shape
    power = waves(magnitude, VideoSpec(frames, height, width)).square().mean(AXES, keepdim=True)
    return magnitude / power.sqrt().clamp_min(torch.finfo(magnitude.dtype).tiny)
