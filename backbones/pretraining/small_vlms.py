"""The small VLMs before their training: one of each kind, for the embedded world, and what it may begin with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PreTrainedModel

from transporter_pl.backbones.folders import load_whole, loading
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

    Raises:
        TransporterError: If it can't be read, or a weight is missing or has another shape.
    """
    weights = load_whole(type(model), resolve(folder)).float().state_dict()
    (name,) = (key for key in weights if key.endswith(PATCHES))
    old, side = weights[name], model.config.vision_config.patch_size
    weights[name] = interpolate(old, (side, side), mode="area") * (old.shape[-1] / side) ** 2
    _copy("init", folder, weights, model.state_dict())


def take_vision(folder: str, model: PreTrainedModel) -> None:
    """Copy the vision encoder of another model: patch embedding, layers and last norm, which all kinds have alike.

    Args:
        folder: Folder or name of the other model.
        model: The model that begins with it.

    Raises:
        TransporterError: If a weight has another shape.
    """
    with loading(resolve(folder)):
        weights = load_file(Path(resolve(folder)) / "model.safetensors")
    _copy("vision", folder, _vision_parts(weights), _vision_parts(model.state_dict()))


def _copy(field: str, folder: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Copy weights of the same names and shapes; all of them, or none."""
    shapes = [{name: tuple(weight.shape) for name, weight in weights.items()} for weights in (theirs, ours)]
    for name in sorted({*theirs, *ours}):
        found, wanted = (each.get(name, "none") for each in shapes)
        if found != wanted:
            msg = f"{field}: {folder!r} has {name} of shape {found}, this model {wanted}; "
            raise TransporterError(msg + "give a model of the same patches, widths and layers")
    for name, weight in ours.items():
        weight.copy_(theirs[name])


def _vision_parts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the vision encoder, by their names within it."""
    names = {name: VISION.fullmatch(name) for name in weights if "vision" in name or "img_processor" in name}
    return {found[1]: weights[name] for name, found in names.items() if found}
