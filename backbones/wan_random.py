"""A WanPipeline from its configuration files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from transporter_pl.backbones.folders import read_config
from transporter_pl.backbones.random_weights import random_weights
from transporter_pl.backbones.stand_in import END, PAD, stand_in_tokenizer
from transporter_pl.backbones.wan_geometry import TEXT_LENGTH
from transporter_pl.backbones.wan_loading import parts_of


def random_pipeline(folder: str, dtype: torch.dtype) -> WanPipeline:
    """The pipeline of a folder or hub repository with random weights, and its tokenizer where there is one on disk.

    Args:
        folder: Folder or hub id; JSON files are read.
        dtype: Type of the transformers and of the text encoder; the VAE is of float32.
    """
    index = read_config(folder, "model_index.json")
    scheduler = read_config(folder, "scheduler/scheduler_config.json")
    text = UMT5Config.from_dict(read_config(folder, "text_encoder/config.json"))
    with random_weights(torch.float32):
        vae = AutoencoderKLWan.from_config(read_config(folder, "vae/config.json"))
    with random_weights(dtype):
        experts = {
            name: _transformer(read_config(folder, f"{name}/config.json"))
            for name in parts_of(index)
            if name.startswith("transformer")
        }
        text_encoder = UMT5EncoderModel(text)
    return WanPipeline(
        tokenizer=_tokenizer(folder, text),
        text_encoder=text_encoder,
        vae=vae,
        scheduler=getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        boundary_ratio=index.get("boundary_ratio"),
        expand_timesteps=index.get("expand_timesteps", False),
        **experts,
    )


def _transformer(config: dict[str, Any]) -> ModelMixin:
    model = WanTransformer3DModel.from_config(config)
    for name, weight in model.named_parameters():
        # those that stay in float32 whatever the model is loaded in
        if set(name.split(".")) & set(model._keep_in_fp32_modules):
            weight.data = weight.data.float()
    return model


def _tokenizer(folder: str, text: UMT5Config) -> PreTrainedTokenizerBase:
    if (Path(folder) / "tokenizer" / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")
    length = read_config(folder, "tokenizer/tokenizer_config.json").get("model_max_length", TEXT_LENGTH)
    return stand_in_tokenizer({PAD: text.pad_token_id, END: text.eos_token_id}, length, append_end=True)
