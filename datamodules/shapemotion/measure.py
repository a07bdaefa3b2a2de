"""The bars of the embedded world: what the reader and the VLM see in what the method draws."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.datamodules.shapemotion.reader import Reading, read
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, factor_of, parse_caption, render, sample_scene
from transporter_pl.encoding import reencode
from transporter_pl.explain.sampler import sample


@dataclass(frozen=True)
class Agreement:
    """Share of clips, per factor in ``FACTORS``' order, in which a source names the factor's word; and whole objects.

    ``whole`` is ``None`` where captions are judged instead of pixels.
    """

    source: str
    factors: tuple[float, ...]
    whole: float | None = None


@dataclass(frozen=True)
class Effect:
    """What one way of moving the condition does to generated videos.

    Attributes:
        pair: "left:right".
        row: "learned q", "ε+ − ε−" or "ε+".
        flipped: Share of seeds whose target factor reads the positive word at the largest φ.
        kept: Share of (seed, other factor) whose word is the same as at φ = 0, at the largest φ.
        kept_worst: The same for the factor that is kept least.
        whole: Share of whole objects at every φ asked for.
        spearman: Mean over seeds of Spearman's ρ between φ and the target factor's value; ``None`` for the ends alone.
        said: Share of seeds in which the VLM, shown the video of the largest φ, says the positive word.
    """

    pair: str
    row: str
    flipped: float
    kept: float
    kept_worst: float
    whole: tuple[float, ...]
    spearman: float | None
    said: float


def agreement(source: str, words: Tensor, truth: Tensor, whole: Tensor | None = None) -> Agreement:
    """Compare words (B, 6) with the truth (B, 6)."""
    share = (words == truth).float().mean(0).tolist()
    return Agreement(source, tuple(share), None if whole is None else whole.float().mean().item())


def caption_words(captions: list[str]) -> Tensor:
    """Word indices (B, 6) that captions name; -1 where they name none."""
    return torch.tensor([[parse_caption(c)[name] for name in FACTORS] for c in captions])


@torch.no_grad()
def codec_agreement(generator: GeneratorAdapter, clips: int = 512, seed: int = 1) -> Agreement:
    """The reader on held-out clips that went through encode and decode."""
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(clips, draws, held_out=True)
    readings = [read(generator.decode(generator.encode(v)).cpu()) for v in rendered(generator, scene, draws)]
    return _read_agreement("encode and decode", readings, scene)


@torch.no_grad()
def generator_agreement(generator: GeneratorAdapter, clips: int = 256, seed: int = 2, steps: int = 20) -> Agreement:
    """The reader on videos generated from held-out captions."""
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(clips, draws, held_out=True)
    readings = [
        read(_generate(generator, generator.encode_text(captions), draws, steps)) for captions in caption_batches(scene)
    ]
    return _read_agreement("generated from held-out captions", readings, scene)


@torch.no_grad()
def vlm_agreement(vlm: VLMAdapter, clips: int = 512, seed: int = 3) -> Agreement:
    """The VLM's captions of held-out clips."""
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(clips, draws, held_out=True)
    said = [caption for video in rendered(vlm, scene, draws) for caption in vlm.caption(vlm.encode(video))]
    return agreement("the VLM on pixels", caption_words(said), scene.words)


@torch.no_grad()
def coupling_agreement(bridge: Bridge, clips: int = 256, seed: int = 4) -> list[Agreement]:
    """Captions of held-out clips through Φ, beside decode-and-re-encode and the VLM's own encoding.

    Φ reads the condition as well: the last row gives it the captions of other clips, and shows what it takes from the
    latents alone.
    """
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(clips, draws, held_out=True)
    said: dict[str, list[str]] = {}
    for video, captions in zip(rendered(bridge.generator, scene, draws), caption_batches(scene), strict=True):
        latents = bridge.generator.encode(video)
        condition = bridge.generator.encode_text(captions)
        routes = {
            "pixels": bridge.vlm.encode(video),
            "decode and re-encode": reencode(bridge.generator, bridge.vlm, latents),
            "through Φ": bridge.tokens(latents, condition),
            "through Φ, others' captions": bridge.tokens(latents, condition.roll(1, 0)),
        }
        for route, tokens in routes.items():
            said.setdefault(route, []).extend(bridge.vlm.caption(tokens))
    return [agreement(route, caption_words(captions), scene.words) for route, captions in said.items()]


@torch.no_grad()
def concept_effects(
    generator: GeneratorAdapter,
    vlm: VLMAdapter,
    pair: str,
    vector: Tensor,
    phi: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    seeds: int = 64,
    steps: int = 20,
    seed: int = 5,
) -> list[Effect]:
    """Effect of a learned q, of the plain difference ε+ − ε− and of the real ε+, on the same scenes and noise.

    Args:
        generator: The generator.
        vlm: The VLM, which need not mean by a word what the generator does.
        pair: "left:right", two words of one factor.
        vector: q, (L, D_c) or (D_c,).
        phi: Ascending; the first should be 0.
        seeds: Scenes, each with its own noise.
        steps: Sampling steps.
        seed: Seed of scenes and noise.
    """
    factor, source, target = _scenes(pair, seeds, seed)
    negative, positive = (generator.encode_text(s.captions()) for s in (source, target))
    rows = {"learned q": vector.to(negative), "ε+ − ε−": positive - negative}
    effects = []
    for row, direction in rows.items():
        videos = [_draw(generator, negative + f * direction, seed, steps) for f in phi]
        effects.append(_effect(pair, row, factor, target, videos, phi, vlm))
    plain = [_draw(generator, condition, seed, steps) for condition in (negative, positive)]
    effects.append(_effect(pair, "ε+", factor, target, plain, (0.0, 1.0), vlm))
    return effects


def monotone_value(reading: Reading, factor: str, target: int) -> Tensor:
    """A number (B,) that grows on the way to the target word.

    It is the velocity along the direction, the nearness of the hue, or the factor's own value.
    """
    meaning = FACTORS[factor]
    centre = torch.tensor(meaning.centres[target])
    if factor == "direction":
        angle = torch.deg2rad(centre)
        return reading.velocity @ torch.stack([torch.cos(angle), torch.sin(angle)])
    if meaning.period is not None:
        return -((reading.value(factor) - centre + 180) % 360 - 180).abs()
    return reading.value(factor) * (1 if target == len(meaning.words) - 1 else -1)


def _scenes(pair: str, count: int, seed: int) -> tuple[str, Scene, Scene]:
    """Random scenes with the pair's negative word, and the same with the positive."""
    factor, negative, positive = factor_of(pair)
    column = list(FACTORS).index(factor)
    source = sample_scene(count, torch.Generator().manual_seed(seed), held_out=None)
    words = source.words.clone()
    words[:, column] = negative
    swapped = words.clone()
    swapped[:, column] = positive
    return factor, Scene(words, source.values), Scene(swapped, source.values)


def _draw(generator: GeneratorAdapter, condition: Tensor, seed: int, steps: int) -> Tensor:
    return _generate(generator, condition, torch.Generator().manual_seed(seed), steps)


def _generate(generator: GeneratorAdapter, condition: Tensor, draws: torch.Generator, steps: int) -> Tensor:
    noise = torch.randn(len(condition), *generator.latent_shape, generator=draws)
    return generator.decode(sample(generator, condition, noise.to(generator.device), steps)).cpu()


def _effect(
    pair: str,
    row: str,
    factor: str,
    target: Scene,
    videos: Sequence[Tensor],
    phi: tuple[float, ...],
    vlm: VLMAdapter,
) -> Effect:
    column, readings = list(FACTORS).index(factor), [read(video) for video in videos]
    said = caption_words(vlm.caption(vlm.encode(videos[-1].to(vlm.device))))[:, column]
    same = readings[-1].words == readings[0].words
    others = [i for i in range(len(FACTORS)) if i != column]
    kept = same[:, others].float().mean(0)
    wanted = int(target.words[0, column])
    path = torch.stack([monotone_value(r, factor, wanted) for r in readings], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant path has no rank correlation: it counts as 0
        rho = torch.tensor([spearmanr(phi, p).statistic for p in path.tolist()]).nan_to_num(0.0)
    return Effect(
        pair=pair,
        row=row,
        flipped=(readings[-1].word(factor) == wanted).float().mean().item(),
        kept=kept.mean().item(),
        kept_worst=kept.min().item(),
        whole=tuple(r.whole.float().mean().item() for r in readings),
        spearman=rho.mean().item() if len(phi) > 2 else None,
        said=(said == wanted).float().mean().item(),
    )


def rendered(
    adapter: GeneratorAdapter | VLMAdapter, scene: Scene, draws: torch.Generator, size: int = 64
) -> Iterator[Tensor]:
    """The scenes as videos (size, T, 3, H, W) in the adapter's geometry, batch by batch."""
    for start in range(0, len(scene), size):
        part = Scene(scene.words[start : start + size], scene.values[start : start + size])
        yield render(part, adapter.video.frames, adapter.video.height, draws).to(adapter.device)


def caption_batches(scene: Scene, size: int = 64) -> Iterator[list[str]]:
    """The scenes' captions, in the same batches."""
    captions = scene.captions()
    for start in range(0, len(captions), size):
        yield captions[start : start + size]


def _read_agreement(source: str, readings: list[Reading], scene: Scene) -> Agreement:
    words, whole = (torch.cat([getattr(r, name) for r in readings]) for name in ("words", "whole"))
    return agreement(source, words, scene.words, whole)
