"""A WanPipeline from its folder, each part held to be whole."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from transporter_pl.backbones.folders import check_whole, loading, read_config
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
    index, parts = read_config(folder, "model_index.json"), {}
    with loading(folder):
        for name, kind in PARTS.items():
            if (index.get(name) or [None])[0] is not None:
                kept = torch.float32 if name == "vae" else dtype
                parts[name] = _load(kind, repo, revision, name, kept)
        return WanPipeline.from_pretrained(repo, revision=revision, **parts)


def _load(kind: Any, repo: str, revision: str | None, name: str, dtype: torch.dtype) -> object:  # noqa: ANN401
    # both libraries draw missing weights at random, with no more than a warning
    part, found = kind.from_pretrained(
        repo, subfolder=name, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    tied = getattr(part, "_tied_weights_keys", None) or ()
    check_whole(f"{repo}/{name}", {*found["missing_keys"]} - {*tied})
    return part
