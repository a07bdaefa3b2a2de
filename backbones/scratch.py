"""New backbones of the real architectures with random weights, in the hub's folder format."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
)

from transporter_pl.backbones.gemma3 import Gemma3Adapter

M = TypeVar("M", bound=PreTrainedModel)
PAD, END, UNKNOWN, IMAGE, VIDEO = "<pad>", "</s>", "<unk>", "<|image_pad|>", "<|video_pad|>"


def word_tokenizer(
    words: list[str], length: int, *, append_end: bool = False, visual: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word, a digit or a punctuation mark.

    Args:
        words: Vocabulary beside digits, punctuation and special tokens.
        length: ``model_max_length``.
        append_end: Whether ``</s>`` is appended, as Wan's text encoder expects.
        visual: The special tokens of images and videos, under the names that a processor asks for.
    """
    visual = {"image_token": IMAGE, "video_token": VIDEO} if visual is None else visual
    special = [PAD, END, UNKNOWN, *visual.values()]
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
        extra_special_tokens=visual,
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
    tokenizer = word_tokenizer(words, 1024)
    config = VideoLlama3Config(
        text_config=_text(text_dim, text_layers, tokenizer, model_type="qwen2", tie_word_embeddings=False),
        vision_config=_vision(vision_dim, vision_layers, patch),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO),
    )
    return _ending(VideoLlama3ForConditionalGeneration(config), tokenizer), tokenizer


def new_gemma3(
    words: list[str],
    *,
    image: int = 32,
    patch: int = 8,
    tokens: int = 4,
    vision_dim: int = 96,
    vision_layers: int = 3,
    text_dim: int = 128,
    text_layers: int = 4,
) -> tuple[Gemma3ForConditionalGeneration, PreTrainedTokenizerFast]:
    """A Gemma3 of the real architecture for square images, and its word tokenizer.

    Every second layer attends to a sliding window.
    """
    visual = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = word_tokenizer(words, 1024, visual=visual)
    text = _text(
        text_dim,
        text_layers,
        tokenizer,
        head_dim=text_dim // 4,
        query_pre_attn_scalar=text_dim // 4,
        layer_types=["full_attention" if i % 2 else "sliding_attention" for i in range(text_layers)],
        sliding_window=64,
    )
    vision = _vision(vision_dim, vision_layers, patch, model_type="siglip_vision_model", image_size=image)
    boi, eoi, placeholder = tokenizer.convert_tokens_to_ids(list(visual.values()))
    config = Gemma3Config(
        text_config=text,
        vision_config={**vision, "vision_use_head": False},
        mm_tokens_per_image=tokens,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=placeholder,
    )
    return _ending(Gemma3Adapter.draw(config), tokenizer), tokenizer


def new_phi4_multimodal(
    words: list[str],
    *,
    image: int = 32,
    patch: int = 8,
    vision_dim: int = 96,
    vision_layers: int = 3,
    feature_layer: int = -2,
    text_dim: int = 128,
    text_layers: int = 4,
) -> tuple[Phi4MultimodalForCausalLM, PreTrainedTokenizerFast]:
    """A Phi4Multimodal of the real architecture with a stub of its audio tower, and its word tokenizer."""
    visual = {"image_token": "<|image|>", "audio_token": "<|audio|>"}
    tokenizer = word_tokenizer(words, 1024, visual=visual)
    seen, heard = tokenizer.convert_tokens_to_ids(list(visual.values()))
    vision = _vision(vision_dim, vision_layers, patch, image_size=image, crop_size=image)
    audio = {"hidden_size": 16, "intermediate_size": 16, "num_blocks": 2, "num_attention_heads": 2, "input_size": 16}
    channels = {"ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 16}
    config = Phi4MultimodalConfig(
        **_text(text_dim, text_layers, tokenizer),
        original_max_position_embeddings=1024,
        vision_config={**vision, "image_token_id": seen, "feature_layer": feature_layer},
        audio_config={**audio, **channels, "audio_token_id": heard},
    )
    return _ending(Phi4MultimodalForCausalLM(config), tokenizer), tokenizer


def new_qwen3_vl(
    words: list[str],
    *,
    patch: int = 8,
    vision_dim: int = 96,
    vision_layers: int = 3,
    deepstack: tuple[int, ...] = (0, 1),
    text_dim: int = 128,
    text_layers: int = 4,
) -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """A Qwen3VL of the real architecture and its word tokenizer.

    The features after the vision layers ``deepstack`` enter the first layers of the language model, as many of them.
    """
    visual = {"image_token": IMAGE, "video_token": VIDEO}
    visual |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    tokenizer = word_tokenizer(words, 1024, visual=visual)
    third, ids = text_dim // 4 // 2 // 3, tokenizer.convert_tokens_to_ids(list(visual.values()))
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_interleaved": True,
        # of the frequencies, a third for the row and one for the column; time has the others
        "mrope_section": [text_dim // 8 - 2 * third, third, third],
    }
    text = _text(text_dim, text_layers, tokenizer, head_dim=text_dim // 4, rope_parameters=rope)
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_dim,
        "intermediate_size": 3 * vision_dim,
        "num_heads": 4,
        "patch_size": patch,
        "out_hidden_size": text_dim,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": list(deepstack),
    }
    names = [name.removesuffix("_token") + "_token_id" for name in visual]
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **dict(zip(names, ids, strict=True)))
    return _ending(Qwen3VLForConditionalGeneration(config), tokenizer), tokenizer


def _text(dim: int, layers: int, tokenizer: PreTrainedTokenizerFast, **own: Any) -> dict[str, Any]:  # noqa: ANN401
    """Settings that the language models share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": dim,
        "intermediate_size": 3 * dim,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **own,
    }


def _vision(dim: int, layers: int, patch: int, **own: Any) -> dict[str, Any]:  # noqa: ANN401
    """Settings that the vision encoders share, all being kinds of SigLIP."""
    return {
        "hidden_size": dim,
        "intermediate_size": 3 * dim,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_channels": 3,
        "patch_size": patch,
        **own,
    }


def _ending(model: M, tokenizer: PreTrainedTokenizerFast) -> M:
    """The model, told how its tokenizer ends and pads an answer."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
