"""VideoLLaMA 3 (arXiv 2501.13106) through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, VideoLlama3Config, VideoLlama3ForConditionalGeneration

from transporter_pl.backbones.patches import PatchGrid
from transporter_pl.backbones.transformers_vlm import TransformersVLM
from transporter_pl.samples import VideoSpec


class VideoLlama3Adapter(TransformersVLM):
    """VideoLLaMA 3 with every frame encoded and token compression off, so that N is the same for every clip.

    The vision encoder attends within a frame; two by two patches become one token.
    """

    model_type = "video_llama_3"
    native = "lkhl/VideoLLaMA3-7B-Image-HF"
    architecture = VideoLlama3ForConditionalGeneration
    configuration = VideoLlama3Config
    processor_file = "video_preprocessor_config.json"
    medium = "video"
    grid: PatchGrid

    @classmethod
    def default_processor(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """Settings of a video processor that does not resize."""
        return {
            "video_processor_type": "VideoLlama3VideoProcessor",
            "do_resize": False,
            "patch_size": config.vision_config.patch_size,
            "merge_size": 2,
            "use_token_compression": False,
        }

    @classmethod
    def fit(cls, config: PreTrainedConfig, processor: Mapping[str, Any], video: VideoSpec) -> PatchGrid:
        """How frames of a geometry are cut."""
        return PatchGrid.fit(video, config.vision_config.patch_size, processor)

    @property
    def placeholder(self) -> int:
        """Id of ``<|video_pad|>``."""
        return int(self.model.config.video_token_id)

    def fillings(self) -> list[str]:
        """Every frame's placeholders after its time."""
        frames = range(self.video.frames)
        return [",".join(f"Time {frame / self.video.fps:.1f}s:" + self.slot * self.grid.tokens for frame in frames)]

    def see(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) → tokens z_Ω (B, N, D)."""
        rows = self.grid.rows(video)
        shape, merge = self.grid.shapes(len(video), self.video.frames, rows.device)
        return torch.stack(self.model.get_video_features(rows, shape, video_merge_sizes=merge).pooler_output)
