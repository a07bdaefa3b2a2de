"""New backbones of the real architectures with random weights, in the hub's folder format."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

PAD, END, UNKNOWN, IMAGE, VIDEO = "<pad>", "</s>", "<unk>", "<|image_pad|>", "<|video_pad|>"


def word_tokenizer(words: list[str], length: int, *, append_end: bool) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word, a digit or a punctuation mark.

    Args:
        words: Vocabulary beside digits, punctuation and special tokens.
        length: ``model_max_length``.
        append_end: Whether ``</s>`` is appended, as Wan's text encoder expects.
    """
    special = [PAD, END, UNKNOWN, IMAGE, VIDEO]
    vocabulary = [*special, *"0123456789.:,?", *dict.fromkeys(words)]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(r"\s+"), "removed"), Digits(individual_digits=True), Split(Regex(r"[.:,?]"), "isolated")]
    )
    if append_end:
        tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, vocabulary.index(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=[IMAGE, VIDEO],
        model_max_length=length,
        padding_side="right",
    )


def new_vae(latent_channels: int = 24, base_dim: int = 32, patch: int = 4) -> AutoencoderKLWan:
    """An AutoencoderKLWan of the 5B's residual kind, stride 4 in time and 4·patch in space.

    The log-variance head starts low: with the default start the posterior's noise drowns the latents for thousands of
    steps.
    """
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        decoder_base_dim=base_dim,
        z_dim=latent_channels,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=patch,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        scale_factor_spatial=4 * patch,
        latents_mean=[0.0] * latent_channels,
        latents_std=[1.0] * latent_channels,
    )
    with torch.no_grad():
        vae.quant_conv.weight[latent_channels:] *= 0.1
        vae.quant_conv.bias[latent_channels:] = -5.0
    return vae


def new_wan(
    words: list[str],
    *,
    vae: AutoencoderKLWan | None = None,
    text_length: int = 16,
    text_dim: int = 64,
    heads: int = 2,
    head_dim: int = 96,
    layers: int = 6,
) -> WanPipeline:
    """A WanPipeline of one expert with UMT5 text encoder and word tokenizer.

    Few wide heads: the rotary frequencies are fixed at base 1e4, and only a wide head has several that turn noticeably
    over a grid of a few positions.
    """
    vae = vae or new_vae()
    tokenizer = word_tokenizer(words, text_length, append_end=True)
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=text_dim,
            d_kv=16,
            d_ff=2 * text_dim,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    width = heads * head_dim
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=vae.config.z_dim,
        out_channels=vae.config.z_dim,
        text_dim=text_dim,
        freq_dim=128,
        ffn_dim=2 * width,
        num_layers=layers,
    )
    # shifted towards noise, as Wan's own: where an object goes is decided early
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return WanPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )


def new_video_llama3(
    words: list[str],
    *,
    patch: int = 8,
    vision_dim: int = 96,
    vision_layers: int = 3,
    text_dim: int = 128,
    text_layers: int = 4,
) -> tuple[VideoLlama3ForConditionalGeneration, PreTrainedTokenizerFast]:
    """A VideoLlama3 of the real architecture and its word tokenizer."""
    tokenizer = word_tokenizer(words, 1024, append_end=False)
    text: dict[str, Any] = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": text_dim,
        "intermediate_size": 3 * text_dim,
        "num_hidden_layers": text_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision: dict[str, Any] = {
        "hidden_size": vision_dim,
        "intermediate_size": 3 * vision_dim,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 4,
        "num_channels": 3,
        "patch_size": patch,
    }
    config = VideoLlama3Config(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO),
    )
    model = VideoLlama3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer
