"""What is done to videos before the VLM sees them, so that no single pixel decides: shifts, turns, crops, noise.

Each takes videos (B, T, 3, H, W) and returns as many of that shape, differentiable down to their pixels. All frames of
a clip are treated alike, so that no motion is made up, and every clip in its own way, by a source of chance of its own:
what is made of one does not depend on the others. The sources are on the CPU, so that it is the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

GREY = 0.5
Beyond = Literal["grey", "border"]
Draws = Sequence[torch.Generator]  # one a video


def warp(video: Tensor, angle: Tensor, zoom: Tensor, centre: Tensor, beyond: Beyond = "grey") -> Tensor:
    """Turn and zoom about a point, which comes to lie in the middle; bilinear.

    The pixel at p, counted from the middle, shows what was at R(angle) p / zoom + centre.

    Args:
        video: (B, T, 3, H, W).
        angle: Radians counter-clockwise, (B,).
        zoom: Above 1 enlarges, (B,).
        centre: The point (x, y) in half frame sides from the middle: (1, 1) is the lower right corner; (B, 2).
        beyond: What is seen beyond the frame: grey, or the nearest pixel of its border.

    Returns:
        (B, T, 3, H, W).
    """
    height, width = video.shape[-2:]
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    # grids count in half frame sides, in which a turned frame that is not square would be sheared
    rows = [torch.stack([cosine, -sine * height / width], -1), torch.stack([sine * width / height, cosine], -1)]
    matrix = torch.cat([torch.stack(rows, 1), centre[:, :, None]], -1).to(video)
    frames = video.flatten(1, 2) - GREY
    grid = affine_grid(matrix, list(frames.shape), align_corners=False)
    padding = "zeros" if beyond == "grey" else "border"
    seen = grid_sample(frames, grid, padding_mode=padding, align_corners=False) + GREY
    return seen.reshape(video.shape)


def jitter(video: Tensor, pixels: int, draws: Draws) -> Tensor:
    """Shift by whole pixels, up to so many either way; grey comes in."""
    count, (height, width) = len(video), video.shape[-2:]
    shift = _whole(pixels, draws) * torch.tensor([2 / width, 2 / height])
    return warp(video, torch.zeros(count), torch.ones(count), shift)


def roll(video: Tensor, most: int, draws: Draws) -> Tensor:
    """Shift by whole pixels, up to so many either way; what leaves comes in at the other side."""
    shifts = _whole(most, draws).tolist()
    return torch.stack([clip.roll(shift, (-2, -1)) for clip, shift in zip(video, shifts, strict=True)])


def rotate_and_scale(video: Tensor, degrees: float, low: float, high: float, draws: Draws) -> Tensor:
    """Turn by up to so many degrees either way, and zoom by a factor between low and high; grey comes in."""
    angle = torch.deg2rad(_uniform(-degrees, degrees, draws))
    return warp(video, angle, _uniform(low, high, draws), torch.zeros(len(video), 2))


def crop(video: Tensor, low: float, high: float, draws: Draws) -> Tensor:
    """Show a box within the frame, enlarged to all of it; its side is a share of the frame's, between low and high."""
    count = len(video)
    side = _uniform(low, high, draws)
    corner = torch.stack([_uniform(-1, 1, draws), _uniform(-1, 1, draws)], 1)
    return warp(video, torch.zeros(count), 1 / side, (1 - side)[:, None] * corner, "border")


def add_noise(video: Tensor, sd: float, draws: Draws) -> Tensor:
    """Add N(0, sd²) to every pixel of every frame; what leaves [0, 1] by that is left there, with its gradient."""
    noise = [torch.randn(video.shape[1:], generator=source) for source in draws]
    return video + sd * torch.stack(noise).to(video)


def flip(video: Tensor, chance: float, draws: Draws) -> Tensor:
    """Exchange left and right with this chance: also in what the clip shows of the two words."""
    flipped = (_uniform(0, 1, draws) < chance).to(video.device)
    return torch.where(flipped[:, None, None, None, None], video.flip(-1), video)


def _uniform(low: float, high: float, draws: Draws) -> Tensor:
    return low + (high - low) * torch.cat([torch.rand(1, generator=source) for source in draws])


def _whole(most: int, draws: Draws) -> Tensor:
    """Whole numbers down and across, (B, 2)."""
    return torch.stack([torch.randint(-most, most + 1, (2,), generator=source) for source in draws])
