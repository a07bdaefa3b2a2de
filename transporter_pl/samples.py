"""What travels between the rooms: frozen dataclasses with a shape per field."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from transporter_pl.errors import TransporterError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class VideoSpec:
    """Geometry of the videos that an adapter is built for.

    Attributes:
        frames: Number of frames T.
        height: Frame height in pixels.
        width: Frame width in pixels.
        fps: Frames per second.

    Raises:
        TransporterError: If a count is below 1, or the frame rate is not finite and above 0.
    """

    frames: int
    height: int
    width: int
    fps: float = 8.0

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            if getattr(self, name) < 1:
                msg = f"video.{name}: {getattr(self, name)} is too small; give at least 1"
                raise TransporterError(msg)
        if not 0 < self.fps < math.inf:
            msg = f"video.fps: {self.fps:g} is no frame rate; give a finite number above 0, such as 8"
            raise TransporterError(msg)

    def __str__(self) -> str:
        """Readable geometry, as in error messages."""
        return f"{self.frames} frames of {self.height}x{self.width} at {self.fps:g} fps"


@dataclass(frozen=True)
class Shapes:
    """Shapes of one clip's encodings, from which a coupling network is built.

    Attributes:
        latents: (C, T', H', W') of z_Ξ.
        condition: (L, D_c) of π_Ξ.
        tokens: (N, D) of z_Ω.
    """

    latents: tuple[int, int, int, int]
    condition: tuple[int, int]
    tokens: tuple[int, int]


@dataclass(frozen=True)
class Origin:
    """The frozen models that encoded clips, or a network trained on them, come from.

    Attributes:
        generator: Hub id or folder of the generator Ξ.
        vlm: Hub id or folder of the VLM Ω.
        video: Geometry of the clips.
        generator_weights: Fingerprint of the generator's weights; empty where it is not known.
        vlm_weights: The same of the VLM's.
    """

    generator: str
    vlm: str
    video: VideoSpec
    generator_weights: str = ""
    vlm_weights: str = ""


@dataclass(frozen=True)
class Clips:
    """A batch of captioned videos.

    Attributes:
        ids: Names of the B clips.
        video: Pixels x in [0, 1], (B, T, 3, H, W).
        captions: One caption a clip.
    """

    ids: tuple[str, ...]
    video: Tensor
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """Everything the frozen backbones say about a batch of clips; what the latent cache holds.

    Attributes:
        ids: Names of the B clips.
        captions: One caption a clip.
        latents: z_Ξ, the generator's normalised latents, (B, C, T', H', W').
        condition: π_Ξ, the generator's text states, (B, L, D_c).
        tokens: z_Ω, the VLM's visual tokens, (B, N, D).
        reencoded: z_Ξ→Ω = E_Ω(D_Ξ(z_Ξ)), (B, N, D).
    """

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    latents: Tensor
    condition: Tensor
    tokens: Tensor
    reencoded: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The batch on another device; Lightning moves batches by this method."""
        names = ("latents", "condition", "tokens", "reencoded")
        return replace(self, **{n: getattr(self, n).to(device, non_blocking=non_blocking) for n in names})


@dataclass(frozen=True)
class Coupled:
    """What the coupling network Φ returns.

    Attributes:
        tokens: z̃_Ω, the transported tokens, (B, N, D).
        first: ẑ1 of Φ_Ω1 (the Mixer), (B, N, D); ``None`` where the transport does not read it.
        second: ẑ2 of Φ_Ω2 (the Transformer), (B, N, D); ``None`` where the transport does not read it.
    """

    tokens: Tensor
    first: Tensor | None = None
    second: Tensor | None = None


SAME = 1e-4  # share of the features' variance below which a position's token is the same in all clips


@dataclass(frozen=True)
class TokenStatistics:
    """What is known of the tokens z_Ω of a pair before any is coupled.

    Attributes:
        mean: Mean of every feature, (D,).
        std: Standard deviation of every feature, (D,); 1 for one that never changes.
        fixed: Which positions hold the same token in every clip, as those of separators do, (N,) of bool; ``None``
            where that is not known.
        tokens: Mean token of every position, (N, D); ``None`` likewise.
    """

    mean: Tensor
    std: Tensor
    fixed: Tensor | None = None
    tokens: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor) -> Self:
        """Those of clips in memory, (B, N, D)."""
        exact = tokens.double()
        return cls.from_sums(len(exact), exact.sum(0), exact.square().sum(0))

    @classmethod
    def from_sums(cls, clips: int, total: Tensor, square: Tensor) -> Self:
        """Those of many clips, whose tokens and squared tokens are added up per position, both (N, D), float64."""
        tokens, mean = total / clips, total.mean(0) / clips
        std = (square.mean(0) / clips - mean.square()).clamp(min=0).sqrt()
        std[std <= 1e-6 * std.max()] = 1
        within = (square / clips - tokens.square()).clamp(min=0) / std.square()
        fixed = within.mean(-1) < SAME
        if fixed.all():  # of one clip alone it can't be told
            fixed = ~fixed
        return cls(mean.float(), std.float(), fixed, tokens.float())
