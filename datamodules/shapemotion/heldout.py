"""Held-out clips, made once, and how well a Φ carries them over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.functional import cosine_similarity

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.coupling.relations import gram
from transporter_pl.datamodules.shapemotion.measure import agreement, caption_batches, caption_words, rendered
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import sample_scene
from transporter_pl.encoding import encode
from transporter_pl.explain.sampler import sample
from transporter_pl.samples import Clips, Encoded


@dataclass(frozen=True)
class HeldOut:
    """Clips of word combinations that training never sees.

    Attributes:
        batches: Their encodings.
        words: What they show, word indices (B, 6), columns in ``FACTORS``' order.
    """

    batches: tuple[Encoded, ...]
    words: Tensor


@dataclass(frozen=True)
class Bench:
    """What every Φ is measured by.

    Attributes:
        vlm: Ω, that captions.
        real: Rendered clips.
        generated: Clips that the generator drew.
    """

    vlm: VLMAdapter
    real: HeldOut
    generated: HeldOut


@dataclass(frozen=True)
class Fidelity:
    """How well a Φ carries held-out clips over.

    Attributes:
        real: Share of rendered clips whose caption through Φ names the factor's word, per factor in ``FACTORS``' order.
        generated: The same of clips that the generator drew, held to what the reader sees in them.
        cosine: Mean cosine of z̃ with z_Ω over the tokens of rendered clips, both standardised.
        gram: mse(H(z_Ω), H(z̃)) of rendered clips, H normalised as in Φ's own loss.
    """

    real: tuple[float, ...]
    generated: tuple[float, ...]
    cosine: float
    gram: float


@torch.no_grad()
def rendered_clips(generator: GeneratorAdapter, vlm: VLMAdapter, count: int, seed: int = 4) -> HeldOut:
    """Clips as the world renders them; the truth is the scene's words."""
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(count, draws, held_out=True)
    captioned = track(list(caption_batches(scene)), "Rendered clips", transient=True)
    batches = [
        encode(generator, vlm, Clips(tuple(captions), video, tuple(captions)))
        for captions, video in zip(captioned, rendered(generator, scene, draws), strict=True)
    ]
    return HeldOut(tuple(batches), scene.words)


@torch.no_grad()
def generated_clips(
    generator: GeneratorAdapter, vlm: VLMAdapter, count: int, steps: int = 20, seed: int = 6
) -> HeldOut:
    """Clips that the generator draws from captions, with its own guidance; the truth is what the reader sees in them.

    The generator may err by itself, and Φ is not to be blamed for that. There is no video but the decoded one, so that
    z_Ω is z_Ξ→Ω.
    """
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(count, draws, held_out=True)
    batches, words = [], []
    for captions in track(list(caption_batches(scene, 16)), "Generated clips", transient=True):
        condition = generator.encode_text(captions)
        noise = torch.randn(len(captions), *generator.latent_shape, generator=draws)
        latents = sample(generator, condition, noise.to(condition), steps)
        video = generator.decode(latents)
        tokens = vlm.encode(video)
        batches.append(Encoded(tuple(captions), tuple(captions), latents, condition, tokens, tokens))
        words.append(read(video.float().cpu()).words)
    return HeldOut(tuple(batches), torch.cat(words))


@torch.no_grad()
def fidelity(network: CouplingNetwork, bench: Bench) -> Fidelity:
    """Measure one Φ on clips that are encoded already."""
    carried = [_carried(network, batch) for batch in bench.real.batches]
    compared = [_compared(network, z, batch.tokens) for z, batch in zip(carried, bench.real.batches, strict=True)]
    cosine, error = (torch.cat(values).mean().item() for values in zip(*compared, strict=True))
    drawn = [_carried(network, batch) for batch in bench.generated.batches]
    real, generated = _named(bench.vlm, carried, bench.real.words), _named(bench.vlm, drawn, bench.generated.words)
    return Fidelity(real, generated, cosine, error)


def _carried(network: CouplingNetwork, batch: Encoded) -> Tensor:
    """z̃ (B, N, D) in the VLM's own units, without decoding anew."""
    tokens: Tensor = network(batch.latents, batch.condition, batch.reencoded).tokens
    return tokens


def _compared(network: CouplingNetwork, carried: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and Gram error (B,) of z̃ against z_Ω, both standardised by Φ's own statistics."""
    moved, target = network.standardise(carried), network.standardise(tokens.to(carried))
    relations = gram(moved, network.config.gram) - gram(target, network.config.gram)
    return cosine_similarity(moved, target, dim=-1).mean(1), relations.square().mean((1, 2))


def _named(vlm: VLMAdapter, carried: list[Tensor], words: Tensor) -> tuple[float, ...]:
    """Share of clips, per factor, whose caption names the right word."""
    said = [caption for tokens in carried for caption in vlm.caption(tokens.to(vlm.dtype))]
    return agreement("through Φ", caption_words(said), words).factors
