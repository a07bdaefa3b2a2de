"""Qwen3-VL (arXiv 2511.21631) through transformers: two frames a token, and visual features in deeper layers too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from transporter_pl.backbones.patches import PatchGrid, smart_resize
from transporter_pl.backbones.prompted_vlm import cached
from transporter_pl.backbones.transformers_vlm import Grid, TransformersVLM
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

PIXELS = {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}  # the processor class's own defaults


class Qwen3VLAdapter(TransformersVLM):
    """Qwen3-VL with every frame encoded, none sampled; of an odd number the last is seen twice.

    One token of z_Ω is all that the language model reads at one place: what enters in the prompt, and beside it, in
    the width, what is added in each of the first layers, D = hidden · (1 + layers). The vision encoder attends within
    a moment, which is two frames.
    """

    model_type = "qwen3_vl"
    native = "Qwen/Qwen3-VL-8B-Instruct"
    architecture = Qwen3VLForConditionalGeneration
    configuration = Qwen3VLConfig
    processor_file = "video_preprocessor_config.json"
    medium = "video"
    grid: PatchGrid

    @classmethod
    def default_processor(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """Settings of a video processor that neither resizes nor samples frames."""
        vision = config.vision_config
        return {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "do_resize": False,
            "do_sample_frames": False,
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }

    @classmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> PatchGrid:
        """How frames of a geometry are cut."""
        vision = config.vision_config
        if processor.get("do_resize", True):
            factor = vision.patch_size * vision.spatial_merge_size
            height, width = clip_size(video, factor, vision.temporal_patch_size, processor)
            video = replace(video, height=height, width=width)
        settings = {**processor, "do_resize": False, "merge_size": vision.spatial_merge_size}
        return PatchGrid.fit(video, vision.patch_size, settings)

    @classmethod
    def shape(cls, config: PreTrainedConfig, grid: Grid, video: VideoSpec) -> tuple[int, int]:
        """(N, D) of one clip's tokens."""
        vision, width = config.vision_config, config.get_text_config().hidden_size
        return _moments(config, video) * grid.tokens, width * (1 + len(vision.deepstack_visual_indexes))

    @property
    def moments(self) -> int:
        """Moments of several frames each, of which the last is filled up."""
        return _moments(self.model.config, self.video)

    @property
    def placeholder(self) -> int:
        """Id of ``<|video_pad|>``."""
        return int(self.model.config.video_token_id)

    def fillings(self) -> list[str]:
        """Every moment's placeholders between begin and end, after its time."""
        config = self.model.config
        begin, end = self.tokenizer.convert_ids_to_tokens([config.vision_start_token_id, config.vision_end_token_id])
        block = f"{begin}{self.slot * self.grid.tokens}{end}"
        return ["".join(f"<{time:.1f} seconds>{block}" for time in self.times)]

    @property
    def times(self) -> list[float]:
        """Seconds of each moment, midway between its first and last frame."""
        span, fps, last = self._span, self.video.fps, self.video.frames - 1
        return [(i / fps + min(i + span - 1, last) / fps) / 2 for i in range(0, self.video.frames, span)]

    @property
    def _span(self) -> int:
        return int(self.model.config.vision_config.temporal_patch_size)

    @property
    def _hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    def see(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) → tokens z_Ω (B, N, D)."""
        missing = -self.video.frames % self._span
        whole = torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1, -1)], 1)
        shape, _ = self.grid.shapes(len(whole), whole.shape[1] // self._span, whole.device)
        # rows of frames, whose pixels are (3, p · p) → rows of moments, whose pixels are (3, frames, p · p)
        patches = self.grid.tokens * self.grid.merge**2
        rows = self.grid.rows(whole).view(len(whole), -1, self._span, patches, 3, self.grid.patch**2)
        seen = self.model.get_video_features(rows.permute(0, 1, 3, 4, 2, 5).flatten(0, 2).flatten(1), shape)
        return torch.cat([torch.stack(part) for part in (seen.pooler_output, *seen.deepstack_features)], -1)

    def enter(self, tokens: Tensor) -> Tensor:
        """The part of the tokens (B, N, D) that stands in the embedded prompt."""
        return tokens[..., : self._hidden_size]

    def hidden(self, embedded: Tensor, ids: list[int], tokens: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Last hidden states (B, S, hidden) of the language model.

        It is given all positions, as it would take those of the clip before for what comes without ids.
        """
        known = 0 if cache is None else cache.get_seq_length()
        positions = self.positions(ids, known + embedded.shape[1])[:, None, known:].to(embedded.device)
        deeper = {} if known else self._deeper(embedded, ids, tokens)
        model = self.model.model.language_model
        read = model(
            inputs_embeds=embedded,
            position_ids=positions.expand(-1, len(embedded), -1),
            **deeper,
            **cached(model, cache),
        )
        hidden: Tensor = read.last_hidden_state
        return hidden

    def _deeper(self, embedded: Tensor, ids: list[int], tokens: Tensor) -> dict[str, Any]:
        """What is added to the hidden states at the places of the video, layer by layer."""
        visual = [index == self.placeholder for index in ids] + [False] * (embedded.shape[1] - len(ids))
        places = torch.tensor([visual] * len(embedded), device=embedded.device)
        _, *layers = torch.split(tokens, self._hidden_size, -1)
        return {"visual_pos_masks": places, "deepstack_visual_embeds": [layer.flatten(0, 1) for layer in layers]}

    def positions(self, ids: list[int], length: int) -> Tensor:
        """Time, row and column (3, length) of a prompt and what follows it, as the rotary embedding turns by them.

        Words count one after the other. A moment's tokens have the time of its first, and go down and right from there;
        what follows it counts on behind its longer side.
        """
        visual = torch.zeros(length, dtype=torch.long)
        visual[: len(ids)] = torch.tensor(ids) == self.placeholder
        columns = self.grid.width // self.grid.patch // self.grid.merge
        longer = max(columns, self.grid.tokens // columns)
        seen, words = (mask.cumsum(0) - mask for mask in (visual, 1 - visual))
        start, place = words + seen // self.grid.tokens * longer, seen % self.grid.tokens * visual
        return torch.stack([start, start + place // columns, start + place % columns])


def _moments(config: PreTrainedConfig, video: VideoSpec) -> int:
    return math.ceil(video.frames / int(config.vision_config.temporal_patch_size))


def clip_size(video: VideoSpec, factor: int, span: int, processor: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that frames are resized to, as the processor chooses them: pixels are counted over the clip.

    Raises:
        TransporterError: If the clip is shorter than a moment, or too elongated.
    """
    if video.frames < span:
        msg = f"video.frames: {video.frames} is too short for this VLM, which sees {span} frames at a time; use more"
        raise TransporterError(msg)
    size = processor.get("size") or PIXELS
    least, most = size["shortest_edge"], size["longest_edge"]
    if processor.get("cap_pixels_per_frame"):
        frame = min(processor.get("max_video_tokens", 768) * factor**2, most // video.frames)
        most = max(frame, int(least * 1.05)) * video.frames
    grow = max(1, factor / video.height, factor / video.width)
    height, width = int(video.height * grow), int(video.width * grow)
    return smart_resize(height, width, factor, least, most, video.frames, span)
