"""Pixels → views of Phi-4-multimodal, in plain differentiable torch, as its official image processor has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers import PreTrainedConfig

from transporter_pl.backbones.patches import normalisation
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SMALLEST = 10  # pixels that a resized frame's sides must have


@dataclass(frozen=True)
class CropGrid:
    """How a frame is cut: resized to fit rows x columns of square crops, padded with white; and squashed to one view.

    Attributes:
        side: Side S of a crop, in pixels.
        patch: Side of a patch.
        rows: Crops from top to bottom.
        columns: Crops from left to right.
        height: Height of the resized frame, which the crops' last row may exceed.
        width: Width of the resized frame.
        mean: Normalisation mean of each channel.
        std: Normalisation standard deviation of each channel.
    """

    side: int
    patch: int
    rows: int
    columns: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> Self:
        """The crops of one geometry, of a vision configuration and under the settings of an image processor.

        Raises:
            TransporterError: If a frame is too narrow.
        """
        side, height, width = config.crop_size, video.height, video.width
        columns, rows = _crops(height, width, side, processor.get("dynamic_hd", 36))
        if columns * side / width < rows * side / height:
            height, width = int(height * (columns * side / width)), columns * side
        else:
            height, width = rows * side, int(width * (rows * side / height))
        if min(height, width) < SMALLEST:
            msg = f"video: {video} is too narrow for this VLM, which would see {height}x{width}; use another size"
            raise TransporterError(msg)
        return cls(side, config.patch_size, rows, columns, height, width, *normalisation(processor))

    @property
    def tokens(self) -> int:
        """Visual tokens of one frame: the crops' features and the whole view's, a separator a row, one between."""
        (height, width), whole = self.useful, self.pooled
        return height * (width + 1) + 1 + whole * (whole + 1)

    @property
    def patch_share(self) -> tuple[float, float]:
        """A patch's share of the frame's height and width, in the crops; the squashed view has larger ones."""
        return self.patch / self.height, self.patch / self.width

    @property
    def pooled(self) -> int:
        """Features a side b of a view: the patches, pooled two by two."""
        return math.ceil(self.side // self.patch / 2)

    @property
    def patches(self) -> tuple[int, int]:
        """(height, width) in patches of what isn't padding alone, in all crops together."""
        below, right = self.rows * self.side - self.height, self.columns * self.side - self.width
        across = self.side // self.patch
        return self.rows * across - below // self.patch, self.columns * across - right // self.patch

    @property
    def useful(self) -> tuple[int, int]:
        """(height, width) in features, two by two patches, of what isn't padding alone, in all crops together."""
        height, width = (sum(i % (self.side // self.patch) % 2 == 0 for i in range(n)) for n in self.patches)
        return height, width

    @property
    def seen(self) -> Tensor:
        """Patches of the views that aren't padding alone, (1 + rows · columns, S / p, S / p), boolean."""
        across, (height, width) = self.side // self.patch, self.patches
        whole = torch.zeros(across * self.rows, across * self.columns, dtype=torch.bool)
        whole[:height, :width] = True
        return torch.cat([torch.ones(1, across, across, dtype=torch.bool), self._cut(whole, across)])

    def views(self, video: Tensor) -> Tensor:
        """Pixels (B, T, 3, H, W) in [0, 1] → the whole and the crops of each frame, (B · T, 1 + crops, 3, S, S)."""
        flat = video.flatten(0, 1)
        if flat.shape[-2:] != (self.height, self.width):
            flat = interpolate(flat, (self.height, self.width), mode="bilinear", antialias=True)
        right, below = self.columns * self.side - self.width, self.rows * self.side - self.height
        mean, std = (flat.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        flat = (pad(flat, (0, right, 0, below), value=1.0) - mean) / std
        whole = flat
        if flat.shape[-2:] != (self.side, self.side):
            whole = interpolate(flat, (self.side, self.side), mode="bicubic")
        return torch.cat([whole[:, None], self._cut(flat, self.side).transpose(1, 2)], 1)

    def whole(self, features: Tensor) -> Tensor:
        """Of features (F, 1 + crops, b · b, C) those of the whole view, (F, b, b, C)."""
        return torch.unflatten(features[:, 0], 1, (self.pooled, self.pooled))

    def detail(self, features: Tensor) -> Tensor:
        """Of features (F, 1 + crops, b · b, C) those of the crops in their places, without padding, (F, h, w, C)."""
        crops = torch.unflatten(features[:, 1:], 2, (self.pooled, self.pooled)).movedim(-1, 1)
        height, width = self.useful
        return _joined(crops, self.rows, self.columns).movedim(1, -1)[:, :height, :width]

    def _cut(self, plane: Tensor, side: int) -> Tensor:
        """(…, rows · side, columns · side) → (…, rows · columns, side, side)."""
        cut = torch.unflatten(torch.unflatten(plane, -2, (self.rows, side)), -1, (self.columns, side))
        return cut.transpose(-3, -2).flatten(-4, -3)


def _joined(crops: Tensor, rows: int, columns: int) -> Tensor:
    """(…, rows · columns, b, b) → (…, rows · b, columns · b)."""
    grid = torch.unflatten(crops, -3, (rows, columns)).transpose(-3, -2)
    return grid.flatten(-4, -3).flatten(-2, -1)


def _crops(height: int, width: int, side: int, most: int) -> tuple[int, int]:
    """Columns and rows: as many as cover the frame, or the shape nearest to the frame's with ``most`` at most.

    Of shapes alike the larger wins if it is not twice the frame's area; no two of one area are ever equally near, so
    the order of these does not matter.
    """
    columns, rows = math.ceil(width / side), math.ceil(height / side)
    if columns * rows <= most:
        return columns, rows
    shapes = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if i * j <= most]
    best = (1, 1)
    for shape in sorted(shapes, key=lambda s: s[0] * s[1]):
        gap, least = (abs(width / height - i / j) for i, j in (shape, best))
        large = height * width > 0.5 * side**2 * shape[0] * shape[1]
        if gap < least or (gap == least and large):
            best = shape
    return best
