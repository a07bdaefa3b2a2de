"""CLIP (arXiv 2103.00020) through transformers, as what metrics see frames and captions with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from transporter_pl.backbones.folders import find_config, load_whole, loading
from transporter_pl.backbones.patches import normalisation
from transporter_pl.errors import TransporterError
from transporter_pl.metrics.encoders import ImageTextEncoder, check_videos
from transporter_pl.metrics.missing import MissingPart
from transporter_pl.origin import split_revision

DEFAULT = "openai/clip-vit-large-patch14"
FRAMES = 64  # that are seen at once: what one costs does not depend on a video's length


@dataclass(frozen=True)
class Crop:
    """How a frame is cut: resized so that its shorter edge is S, the middle S' x S' of it, normalised.

    Attributes:
        edge: S, in pixels.
        side: S', in pixels.
        mean: Normalisation mean of each channel.
        std: Normalisation standard deviation of each channel.
    """

    edge: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, processor: Mapping[str, Any], default: int) -> Self:
        """The crop under the settings of an image processor; older ones write sizes as one number."""
        size, crop = (processor.get(name, default) for name in ("size", "crop_size"))
        edge = size["shortest_edge"] if isinstance(size, Mapping) else size
        return cls(edge, crop["height"] if isinstance(crop, Mapping) else crop, *normalisation(processor))

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W) in [0, 1] → (F, 3, S', S')."""
        height, width = frames.shape[-2:]
        short = min(height, width)
        size = (self.edge * height // short, self.edge * width // short)
        if size != (height, width):
            # bicubic overshoots; the processor works on bytes, and bytes can't
            frames = interpolate(frames, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((length - self.side) // 2 for length in size)
        frames = frames[..., top : top + self.side, left : left + self.side]
        mean, std = (frames.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (frames - mean) / std


class CLIPEncoder(ImageTextEncoder):
    """CLIP, which sees single frames; captions are cut at the length of its text encoder, 77 tokens.

    Args:
        model: CLIP.
        tokenizer: Its tokenizer.
        crop: How frames are cut.
    """

    label = "CLIP"

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase, crop: Crop) -> None:
        super().__init__()
        self.model, self.tokenizer, self.crop = model, tokenizer, crop
        self.freeze()

    @classmethod
    def from_pretrained(cls, path: str | None = None, device: torch.device | str = "cpu") -> Self:
        """Load from a hub id or a local folder.

        Raises:
            MissingPart: If it can't be read; says why, and what to do.
        """
        folder = path or DEFAULT
        try:
            repo, revision = split_revision(folder)
            model = load_whole(CLIPModel, folder)
            with loading(folder):
                tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision)
            processor = find_config(folder, "preprocessor_config.json") or {}
        except TransporterError as error:
            msg = f"encoder clip: {error}; `hf download {folder}` gets it"
            raise MissingPart(msg) from error
        crop = Crop.fit(processor, model.config.vision_config.image_size)
        return cls(model, tokenizer, crop).to(device)

    def images(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → (B, T, D)."""
        check_videos(video=video)
        frames = torch.split(video.flatten(0, 1), FRAMES)
        seen = [self.model.get_image_features(self.crop(part.float()).to(self.dtype)).pooler_output for part in frames]
        return torch.cat(seen).view(*video.shape[:2], -1).float()

    def texts(self, captions: list[str]) -> Tensor:
        """Captions → (B, D)."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=length, return_tensors="pt")
        features: Tensor = self.model.get_text_features(**tokens.to(self.device)).pooler_output
        return features.float()
