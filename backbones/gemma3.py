"""Gemma 3 (arXiv 2503.19786) through transformers: a video is a list of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import DynamicCache, Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedConfig, PreTrainedModel

from transporter_pl.backbones.patches import normalisation
from transporter_pl.backbones.transformers_vlm import TransformersVLM
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec


@dataclass(frozen=True)
class SquareFrames:
    """How a frame is cut: squashed to a square, normalised; the model pools it to a fixed number of tokens.

    Attributes:
        side: Side S of the square, in pixels.
        patch: Side of a patch.
        tokens: Visual tokens of one frame.
        mean: Normalisation mean of each channel.
        std: Normalisation standard deviation of each channel.
    """

    side: int
    patch: int
    tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> Self:
        """The square of a model, under the settings of its image processor.

        Raises:
            TransporterError: If frames aren't resized and are no such square, or the number of tokens is no square
                that divides the patches.
        """
        side, patch = config.vision_config.image_size, config.vision_config.patch_size
        if not processor.get("do_resize", True) and (video.height, video.width) != (side, side):
            msg = f"video: {video} does not suit this VLM, which takes frames of {side}x{side} and resizes none; "
            raise TransporterError(msg + f"use height {side} and width {side}")
        if processor.get("do_pan_and_scan"):
            msg = "path: this image processor adds crops of wide frames, so that the number of tokens would depend on "
            raise TransporterError(msg + "them; set do_pan_and_scan to false in its preprocessor_config.json")
        tokens = config.mm_tokens_per_image
        row = math.isqrt(max(tokens, 0))
        if not row or row * row != tokens or side // patch % row:
            msg = f"path: {tokens} tokens an image don't pool {side // patch}x{side // patch} patches; correct "
            raise TransporterError(msg + "mm_tokens_per_image in its config.json")
        return cls(side, patch, tokens, *normalisation(processor))

    @property
    def patch_share(self) -> tuple[float, float]:
        """A patch's share of the frame's height and width."""
        return self.patch / self.side, self.patch / self.side

    def images(self, video: Tensor) -> Tensor:
        """Pixels (B, T, 3, H, W) in [0, 1] → images (B · T, 3, S, S)."""
        flat = video.flatten(0, 1)
        if flat.shape[-2:] != (self.side, self.side):
            flat = interpolate(flat, (self.side, self.side), mode="bilinear", antialias=True)
        mean, std = (flat.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (flat - mean) / std


class Gemma3Adapter(TransformersVLM):
    """Gemma 3 with every frame as an image of its own, between its begin and end tokens.

    Without these, frames would merge into one block in which all tokens attend to each other. Pan and scan, which adds
    crops of wide images, must be off, as it is in the published processor.
    """

    model_type = "gemma3"
    native = "google/gemma-3-12b-it"
    architecture = Gemma3ForConditionalGeneration
    configuration = Gemma3Config
    processor_file = "preprocessor_config.json"
    medium = "image"
    grid: SquareFrames

    @classmethod
    def default_processor(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """Settings of an image processor that does not resize."""
        side = config.vision_config.image_size
        return {
            "image_processor_type": "Gemma3ImageProcessor",
            "do_resize": False,
            "size": {"height": side, "width": side},
            "image_seq_length": config.mm_tokens_per_image,
        }

    @classmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> SquareFrames:
        """How frames of a geometry are cut."""
        return SquareFrames.fit(config, processor, video)

    @classmethod
    def draw(cls, config: PreTrainedConfig) -> PreTrainedModel:
        """A new model whose projection has the usual spread: the architecture's is zero, so that z_Ω would be too."""
        model = super().draw(config)
        torch.nn.init.normal_(
            model.model.multi_modal_projector.mm_input_projection_weight, std=config.vision_config.hidden_size**-0.5
        )
        return model

    @property
    def placeholder(self) -> int:
        """Id of ``<image_soft_token>``."""
        return int(self.model.config.image_token_id)

    @property
    def slot(self) -> str:
        """``<start_of_image>``, once for each frame."""
        return str(self.tokenizer.convert_ids_to_tokens(self.model.config.boi_token_id))

    def fillings(self) -> list[str]:
        """Every frame's placeholders between begin and end, set off as paragraphs, as the processor does."""
        image, end = self.tokenizer.convert_ids_to_tokens([self.placeholder, self.model.config.eoi_token_id])
        return [f"\n\n{self.slot}{image * self.grid.tokens}{end}\n\n"] * self.video.frames

    def see(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) → tokens z_Ω (B, N, D); words are scaled by √D where they are embedded, z_Ω is not."""
        tokens: Tensor = self.model.get_image_features(self.grid.images(video)).pooler_output
        return tokens.reshape(len(video), -1, tokens.shape[-1])

    def context(self, embedded: Tensor, ids: list[int], cache: DynamicCache | None) -> dict[str, Any]:
        """Which tokens are visual: without it they are silently read in causal order."""
        if cache is not None and cache.get_seq_length():
            return {}
        visual = torch.zeros(embedded.shape[:2], dtype=torch.long, device=embedded.device)
        visual[:, : len(ids)] = torch.tensor(ids, device=embedded.device) == self.placeholder
        return {"token_type_ids": visual}
