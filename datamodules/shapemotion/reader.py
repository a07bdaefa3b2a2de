"""Measures the six factors of a ShapeMotion clip from its pixels, without any learning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.datamodules.shapemotion.world import FACTORS, oval_mask, pixel_grid

# Residual above which the object counts as broken. Rendered clips stay below 0.02, codec blur below 0.1; an object in
# two pieces lies above 0.4. A smear along the whole path is itself nearly an oval, below 0.15: it shows in the speed,
# which reads 0 (tests/datamodules/test_reader.py draws all of them).
WHOLE_RESIDUAL = 0.2
SMALLEST_AREA = 0.01  # of the frame, half the area of the smallest oval: what is less is no object


@dataclass(frozen=True)
class Reading:
    """What the reader measured in B clips.

    Attributes:
        values: Continuous factors (B, 6), columns and units as in ``FACTORS``.
        velocity: (B, 2) as (right, up), in sides per frame.
        area: (B,) area of the object as a fraction of the frame.
        residual: (B,) squared error of the best oval, relative to the object's area; 0 for a perfect oval.
    """

    values: Tensor
    velocity: Tensor
    area: Tensor
    residual: Tensor

    @property
    def words(self) -> Tensor:
        """Index of the word that names each value, (B, 6)."""
        return torch.stack([f.word_of(self.values[:, i]) for i, f in enumerate(FACTORS.values())], 1)

    @property
    def whole(self) -> Tensor:
        """Whether the object is there, as one whole oval, (B,) bool."""
        return (self.residual < WHOLE_RESIDUAL) & (self.area > SMALLEST_AREA)

    def value(self, name: str) -> Tensor:
        """Continuous value of one factor, (B,)."""
        return self.values[:, list(FACTORS).index(name)]

    def word(self, name: str) -> Tensor:
        """Word index of one factor, (B,)."""
        return self.words[:, list(FACTORS).index(name)]


@torch.no_grad()
def read(video: Tensor) -> Reading:
    """Measure factors by background median, colour projection, moments and a template fit.

    The object's coverage α is the projection of each pixel's difference from the background on the object's colour
    difference; its zeroth, first and second moments give area, centre and aspect; a line through the centres gives the
    velocity; the oval rendered from these is compared with α.

    Args:
        video: (B, T, 3, H, W) in [0, 1], square frames.
    """
    side = video.shape[-1]
    # contiguous: torch's median of an expanded tensor is NaN
    ground = video.transpose(1, 2).flatten(2).contiguous().median(-1).values
    coverage, paint = _coverage(video, ground)
    mass = coverage.sum((2, 3)).clamp(min=1e-3)
    centre, log_aspect = _moments(coverage, mass)
    radius = torch.sqrt(mass.median(1).values / math.pi)
    aspect = log_aspect.median(1).values
    residual = _residual(coverage, centre, radius, aspect)
    velocity = _slope(centre) * torch.tensor([1.0, -1.0], device=video.device) / side
    direction = torch.rad2deg(torch.atan2(velocity[:, 1], velocity[:, 0])) % 360
    columns = {
        "size": radius / side,
        "shape": aspect,
        "colour": _hue(paint),
        "direction": direction,
        "speed": velocity.norm(dim=1),
        "background": ground.mean(1),
    }
    values = torch.stack([columns[name] for name in FACTORS], 1)
    return Reading(values, velocity, math.pi * columns["size"] ** 2, residual)


def _coverage(video: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Soft mask α (B, T, H, W) of the object and its colour (B, 3)."""
    difference = video - ground[:, None, :, None, None]
    distance = difference.norm(dim=2)
    strongest = distance.flatten(1).quantile(0.98, dim=1)
    core = (distance >= 0.85 * strongest[:, None, None, None]).float()
    paint = (video * core[:, :, None]).sum((1, 3, 4)) / core.sum((1, 2, 3)).clamp(min=1)[:, None]
    axis = paint - ground
    projection = (difference * axis[:, None, :, None, None]).sum(2)
    coverage = (projection / axis.square().sum(1).clamp(min=1e-4)[:, None, None, None]).clamp(0, 1)
    return torch.where(coverage < 0.15, 0.0, coverage), paint


def _moments(coverage: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (B, T, 2) in pixels and ln(width / height) (B, T) from first and second moments."""
    y, x = pixel_grid(coverage.shape[-1], coverage.device)
    cx, cy = (coverage * x).sum((2, 3)) / mass, (coverage * y).sum((2, 3)) / mass
    var_x = (coverage * (x - cx[..., None, None]) ** 2).sum((2, 3)) / mass
    var_y = (coverage * (y - cy[..., None, None]) ** 2).sum((2, 3)) / mass
    pixel = 1 / 12  # a pixel's own spread
    log_aspect = 0.5 * torch.log((var_x - pixel).clamp(min=1e-2) / (var_y - pixel).clamp(min=1e-2))
    return torch.stack([cx, cy], -1), log_aspect


def _residual(coverage: Tensor, centre: Tensor, radius: Tensor, aspect: Tensor) -> Tensor:
    """Squared error of the fitted oval over all frames, relative to the object's area, (B,)."""
    frames = coverage.shape[1]
    expand = (len(radius), frames)
    fit = oval_mask(centre, radius[:, None].expand(expand), aspect[:, None].expand(expand), coverage.shape[-1])
    return (fit - coverage).square().sum((1, 2, 3)) / (frames * math.pi * radius.square()).clamp(min=1)


def _slope(centre: Tensor) -> Tensor:
    """Least-squares velocity of a path (B, T, 2), per frame, (B, 2)."""
    time = torch.arange(centre.shape[1], device=centre.device) - (centre.shape[1] - 1) / 2
    return (centre * time[None, :, None]).sum(1) / time.square().sum()


def _hue(colour: Tensor) -> Tensor:
    """Hue of RGB colours (B, 3) in degrees."""
    red, green, blue = colour.unbind(1)
    return torch.rad2deg(torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
