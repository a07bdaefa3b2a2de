"""A small trained VLM, two contrasts that noise does not show, and a short climb."""

import functools

import torch

from transporter_pl.baselines.ascent import Ascent, targets_of
from transporter_pl.baselines.base import Canvas, new_baseline
from transporter_pl.baselines.references import References
from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.shapemotion.world import parse_caption, render, sample_scene
from transporter_pl.loading import BackboneSpec, load_vlm
from transporter_pl.samples import VideoSpec

VIDEO = VideoSpec(9, 64, 64, 8)
ASKED = [
    (Pair("left", "right"), "a large wide red oval moves {} quickly on a dark background"),
    (Pair("red", "blue"), "a large wide {} oval moves left quickly on a dark background"),
]
SEEDS = 1, 0  # noise in which this VLM sees neither right nor blue


@functools.cache
def small_vlm():
    return load_vlm(BackboneSpec("gemma3", "shapemotion-gemma3"), VIDEO)


@functools.cache
def stimulus(end=1):
    """A clip of each ε+, or of each ε−."""
    words = torch.tensor([list(parse_caption(pair.captions(context)[end]).values()) for pair, context in ASKED])
    draws = torch.Generator().manual_seed(0)
    return render(sample_scene(len(words), draws, words=words), VIDEO.frames, VIDEO.height, draws)


@functools.cache
def natural():
    """Clips of the world that the VLM knows."""
    draws = torch.Generator().manual_seed(1)
    return render(sample_scene(64, draws), VIDEO.frames, VIDEO.height, draws)


def begun(name, asked=tuple(ASKED), seeds=SEEDS, kind="positive", **options):
    """The ascent of a baseline on both contrasts."""
    vlm = small_vlm()
    canvas = Canvas(VIDEO, seeds, stimulus(), natural(), vlm.moments, vlm.patch_size)
    baseline = new_baseline(name, canvas, options)
    return Ascent(vlm, baseline, targets_of(vlm, asked, kind, References(stimulus(0), stimulus()), None), kind)


def climbed(ascent, steps):
    """P(token+) before and after so many steps."""
    start = ascent.reached().probability
    optimiser, schedule = ascent.baseline.optimiser(steps)
    for step in range(steps):
        optimiser.zero_grad()
        ascent.climb(step, steps).loss.sum().backward()
        optimiser.step()
        schedule.step()
        assert ascent.baseline.pixels().amin() >= 0
        assert ascent.baseline.pixels().amax() <= 1
    return start, ascent.reached().probability
