"""Tiny backbones of the real architectures, once a session, and the official processor beside them."""

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tiny_vlms import KINDS, ROUTED, SPEC, WORDS, tiny_vlm

from transporter_pl.backbones.scratch import new_vae, new_wan
from transporter_pl.backbones.transformers_vlm import TransformersVLM
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.samples import VideoSpec


@pytest.fixture(scope="session")
def spec() -> VideoSpec:
    return SPEC


@pytest.fixture(scope="session")
def clips(spec) -> torch.Tensor:
    """Bytes, as a decoder gives them: what the official processors are made for."""
    generator = torch.Generator().manual_seed(7)
    shape = (2, spec.frames, 3, spec.height, spec.width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="session")
def video(clips) -> torch.Tensor:
    return clips.float() / 255


def two_experts() -> WanPipeline:
    """As Wan2.2-T2V-A14B: two transformers, plain VAE of stride 4x8x8, patch 2, UniPC."""
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=torch.linspace(-1, 1, 16).tolist(),
        latents_std=torch.linspace(0.5, 3, 16).tolist(),
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = new_wan(WORDS, heads=2, head_dim=16, layers=1).components
    low, high = transformer(16), transformer(16)
    return WanPipeline(
        tokenizer=parts["tokenizer"],
        text_encoder=parts["text_encoder"],
        vae=vae,
        transformer=high,
        transformer_2=low,
        scheduler=scheduler,
        boundary_ratio=0.875,
    )


def expanded() -> WanPipeline:
    """As Wan2.2-TI2V-5B: residual VAE on folded pixels, 48 channels, a time for every token, UniPC."""
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=torch.linspace(-1, 1, 48).tolist(),
        latents_std=torch.linspace(0.5, 3, 48).tolist(),
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    parts = new_wan(WORDS, heads=2, head_dim=16, layers=1).components
    return WanPipeline(
        tokenizer=parts["tokenizer"],
        text_encoder=parts["text_encoder"],
        vae=vae,
        transformer=transformer(48),
        scheduler=scheduler,
        expand_timesteps=True,
    )


def one_expert() -> WanPipeline:
    """As the shipped one: Euler, but with a shift and latents that are not standardised."""
    vae = new_vae(8, 8, 2)
    vae.register_to_config(latents_mean=[0.5] * 4 + [-1.0] * 4, latents_std=[2.0] * 4 + [0.25] * 4)
    pipeline = new_wan(WORDS, vae=vae, heads=2, head_dim=16, layers=2)
    pipeline.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    return pipeline


def transformer(channels: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=channels,
        text_dim=64,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    )


PIPELINES = {"one_expert": one_expert, "two_experts": two_experts, "expanded": expanded}


@pytest.fixture(scope="session")
def pipelines() -> dict[str, WanPipeline]:
    torch.manual_seed(0)
    made = {name: make() for name, make in PIPELINES.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
    return made


@pytest.fixture(scope="session", params=list(PIPELINES))
def wan(request, pipelines, spec) -> WanAdapter:
    """Every kind of Wan pipeline in turn."""
    return WanAdapter(pipelines[request.param], spec, guidance_scale=3.0).freeze()


@pytest.fixture(scope="session")
def small_wan(pipelines, spec) -> WanAdapter:
    return WanAdapter(pipelines["one_expert"], spec, guidance_scale=3.0).freeze()


@pytest.fixture(scope="session")
def experts(pipelines, spec) -> WanAdapter:
    return WanAdapter(pipelines["two_experts"], spec).freeze()


@pytest.fixture(scope="session", params=list(KINDS))
def vlm(request) -> TransformersVLM:
    """Every kind of VLM in turn."""
    return tiny_vlm(request.param)


@pytest.fixture(scope="session", params=ROUTED)
def routed(request) -> TransformersVLM:
    """Those whose official processor stands beside them."""
    return tiny_vlm(request.param)


@pytest.fixture(scope="session")
def small_vlm() -> TransformersVLM:
    return tiny_vlm("video_llama3")
