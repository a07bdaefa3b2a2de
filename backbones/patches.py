"""Pixels → patch rows of VideoLLaMA 3 and Qwen3-VL, in plain differentiable torch, as their official processors do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

PIXELS = {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768}  # the processor class's own defaults


@dataclass(frozen=True)
class PatchGrid:
    """How a frame is cut: resized to (height, width), normalised, cut into patches grouped by the tokens they merge to.

    Attributes:
        height: Height after resizing, in pixels.
        width: Width after resizing.
        patch: Side p of a patch, in pixels.
        merge: Side m of the square of patches that becomes one token.
        mean: Normalisation mean of each channel.
        std: Normalisation standard deviation of each channel.
    """

    height: int
    width: int
    patch: int
    merge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, video: VideoSpec, patch: int, processor: Mapping[str, Any]) -> Self:
        """The grid of one geometry under the settings of a video processor.

        Raises:
            TransporterError: If the processor does not resize and the frame is no multiple of patch · merge.
        """
        merge = processor.get("merge_size", 2)
        height, width = video.height, video.width
        if processor.get("do_resize", True):
            # the budget of pixels is shared by the frames of a clip
            size = processor.get("size") or PIXELS
            most = size["longest_edge"] // video.frames
            height, width = smart_resize(height, width, patch * merge, size["shortest_edge"], most)
        if height % (patch * merge) or width % (patch * merge):
            msg = (
                f"video: {video} does not suit this VLM; height and width must be multiples of "
                f"{patch * merge} (patch {patch} x merge {merge})"
            )
            raise TransporterError(msg)
        return cls(height, width, patch, merge, *normalisation(processor))

    @property
    def tokens(self) -> int:
        """Visual tokens of one frame, (H / p / m) (W / p / m)."""
        return (self.height // self.patch // self.merge) * (self.width // self.patch // self.merge)

    @property
    def patch_share(self) -> tuple[float, float]:
        """A patch's share of the frame's height and width."""
        return self.patch / self.height, self.patch / self.width

    def rows(self, video: Tensor) -> Tensor:
        """Pixels (B, T, 3, H, W) in [0, 1] → patch rows (B · T · h · w, 3 · p · p), with h = H / p and w = W / p.

        The patches of one token stand together: rows run over (clip, frame, token row, token column, m, m).
        """
        count, frames, channels = video.shape[:3]
        flat = video.flatten(0, 1)
        for size in ((video.shape[-2], self.width), (self.height, self.width)):
            if flat.shape[-2:] != size:
                # bicubic overshoots; the processor works on bytes, one axis after the other, and bytes can't
                flat = interpolate(flat, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (flat.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        p, m = self.patch, self.merge
        cut = ((flat - mean) / std).view(
            count * frames, channels, self.height // p // m, m, p, self.width // p // m, m, p
        )
        return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, channels * p * p)

    def shapes(self, count: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the model wants to know beside the rows: (T, h, w) of each clip (B, 3), and merge sizes (B,)."""
        grid = torch.tensor([[frames, self.height // self.patch, self.width // self.patch]] * count, device=device)
        return grid, torch.tensor([self.merge] * count, device=device)


def smart_resize(
    height: int, width: int, factor: int, least: int, most: int, frames: int = 1, span: int = 1
) -> tuple[int, int]:
    """Nearest size in multiples of ``factor`` with between ``least`` and ``most`` pixels, as the processors choose it.

    Args:
        height: Height of the frame.
        width: Width of the frame.
        factor: Side of the square that becomes one token.
        least: Smallest number of pixels.
        most: Largest number of pixels.
        frames: Frames whose pixels are counted together.
        span: Frames that become one token; whole tokens are counted, rounded.

    Raises:
        TransporterError: If one side is more than 200 times the other.
    """
    if max(height, width) > 200 * min(height, width):
        msg = f"video: a frame of {height}x{width} is too elongated for this VLM; keep the sides' ratio within 200"
        raise TransporterError(msg)
    near, counted = [round(side / factor) * factor for side in (height, width)], round(frames / span) * span
    if counted * near[0] * near[1] > most:
        shrink = math.sqrt(frames * height * width / most)
        near = [max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)]
    elif counted * near[0] * near[1] < least:
        grow = math.sqrt(least / (frames * height * width))
        near = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return near[0], near[1]


def normalisation(processor: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour under the settings of a processor; 0.5 where it has none."""
    if not processor.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    mean, std = (processor.get(name, 0.5) for name in ("image_mean", "image_std"))
    return _channels(mean), _channels(std)


def _channels(value: float | list[float]) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
