"""MACO: natural spectra and colours whatever the phases, its crops, and its way up the token of a trained VLM."""

import math

import pytest
import torch
from ascending import begun, climbed
from chance import sources

from transporter_pl.baselines.base import Canvas, baselines
from transporter_pl.baselines.maco import MACO
from transporter_pl.baselines.parametrisations import spectrum
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(4, 12, 10)


def natural(spec=SPEC, count=3, seed=0):
    """Smooth coloured clips, each with a brightness of its own."""
    draws = torch.Generator().manual_seed(seed)
    video = torch.rand(count, spec.frames, 3, spec.height, spec.width, generator=draws)
    smooth = (video + video.roll(1, -1) + video.roll(1, -2) + video.roll(1, 1)) / 4
    return (0.3 + 0.4 * torch.rand(count, 1, 1, 1, 1, generator=draws)) * (0.2 + smooth)


def made(seeds=(0, 1), spec=SPEC, **options):
    return MACO(Canvas(spec, seeds, natural=natural(spec)), **options)


def test_it_is_registered():
    assert baselines.get("maco") is MACO


def test_the_phase_alone_is_optimised_and_saved():
    baseline = made()
    assert [name for name, _ in baseline.named_parameters()] == ["phase"]
    assert list(baseline.state_dict()) == ["phase"]
    assert baseline.phase.shape == (2, 4, 3, 12, 6)


def test_phases_start_anywhere_in_the_circle():
    baseline = made(spec=VideoSpec(9, 32, 32))
    free = baseline.phase[..., 1:16]
    for harmonic in (1, 2, 3):
        assert torch.polar(torch.ones_like(free), harmonic * free).mean().abs() < 0.02


@pytest.mark.parametrize("steps", [0, 3])
def test_the_magnitudes_are_the_natural_ones_whatever_the_phases(steps):
    """Of uncorrelated colours before the sigmoid, up to one factor a colour, and but for the mean."""
    baseline = made()
    optimiser, _ = baseline.optimiser(steps)
    before = baseline.pixels()
    for _ in range(steps):
        optimiser.zero_grad()
        (-baseline.pixels()[..., 5:].sum()).backward()
        optimiser.step()
    drawn, clips = baseline.pixels(), natural()
    assert torch.equal(drawn, before) == (steps == 0)
    root, mean = baseline.colours.axes, baseline.colours.mean[:, None, None]
    values = [torch.linalg.solve(root, (x.logit() - mean).movedim(2, 0).flatten(1)) for x in (drawn, clips)]
    drawn, clips = (v.unflatten(1, (-1, 4, 12, 10)).movedim(0, 2) for v in values)
    ratio = spectrum(drawn).abs() / spectrum(clips).abs().mean(0)
    ratio[:, 0, :, 0, 0] = ratio[:, 1, :, 0, 0]
    torch.testing.assert_close(ratio, ratio[:1, 1:2, :, :1, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)


def test_drawn_videos_have_natural_colours():
    """Over many phases, their mean and covariance before the sigmoid are those within the natural clips."""
    clips = natural()
    logits = clips.logit().movedim(2, 1).flatten(2)
    covariance = torch.stack([clip.cov(correction=0) for clip in logits]).mean(0)
    drawn = made(seeds=tuple(range(400))).pixels().logit().movedim(2, 0).flatten(1)
    torch.testing.assert_close(drawn.mean(1), logits.mean((0, 2)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(drawn.cov(correction=0), covariance, atol=0.02 * covariance.max().item(), rtol=0)


def test_every_seed_has_its_start_and_its_way_whatever_is_beside_it():
    weights = dict(
        zip((3, 5, 8), torch.randn(3, 4, 3, 12, 10, generator=torch.Generator().manual_seed(0)), strict=True)
    )
    rows = []
    for seeds in ((3, 5, 8), (5,)):
        baseline = made(seeds)
        optimiser, _ = baseline.optimiser(10)
        for _ in range(3):
            optimiser.zero_grad()
            (-(torch.stack([weights[seed] for seed in seeds]) * baseline.pixels()).sum()).backward()
            optimiser.step()
        rows.append(baseline.pixels()[seeds.index(5)])
    torch.testing.assert_close(*rows)


@pytest.mark.parametrize(("progress", "side"), [(0.0, 0.5), (0.5, 0.4), (0.9, 0.32), (1.0, 0.32)])
def test_crops_shrink_down_to_so_many_pixels(progress, side):
    """In a frame of 200 pixels, which say where they are, from a half to 64 pixels instead of 0.3 of it."""
    x = torch.arange(200) / 200
    video = x.expand(4, 1, 3, 200, 200)
    seen = made(first_crop=0.5, last_crop=0.3, noise=0.0).transform(video, progress, sources(4))
    torch.testing.assert_close(seen[..., 150] - seen[..., 50], torch.full((4, 1, 3, 200), side / 2))


def test_small_frames_are_shown_whole_with_noise():
    video = torch.full((3, 9, 3, 64, 64), 0.5)
    added = made().transform(video, 1.0, sources(3)) - video
    assert added.std().item() == pytest.approx(0.08, rel=0.02)
    place = torch.rand(2, 4, 3, 40, 64)
    torch.testing.assert_close(made(noise=0.0).transform(place, 0.5, sources(2)), place)


def test_the_lr_is_constant():
    optimiser, schedule = made(lr=0.3).optimiser(5)
    rates = []
    for _ in range(5):
        rates.extend(schedule.get_last_lr())
        optimiser.step()
        schedule.step()
    assert rates == [0.3] * 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "lr: -1.0"),
        ({"noise": math.inf}, "noise: inf"),
        ({"first_crop": 0.0}, "first_crop: 0.0 is no share of the frame's side"),
        ({"last_crop": 1.5}, "last_crop: 1.5 is no share of the frame's side"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(TransporterError, match=says):
        made(**options)


def test_bad_natural_clips():
    with pytest.raises(TransporterError, match="natural: MACO measures natural clips"):
        MACO(Canvas(SPEC, (0,)))
    with pytest.raises(
        TransporterError, match=r"shape \(3, 4, 3, 12, 10\) do not fit; give some of \(M, 5, 3, 12, 10\)"
    ):
        MACO(Canvas(VideoSpec(5, 12, 10), (0,), natural=natural()))


def test_the_token_rises_on_a_trained_vlm():
    start, end = climbed(begun("maco", seeds=(0, 1)), 40)
    assert (start < 0.05).all()
    assert (end > 0.5).all()
