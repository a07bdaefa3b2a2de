"""A WanPipeline from its folder, each part held to be whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from transporter_pl.backbones.folders import load_whole, loading, read_config
from transporter_pl.origin import split_revision

PARTS = {
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
    "text_encoder": UMT5EncoderModel,
    "vae": AutoencoderKLWan,
}


def load_pipeline(folder: str, dtype: torch.dtype) -> WanPipeline:
    """The pipeline of a folder or hub repository.

    Args:
        folder: Folder or hub id.
        dtype: Type of the transformers and of the text encoder; the VAE is of float32.

    Raises:
        TransporterError: If a part can't be read, or some of its weights are missing.
    """
    repo, revision = split_revision(folder)
    parts = {
        name: load_whole(PARTS[name], folder, name, dtype=torch.float32 if name == "vae" else dtype)
        for name in parts_of(read_config(folder, "model_index.json"))
    }
    with loading(folder):
        return WanPipeline.from_pretrained(repo, revision=revision, **parts)


def parts_of(index: Mapping[str, Any]) -> list[str]:
    """Names of the models that a ``model_index.json`` has; one that is left out stands there as two nulls."""
    return [name for name in PARTS if (index.get(name) or [None])[0] is not None]
