"""The port of the baselines, their registry, and how a name in a config becomes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from transporter_pl.baselines.targets import Score
from transporter_pl.baselines.transforms import Draws
from transporter_pl.errors import TransporterError
from transporter_pl.options import check_first, check_options, plugin_class
from transporter_pl.registry import Registry
from transporter_pl.samples import VideoSpec


@dataclass(frozen=True)
class Canvas:
    """What a baseline draws on: B videos at once, which do not know of each other.

    Attributes:
        video: Their geometry.
        seeds: Seed of each one's start; its length is B.
        stimulus: A clip of ε+ for each, (B, T, 3, H, W) in [0, 1], for a baseline that ``needs_stimulus``.
        natural: Any clips of the kind that the VLM knows, (M, T, 3, H, W) in [0, 1], for one that ``needs_natural``.
        moments: See ``VLMAdapter.moments``; ``None`` is every frame.
        patch_size: See ``VLMAdapter.patch_size``.
    """

    video: VideoSpec
    seeds: tuple[int, ...]
    stimulus: Tensor | None = None
    natural: Tensor | None = None
    moments: int | None = None
    patch_size: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(B, T, 3, H, W)."""
        return len(self.seeds), self.video.frames, 3, self.video.height, self.video.width

    def noise(self) -> Tensor:
        """N(0, I) of that shape, each video's by its own seed, the same on every device."""
        draws = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return torch.stack([torch.randn(self.shape[1:], generator=source) for source in draws])


@dataclass(frozen=True)
class Shown:
    """What there is to see in one step.

    Attributes:
        video: The videos as they are drawn, (B, T, 3, H, W) in [0, 1].
        seen: What the VLM was shown of them, after ``Baseline.transform``, of the same shape.
        layers: What the VLM's vision layers made of ``seen``, see ``VLMAdapter.encode_layers``; the last are the tokens
            z_Ω. For a baseline that does not ``read_layers`` these alone.
        stimulus: The same of the stimulus, (B, n_l, D_l) each; empty for a baseline that does not need one.
        progress: Share of the steps that are done, in [0, 1).
    """

    video: Tensor
    seen: Tensor
    layers: tuple[Tensor, ...]
    stimulus: tuple[Tensor, ...]
    progress: float


class Baseline(nn.Module, ABC):
    """Draws videos by gradient ascent on their pixels; a subclass says how they are parametrised and kept natural.

    Its parameters are those of B videos at once; every video has its own, and no term mixes them, so that B changes
    nothing but time and memory, and the last bits.

    Args:
        canvas: What is drawn on; a subclass may take options after it.

    Attributes:
        score: How ``max ϑ+`` reads the target: its ``logit``, or ``log_prob``, the negative cross-entropy.
        needs_stimulus: Whether it looks at a clip of ε+.
        needs_natural: Whether it measures something on natural clips.
        reads_layers: Whether ``penalties`` looks at the VLM's layers, and not at its tokens alone.
    """

    score: ClassVar[Score] = "logit"
    needs_stimulus: ClassVar[bool] = False
    needs_natural: ClassVar[bool] = False
    reads_layers: ClassVar[bool] = False

    def __init__(self, canvas: Canvas) -> None:
        super().__init__()
        self.canvas = canvas
        if self.needs_stimulus and canvas.stimulus is None:
            msg = f"clips: {type(self).__name__} is primed by a clip of ε+; give one for each caption"
            raise TransporterError(msg)
        if self.needs_natural and canvas.natural is None:
            msg = f"natural: {type(self).__name__} measures natural clips; give some"
            raise TransporterError(msg)

    @abstractmethod
    def pixels(self) -> Tensor:
        """The videos (B, T, 3, H, W) in [0, 1], differentiable down to the parameters."""

    @abstractmethod
    def optimiser(self, steps: int) -> tuple[Optimizer, LRScheduler]:
        """What takes the steps, and the learning rate's way through all of them."""

    def transform(self, video: Tensor, progress: float, draws: Draws) -> Tensor:
        """What the VLM is shown of the videos in one step, of their shape; by default the videos.

        Args:
            video: (B, T, 3, H, W) in [0, 1].
            progress: Share of the steps that are done, in [0, 1).
            draws: Each video's own source of chance in this step.
        """
        return video

    def penalties(self, shown: Shown) -> dict[str, Tensor]:
        """What is subtracted from the objective, by name, (B,) each, weighted already; by default nothing."""
        return {}


baselines: Registry[type[Baseline]] = Registry("baselines")


def check_baseline(name: str, options: Mapping[str, Any]) -> type[Baseline]:
    """The class of a registered name or class path, if it takes these options.

    Raises:
        TransporterError: If the name is unknown or another kind of thing, it has no such option (lists those that it
            has), or an option is of another type than it takes.
    """
    kind = plugin_class(baselines, Baseline, "baseline", name)
    check_first("baseline", kind, "canvas", "what it draws on")
    check_options("baseline", name, kind, options, ["canvas"], place="options")
    return kind


def new_baseline(name: str, canvas: Canvas, options: Mapping[str, Any]) -> Baseline:
    """The baseline of a registered name or class path.

    Raises:
        TransporterError: As ``check_baseline``, or if an option is out of its range.
    """
    return check_baseline(name, options)(canvas, **options)
