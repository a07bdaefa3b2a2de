"""The small VLMs before their training: one of each kind, for the embedded world, and what it may begin with."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedModel

from transporter_pl.backbones.folders import loading
from transporter_pl.backbones.gemma3 import Gemma3Adapter
from transporter_pl.backbones.phi4_multimodal import Phi4MultimodalAdapter
from transporter_pl.backbones.scratch import new_gemma3, new_phi4_multimodal, new_video_llama3
from transporter_pl.backbones.shipped import resolve
from transporter_pl.backbones.transformers_vlm import TransformersVLM
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.datamodules.shapemotion.world import vocabulary
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

PATCHES = "embeddings.patch_embedding.weight"
VISION = re.compile(r".*?\b((embeddings\.patch_embedding|encoder\.layers|post_layernorm)\..*)")
QUESTION = ["Describe", "the", "video"]


def _video_llama3(video: VideoSpec, export: str, patch: int, merge: int, **widths: int) -> TransformersVLM:
    model, tokenizer = new_video_llama3([*vocabulary(), *QUESTION, "Time", "s"], patch=patch, **widths)
    processor = {**VideoLlama3Adapter.default_processor(model.config), "merge_size": merge}
    return VideoLlama3Adapter(model, tokenizer, video, export, processor)


def _gemma3(video: VideoSpec, export: str, patch: int, merge: int, **widths: int) -> TransformersVLM:
    tokens = (video.height // patch // merge) ** 2
    model, tokenizer = new_gemma3([*vocabulary(), *QUESTION], image=video.height, patch=patch, tokens=tokens, **widths)
    return Gemma3Adapter(model, tokenizer, video, export)


def _phi4_multimodal(video: VideoSpec, export: str, patch: int, merge: int, **widths: int) -> TransformersVLM:
    model, tokenizer = new_phi4_multimodal(
        [*vocabulary(), *QUESTION], image=video.height, patch=patch, feature_layer=-1, **widths
    )
    return Phi4MultimodalAdapter(model, tokenizer, video, export)


SMALL: dict[str, Callable[..., TransformersVLM]] = {
    "video_llama3": _video_llama3,
    "gemma3": _gemma3,
    "phi4_multimodal": _phi4_multimodal,
}


def go_on_from(folder: str, model: PreTrainedModel) -> None:
    """Copy all weights; those of the patch embedding are resampled to the new patches, with the same sums.

    Args:
        folder: Folder or name of a model of the same kind and widths.
        model: The model that goes on.
    """
    weights = _weights(folder)
    (name,) = (key for key in weights if key.endswith(PATCHES))
    old, side = weights[name], model.config.vision_config.patch_size
    weights[name] = interpolate(old, (side, side), mode="area") * (old.shape[-1] / side) ** 2
    model.load_state_dict(weights)


def take_vision(folder: str, model: PreTrainedModel) -> None:
    """Copy the vision encoder of another model: patch embedding, layers and last norm, which all kinds have alike.

    Args:
        folder: Folder or name of the other model.
        model: The model that begins with it.

    Raises:
        TransporterError: If a weight has another shape.
    """
    theirs = {part: weight for name, weight in _weights(folder).items() if (part := _part(name))}
    for name, weight in model.state_dict().items():
        source = theirs.get(_part(name))
        if source is None:
            continue
        if source.shape != weight.shape:
            msg = f"vision: {folder!r} has {name} of shape {tuple(source.shape)}, this model {tuple(weight.shape)}; "
            raise TransporterError(msg + "give one of the same patches and widths")
        weight.copy_(source)


def _part(name: str) -> str:
    """Name of a weight within the vision encoder; empty for all others."""
    found = VISION.fullmatch(name) if "vision" in name or "img_processor" in name else None
    return found[1] if found else ""


def _weights(folder: str) -> dict[str, Tensor]:
    with loading(folder):
        return {name: weight.float() for name, weight in load_file(Path(resolve(folder)) / "model.safetensors").items()}
