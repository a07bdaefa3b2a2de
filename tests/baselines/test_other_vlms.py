"""Baselines climb on the other small VLMs too; on Gemma each one's own test has it."""

import pytest
from ascending import ASKED, VIDEO, climbed, natural, stimulus

from transporter_pl.baselines.ascent import Ascent, targets_of
from transporter_pl.baselines.base import Canvas, new_baseline
from transporter_pl.baselines.references import References
from transporter_pl.concepts.pairs import Pair
from transporter_pl.loading import BackboneSpec, load_vlm

VIDEOLLAMA, PHI = ("video_llama3", "shapemotion-videollama3"), ("phi4_multimodal", "shapemotion-phi4mm")


@pytest.mark.parametrize(
    ("vlm", "name", "options"),
    [
        (VIDEOLLAMA, "am", {}),
        (VIDEOLLAMA, "maco", {"lr": 0.1}),
        (PHI, "gradvit", {}),
        (PHI, "leaps", {"lr": 0.1}),
    ],
)
def test_the_target_logit_rises_well_above_the_start(vlm, name, options):
    """The better of two restarts, towards a colour that noise does not show."""
    pair, context = ASKED[1]
    vlm = load_vlm(BackboneSpec(*vlm), VIDEO)
    canvas = Canvas(VIDEO, (5, 7), stimulus()[[0, 0]], natural(), vlm.moments, vlm.patch_size)
    baseline = new_baseline(name, canvas, options)
    targets = targets_of(vlm, [(Pair(pair.positive, pair.negative), context)], "positive", References(), None)
    ascent = Ascent(vlm, baseline, targets, "positive")
    start = ascent.reached()
    climbed(ascent, 20)
    end = ascent.reached()
    assert (end.logit > start.logit + 1.5).all()
    assert (end.probability > start.probability).all()
