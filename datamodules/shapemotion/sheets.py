"""Pictures of what the small models do, for their cards: one held-out clip a row, time across."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.datamodules.shapemotion.world import render, sample_scene
from transporter_pl.explain.sampler import sample
from transporter_pl.report.figures import FAINT
from transporter_pl.report.filmstrip import Label, clip_rows

CODEC, GENERATED, CAPTIONS = "codec.png", "generated.png", "captions.png"
DPI = 90


@torch.no_grad()
def draw_sheets(
    generator: GeneratorAdapter, vlm: VLMAdapter, folder: Path, clips: int = 8, seed: int = 6, steps: int = 20
) -> None:
    """Write clips before and after the codec, clips generated from captions, and the VLM's captions of clips.

    Args:
        generator: The generator.
        vlm: The VLM.
        folder: Where the pictures go.
        clips: Held-out clips a picture.
        seed: Seed of scenes and noise.
        steps: Sampling steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(clips, draws, held_out=True)
    video = render(scene, generator.video.frames, generator.video.height, draws).to(generator.device)
    asked = [_label(caption) for caption in scene.captions()]
    half, fps = clips // 2, generator.video.fps
    pairs = torch.stack([video[:half], generator.decode(generator.encode(video[:half]))], 1).flatten(0, 1)
    after = Label("after encode\nand decode", FAINT)
    clip_rows(folder / CODEC, pairs, [x for label in asked[:half] for x in (label, after)], fps, dpi=DPI)
    condition = generator.encode_text(scene.captions())
    noise = torch.randn(clips, *generator.latent_shape, generator=draws)
    drawn = generator.decode(sample(generator, condition, noise.to(generator.device), steps))
    clip_rows(folder / GENERATED, drawn, asked, fps, dpi=DPI)
    said = [_label(caption) for caption in vlm.caption(vlm.encode(video))]
    clip_rows(folder / CAPTIONS, video, said, fps, dpi=DPI)


def _label(caption: str) -> Label:
    return Label(textwrap.fill(caption, 20))
