"""Tiny backbones of the real architectures, in the hub's folder format, made once a session."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny_pair import Tiny

from transporter_pl.loading import BackboneSpec, load_generator, load_vlm
from transporter_pl.samples import VideoSpec

# The last bits of sums depend on the number of threads, and Lightning gives each of several processes its share: with
# one thread, here and in what tests start, the results of one process and of several are the same to the last bit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# How long an example takes says how busy the machine is. Where the variable CI is set, hypothesis draws the same
# examples every time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

WORDS = [
    *["a", "red", "blue", "small", "large", "oval", "moves", "left", "right", "slowly", "quickly", "on"],
    *["dark", "bright", "background", "Describe", "the", "video", "Time", "s"],
]


def pytest_collection_modifyitems(config, items):
    """Skip what this machine can't run, and what nobody asked for with ``-m``."""
    asked = config.getoption("-m")
    reasons = {name: f"run with -m {name}" for name in ("slow", "network") if name not in asked}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device"
    for item in items:
        for name, reason in reasons.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Wan and VideoLLaMA 3 with random weights."""
    from transporter_pl.backbones import scratch
    from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
    from transporter_pl.backbones.wan import WanAdapter

    folder, video = tmp_path_factory.mktemp("tiny"), VideoSpec(frames=5, height=32, width=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = scratch.new_vae(latent_channels=4, base_dim=8, patch=4)
        pipeline = scratch.new_wan(WORDS, vae=vae, text_length=12, text_dim=16, heads=2, head_dim=24, layers=2)
        model, tokenizer = scratch.new_video_llama3(WORDS, vision_dim=32, vision_layers=1, text_dim=32, text_layers=2)
    WanAdapter(pipeline, video, guidance_scale=3.0).save(folder / "wan")
    VideoLlama3Adapter(model, tokenizer, video).save(folder / "vlm")
    return Tiny(BackboneSpec("wan", str(folder / "wan")), BackboneSpec("video_llama3", str(folder / "vlm")), video)


@pytest.fixture(scope="session")
def tiny_coupling(tiny, tmp_path_factory):
    """Folder of an untrained Φ for the tiny backbones."""
    from transporter_pl.coupling.config import CouplingConfig
    from transporter_pl.coupling.network import CouplingNetwork

    folder = tmp_path_factory.mktemp("coupling")
    generator, vlm = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    shapes = {"latent_shape": generator.latent_shape, "condition_shape": generator.condition_shape}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = CouplingConfig(
            width=16, mixer_layers=1, transformer_layers=1, heads=2, token_shape=vlm.token_shape, **shapes
        )
        CouplingNetwork(config).save(folder)
    return str(folder)
