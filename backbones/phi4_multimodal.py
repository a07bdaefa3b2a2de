"""Phi-4-multimodal (arXiv 2503.01743) through transformers: a video is a list of images, each a view and its crops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import (
    DynamicCache,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from transporter_pl.backbones.crops import CropGrid
from transporter_pl.backbones.shipped import resolve
from transporter_pl.backbones.transformers_vlm import TransformersVLM
from transporter_pl.backbones.vision_lora import FOLDER, find_vision_lora, merge_vision_lora
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec


class Phi4MultimodalAdapter(TransformersVLM):
    """Phi-4-multimodal with every frame as an image: crops in full detail, a separator, the whole view.

    The separators after every row go through the projector like the rest, and are part of z_Ω.
    """

    model_type = "phi4_multimodal"
    native = "microsoft/Phi-4-multimodal-instruct@refs/pr/70"
    architecture = Phi4MultimodalForCausalLM
    configuration = Phi4MultimodalConfig
    processor_file = "preprocessor_config.json"
    medium = "image"
    grid: CropGrid

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        video: VideoSpec,
        source: str | Path = "",
        processor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, video, source, processor)
        for layer in self._images.img_processor.encoder.layers:
            layer.self_attn.is_causal = False  # true in the source, and obeyed by SDPA where no patch is masked

    @classmethod
    def from_pretrained(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """Load as other VLMs; a vision LoRA in the folder is merged into the language model.

        Raises:
            TransporterError: As for other VLMs, or, before any weight is loaded, if peft is missing for the LoRA.
        """
        folder = resolve(path)
        cls.fitted(*cls.read(folder), video)  # a LoRA of another model is none of ours
        lora = find_vision_lora(folder)
        adapter = super().from_pretrained(path, video, dtype)
        if lora is not None:
            merge_vision_lora(adapter.model, lora)
        return adapter.freeze()

    @classmethod
    def check_access(cls, path: str | Path) -> None:
        """Read the hub's own configuration, and see that a vision LoRA can be read.

        Raises:
            TransporterError: As ``from_pretrained``.
        """
        super().check_access(path)
        find_vision_lora(resolve(path))

    def save(self, path: str | Path) -> None:
        """Write a hub folder, in which a LoRA is part of the weights.

        Raises:
            TransporterError: If the folder holds a LoRA, which would be merged a second time.
        """
        if (Path(path) / FOLDER).exists():
            msg = f"path: {str(path)!r} has a {FOLDER}, which is part of the weights already; save to another folder"
            raise TransporterError(msg)
        super().save(path)

    @classmethod
    def default_processor(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """Settings of an image processor that makes as few crops as it can."""
        side = config.vision_config.crop_size
        return {
            "image_processor_type": "Phi4MultimodalImageProcessor",
            "size": {"height": side, "width": side},
            "patch_size": config.vision_config.patch_size,
            "dynamic_hd": 36,
        }

    @classmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> CropGrid:
        """How frames of a geometry are cut."""
        return CropGrid.fit(config.vision_config, processor, video)

    @property
    def placeholder(self) -> int:
        """Id of the image token."""
        return int(self.model.config.vision_config.image_token_id)

    def fillings(self) -> list[str]:
        """Every frame's placeholders."""
        return [self.slot * self.grid.tokens] * self.video.frames

    def _message(self, question: str, slots: int) -> str:
        """With a chat template that joins strings, as the published one, slots and question are one string."""
        try:
            text = super()._message(question, slots)
        except TypeError:
            text = ""
        if self.slot in text:
            return text
        message = [{"role": "user", "content": self.slot * slots + question}]
        return str(self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))

    @property
    def _images(self) -> Any:  # noqa: ANN401  (transformers' Phi4MultimodalImageEmbedding, which is untyped)
        return self.model.model.embed_tokens_extend.image_embed

    def see(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) → tokens z_Ω (B, N, D).

        The arrangement of the model's own image embedding, for all frames at once.
        """
        parts, views, count = self._images, self.grid.views(video).to(self.dtype), len(video)
        seen = self.grid.seen.to(views.device)
        features = parts.get_img_features(views.flatten(0, 1), attention_mask=seen.repeat(len(views), 1, 1))
        features = features.view(len(views), -1, *features.shape[1:])
        row_end, between = parts.sub_img_feature_extensor[:, 0], parts.global_img_feature_extensor
        whole, detail = self.grid.whole(features), self.grid.detail(features)
        arranged = [_ended(detail, row_end), between.expand(len(views), -1, -1), _ended(whole, row_end)]
        up = parts.img_projection_up(torch.cat(arranged, 1))
        tokens: Tensor = parts.img_projection_down(gelu(up))
        return tokens.reshape(count, -1, tokens.shape[-1])

    def vision_layers(self) -> list[nn.Module]:
        """Up to the one whose output is pooled: in the published model the last is run, and read by nothing."""
        layers = list(self._images.img_processor.encoder.layers)
        return layers[: range(len(layers) + 1)[self.model.config.vision_config.feature_layer]]

    def new_cache(self, prompt: int, answer: int) -> DynamicCache | None:
        """None where an answer may cross the length at which the rotary frequencies switch: all keys change there."""
        switch = self.model.config.rope_parameters.get("original_max_position_embeddings", math.inf)
        return None if prompt <= switch < prompt + answer else super().new_cache(prompt, answer)


def _ended(rows: Tensor, end: Tensor) -> Tensor:
    """Feature rows (F, h, w, C) as a sequence (F, h (w + 1), C), a separator after each row."""
    separators = end.expand(rows.shape[0], rows.shape[1], 1, -1)
    return torch.cat([rows, separators], 2).flatten(1, 2)
