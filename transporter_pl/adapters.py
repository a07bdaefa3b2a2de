"""The ports: what the core asks of a text-to-video generator and of a video VLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry
from transporter_pl.samples import VideoSpec

Texts = str | Sequence[str]


class Frozen(nn.Module):
    """A backbone that stays as it is: eval mode after ``.train()``, no gradients to its weights.

    Gradients still flow *through* it, from outputs to inputs. Subclasses call ``freeze()`` when their weights are in
    place. ``source`` is the hub id or folder it was loaded from; caches and banks name it.
    """

    source: str
    video: VideoSpec

    @classmethod
    def from_config(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """The architecture of a hub id or local folder with random weights at full size; no weight file is read.

        Args:
            path: As for ``from_pretrained``; of a published model, nothing at all need be at hand.
            video: Geometry of the clips.
            dtype: Type that the weights are drawn in, on the device that ``with torch.device(...)`` names.

        Raises:
            TransporterError: As ``from_pretrained``; or if the adapter has no such way, which is the default.
        """
        msg = f"weights: {cls.__name__} draws no random ones; use weights: pretrained, or write its from_config"
        raise TransporterError(msg)

    def freeze(self) -> Self:
        """Switch to eval and stop gradients to every weight."""
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever Lightning asks for."""
        return super().train(False)

    @classmethod
    def check_access(cls, path: str | Path) -> None:
        """Refuse a hub id or folder that can't be read, before another model is downloaded; nothing by default.

        Raises:
            TransporterError: If so.
        """

    def checkpoint_activations(self) -> None:
        """Keep few activations for the backward pass and compute the others anew: less memory, more time.

        Raises:
            TransporterError: If the adapter can't.
        """
        msg = f"checkpointing: {type(self).__name__} does not offer it; leave it out"
        raise TransporterError(msg)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.parameters()).dtype


class Schedule(Protocol):
    """The generator's own denoising schedule, made anew for every sampling run, which may begin at any of its steps.

    Solvers keep a history.
    """

    times: Tensor  # (steps,) t of each step in (0, 1], descending

    def step(self, velocity: Tensor, index: int, latents: Tensor) -> Tensor:
        """Latents after step ``index``, given v at ``times[index]``; all (B, C, T', H', W')."""


class GeneratorAdapter(Frozen, ABC):
    """A text-to-video generator Ξ.

    One convention outward, whatever the backbone's own: z_t = (1 − t) z + t ω with noise ω ~ N(0, I), t ∈ [0, 1], and
    the velocity v = ω − z. Latents are normalised as the generator's own pipeline does.
    """

    @classmethod
    @abstractmethod
    def from_pretrained(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """Load from a hub id or a local folder, for videos of one geometry.

        Raises:
            TransporterError: Before any weight is loaded, if the geometry does not suit the generator.
        """

    @classmethod
    @abstractmethod
    def shapes_of(cls, path: str | Path, video: VideoSpec) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """(C, T', H', W') of latents and (L, D_c) of a condition, from the configuration alone.

        Args:
            path: Hub id or local folder, as for ``from_pretrained``; no weight of it is read.
            video: Geometry of the clips.

        Raises:
            TransporterError: As ``from_pretrained``.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write a folder that ``from_pretrained`` reads."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, T', H', W') of one clip's latents."""

    @property
    @abstractmethod
    def condition_shape(self) -> tuple[int, int]:
        """(L, D_c) of one caption's condition."""

    @property
    def latent_frames(self) -> tuple[range, ...]:
        """The frames that each of the T' latent frames holds.

        By default those of a causal video codec, where T = 1 + s (T' − 1): the first latent frame holds the first frame
        alone, and each later one the next s. Where T is no such number, the frames are shared out evenly.
        """
        frames, latents = self.video.frames, self.latent_shape[1]
        stride = (frames - 1) / max(1, latents - 1)
        if latents > 1 and stride.is_integer():
            return tuple(range(max(0, 1 + int(stride) * (k - 1)), 1 + int(stride) * k) for k in range(latents))
        return tuple(range(k * frames // latents, (k + 1) * frames // latents) for k in range(latents))

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → latents z_Ξ (B, C, T', H', W'), differentiable."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') → video (B, T, 3, H, W) in [0, 1], differentiable where not clamped."""

    @abstractmethod
    def encode_text(self, captions: list[str]) -> Tensor:
        """Captions → condition ε_Ξ (B, L, D_c), padded as the generator's own pipeline does."""

    @abstractmethod
    def velocity(self, latents: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """Velocity v = G(z_t, ε, t), of the latents' shape; condition (B, L, D_c), t (B,) in [0, 1]."""

    @abstractmethod
    def schedule(self, steps: int) -> Schedule:
        """A fresh denoising schedule of ``steps`` steps, the pipeline's own."""

    @property
    @abstractmethod
    def guidance_scale(self) -> float:
        """Classifier-free guidance scale that the backbone is meant to be sampled with; 1 means none."""

    def guidance_at(self, t: float) -> float:
        """The scale at one t, for generators that are meant to be sampled with more than one."""
        return self.guidance_scale


class VLMAdapter(Frozen, ABC):
    """A video vision-language model Ω. Visual tokens z_Ω are what enters its language model."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """Load from a hub id or a local folder, for videos of one geometry.

        Raises:
            TransporterError: Before any weight is loaded, if the geometry does not suit the VLM's token grid.
        """

    @classmethod
    @abstractmethod
    def token_shape_of(cls, path: str | Path, video: VideoSpec) -> tuple[int, int]:
        """(N, D) of one clip's visual tokens, from the configuration alone.

        Args:
            path: Hub id or local folder, as for ``from_pretrained``; no weight of it is read.
            video: Geometry of the clips.

        Raises:
            TransporterError: As ``from_pretrained``.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write a folder that ``from_pretrained`` reads."""

    @property
    @abstractmethod
    def token_shape(self) -> tuple[int, int]:
        """(N, D) of one clip's visual tokens."""

    @property
    def moments(self) -> int:
        """G of the moments that z_Ω tells apart, N / G tokens each, one after the other; by default every frame."""
        return self.video.frames

    @property
    def patch_size(self) -> tuple[float, float] | None:
        """(height, width) in pixels of the clip of a patch that the vision model cuts; ``None`` where it is unknown."""
        return None

    @property
    @abstractmethod
    def default_prompt(self) -> str:
        """The question that captions are asked with when the user gives none."""

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → tokens z_Ω (B, N, D), differentiable down to the pixels."""

    def encode_layers(self, video: Tensor) -> tuple[Tensor, ...]:
        """As ``encode``, with what the vision layers say on the way: (B, n_l, D_l) each, and the tokens z_Ω last.

        By default the tokens alone.
        """
        return (self.encode(video),)

    @abstractmethod
    def logits(self, tokens: Tensor, prompt: Texts | None = None, answer: Texts = "") -> Tensor:
        """Next-token logits (B, V) after the prompt and the beginning of an answer, differentiable down to tokens.

        Prompt and answer are one text for all clips, or one each.
        """

    @abstractmethod
    def caption(self, tokens: Tensor, prompt: Texts | None = None, max_new_tokens: int = 64) -> list[str]:
        """Greedy caption of every clip; tokens (B, N, D); one prompt for all clips, or one each."""

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Ids of a text as the VLM would write it in an answer, without special tokens."""

    @abstractmethod
    def text(self, ids: list[int]) -> str:
        """The inverse of ``token_ids``."""


generators: Registry[type[GeneratorAdapter]] = Registry("generators")
vlms: Registry[type[VLMAdapter]] = Registry("vlms")
