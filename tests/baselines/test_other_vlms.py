"""Baselines climb on the other small VLMs too, and with the other objective; on Gemma each one's own test has it."""

from itertools import product

import pytest
from ascending import ASKED, VIDEO, begun, climbed, natural, stimulus

from transporter_pl.baselines.ascent import Ascent, targets_of
from transporter_pl.baselines.base import Canvas, new_baseline
from transporter_pl.baselines.references import References
from transporter_pl.concepts.pairs import Pair
from transporter_pl.loading import BackboneSpec, load_vlm

VIDEOLLAMA, PHI = ("video_llama3", "shapemotion-videollama3"), ("phi4_multimodal", "shapemotion-phi4mm")
OPTIONS = {"am": {}, "maco": {"lr": 0.1}, "gradvit": {}, "leaps": {"lr": 0.1}}  # the tables' own
SOON = {(VIDEOLLAMA, "am"), (VIDEOLLAMA, "maco"), (PHI, "gradvit"), (PHI, "leaps")}
ALL = [
    pytest.param(*both, marks=() if both in SOON else pytest.mark.slow) for both in product((VIDEOLLAMA, PHI), OPTIONS)
]


@pytest.mark.parametrize(("vlm", "name"), ALL)
def test_the_target_logit_rises_well_above_the_start(vlm, name):
    """The better of two restarts, towards a colour that noise does not show."""
    pair, context = ASKED[1]
    vlm = load_vlm(BackboneSpec(*vlm), VIDEO)
    canvas = Canvas(VIDEO, (5, 7), stimulus()[[0, 0]], natural(), vlm.moments, vlm.patch_size)
    baseline = new_baseline(name, canvas, OPTIONS[name])
    targets = targets_of(vlm, [(Pair(pair.positive, pair.negative), context)], "positive", References(), None)
    ascent = Ascent(vlm, baseline, targets, "positive")
    start = ascent.reached()
    climbed(ascent, 20)
    end = ascent.reached()
    assert (end.logit > start.logit + 1.5).all()
    assert (end.probability > start.probability).all()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "leaps" else pytest.mark.slow) for name in OPTIONS]
)
def test_answers_draw_near_to_the_moved_distribution(name):
    ascent = begun(name, kind="moved", **OPTIONS[name])
    best = (ascent.targets.moved().clamp_min(1e-9).log() * ascent.targets.moved()).sum(-1)  # −CE(τ, τ)
    start = best - ascent.reached().objective
    climbed(ascent, 30)
    end = best - ascent.reached().objective
    assert (end < 0.5 * start).all()
