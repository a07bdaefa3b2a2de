"""LEAPS: its schedule, its terms, what it refuses, and that it climbs."""

import math

import pytest
import torch
from ascending import begun, climbed
from chance import sources
from torch import nn

from transporter_pl.baselines.base import Canvas, Shown, new_baseline
from transporter_pl.baselines.pixels import normalised
from transporter_pl.baselines.terms import coherence, l2, priming
from transporter_pl.baselines.verifier import Verifier
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SMALL = VideoSpec(3, 16, 16, 8)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(video=SMALL, moments=None, **options):
    shape = 2, video.frames, 3, video.height, video.width
    return new_baseline("leaps", Canvas(video, (0, 1), random(*shape).sigmoid(), moments=moments), options)


def shown(baseline, tokens=6):
    """Two layers of two clips, the latter tokens of three moments."""
    layers, stimulus = ((random(2, 8, 5, seed=s), random(2, tokens, 4, seed=s + 1)) for s in (2, 4))
    video = baseline.pixels()
    return Shown(video, baseline.transform(video, 0.0, sources(2)), layers, stimulus, 0.0)


@pytest.mark.parametrize(("steps", "rise"), [(1500, 100), (150, 10), (20, 1), (1, 1)])
def test_lr_rises_then_falls_as_a_cosine(steps, rise):
    optimiser, schedule = made().optimiser(steps)
    for step in range(steps):
        fallen = (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2 if steps > rise else 1
        expected = 0.6 * (step + 1) / rise if step < rise else 5e-3 + (0.6 - 5e-3) * fallen
        assert optimiser.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-5)
        optimiser.step()
        schedule.step()
    assert optimiser.param_groups[0]["betas"] == (0.5, 0.9)


def test_a_schedule_goes_on_where_it_stopped():
    (optimiser, schedule), (again, resumed) = (made().optimiser(60) for _ in range(2))
    for _ in range(25):
        optimiser.step()
        schedule.step()
    again.load_state_dict(optimiser.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(35):
        assert again.param_groups[0]["lr"] == optimiser.param_groups[0]["lr"]
        for pair in ((optimiser, schedule), (again, resumed)):
            for one in pair:
                one.step()


def test_clips_roll_by_their_share_of_the_frame_and_are_not_mirrored():
    baseline = made(VideoSpec(2, 64, 64, 8))
    video, places = baseline.pixels(), set()
    for seed in range(200):
        seen = baseline.transform(video, 0.0, sources(2, seed))
        for clip, origin in zip(seen, video, strict=True):
            (row, column) = torch.nonzero((clip[0, 0] == origin[0, 0, 0, 0]) & (clip[1, 2] == origin[1, 2, 0, 0]))[0]
            assert torch.equal(clip, origin.roll((row.item(), column.item()), (-2, -1)))
            places |= {(row.item() + 32) % 64 - 32, (column.item() + 32) % 64 - 32}
    assert places == set(range(-9, 10))  # 30 of 224 pixels are 8.6 of 64


def test_clips_are_mirrored_where_it_is_asked_for():
    baseline = made(flip=1.0)
    video = baseline.pixels()
    mirrored = baseline.transform(video, 0.0, sources(2))
    baseline.flip = 0.0
    torch.testing.assert_close(mirrored, baseline.transform(video, 0.0, sources(2)).flip(-1))


def test_terms_are_those_of_the_paper_with_their_weights():
    baseline = made(priming=2.0, layer_weights=[1.0, 3.0], coherence=0.5, margin=1.5, l2=0.1)
    seen = shown(baseline)
    unit = seen.stimulus[1].square().mean((1, 2)).sqrt()[:, None, None]
    expected = {
        "priming": 2 * priming(seen.layers, seen.stimulus, [1.0, 3.0]),
        "coherence": 0.5 * coherence((seen.layers[1] / unit).reshape(2, 3, 8), 1.5),
        "l2": 0.1 * l2(normalised(seen.seen)),
    }
    found = baseline.penalties(seen)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_weight_of_0_leaves_a_term_out():
    baseline = made(priming=0.0, coherence=0.0, l2=0.0)
    assert baseline.penalties(shown(baseline)) == {}
    baseline = made(VideoSpec(1, 16, 16, 8), coherence=0.0)  # a picture, too
    assert list(baseline.penalties(shown(baseline))) == ["priming", "l2"]


def test_a_verifier_looks_at_what_the_vlm_is_shown():
    baseline = made(batch_norm=0.5)
    baseline.verifier = Verifier(nn.BatchNorm3d(3))
    seen = shown(baseline)
    torch.testing.assert_close(baseline.penalties(seen)["batch_norm"], 0.5 * baseline.verifier.penalty(seen.seen))


def test_moments_of_two_frames():
    baseline = made(VideoSpec(5, 16, 16, 8), moments=3, priming=0.0, l2=0.0)
    assert list(baseline.penalties(shown(baseline, tokens=6))) == ["coherence"]  # three moments
    with pytest.raises(
        TransporterError, match="coherence: 7 tokens are no whole number for each of the VLM's 3 moments"
    ):
        baseline.penalties(shown(baseline, tokens=7))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"moments": 1}, "video.frames: 3 are one moment of this VLM; use more, or coherence 0"),
        ({"priming": -1.0}, "priming: -1.0 is no finite number"),
        ({"verifier": "r3d_19"}, "verifier: torchvision has no video net 'r3d_19'"),
        ({"flip": math.nan}, "flip: nan is no finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(TransporterError, match=said):
        made(**options)


def test_layer_weights_that_do_not_fit_are_refused():
    baseline = made(layer_weights=[1.0])
    with pytest.raises(
        TransporterError, match="layer_weights: 1 for 2 layers, z_Ω the last of them; give one for each"
    ):
        baseline.penalties(shown(baseline))


def test_a_stimulus_is_needed():
    with pytest.raises(TransporterError, match="clips: LEAPS is primed by a clip of ε"):
        new_baseline("leaps", Canvas(SMALL, (0,)), {})


def test_the_token_rises_on_a_trained_vlm():
    start, end = climbed(begun("leaps", lr=0.1), 40)  # as the tables; the default is for hundreds of steps
    assert (start < 0.05).all()
    assert (end > 0.5).all()


def test_priming_draws_near_the_stimulus():
    ascent = begun("leaps", lr=0.05, coherence=0.0, l2=0.0)
    # a roll changes the figure by more than a step does
    ascent.baseline.transform = lambda video, progress, draws: video
    optimiser, _ = ascent.baseline.optimiser(10)
    figures = []
    for _ in range(10):
        optimiser.zero_grad()
        figures.append(ascent.climb(0, 10).penalties["priming"])
        figures[-1].sum().backward()
        optimiser.step()
    assert (figures[-1] < 0.9 * figures[0]).all()
