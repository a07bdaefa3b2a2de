"""GradViT-prior: its start, its schedule, which prior counts when, and that it climbs."""

import math

import pytest
import torch
from ascending import begun, climbed
from torch import nn

from transporter_pl.baselines.base import Canvas, Shown, new_baseline
from transporter_pl.baselines.pixels import normalised
from transporter_pl.baselines.terms import l2, patch_borders, total_variation
from transporter_pl.baselines.verifier import Verifier
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SMALL = VideoSpec(3, 16, 16, 8)


def made(*seeds, **options):
    return new_baseline("gradvit", Canvas(SMALL, seeds or (0, 1), patch_size=(4, 4)), options)


def shown(baseline, progress):
    video = baseline.pixels()
    return Shown(video, video, (), (), progress)


def test_begins_with_noise_that_fits_the_range():
    baseline = made(0, 1)
    noise = baseline.canvas.noise()
    torch.testing.assert_close(baseline.pixels(), (0.5 + noise / 4).clamp(0, 1))
    torch.testing.assert_close(normalised(baseline.pixels()), noise.clamp(-2, 2))
    assert torch.equal(baseline.pixels()[1:], made(1).pixels())


def test_every_step_ends_in_the_range_and_what_is_at_its_end_can_come_back():
    baseline = made(0)
    optimiser, _ = baseline.optimiser(10)
    for sign in (1, -1):
        for _ in range(60):
            optimiser.zero_grad()
            (-sign * baseline.pixels().sum()).backward()
            optimiser.step()
        assert (baseline.pixels() == (1 if sign > 0 else 0)).all()


def test_lr_falls_to_0_as_a_cosine():
    optimiser, schedule = made(lr=0.2).optimiser(8)
    for step in range(8):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(0.2 * (1 + math.cos(math.pi * step / 8)) / 2)
        optimiser.step()
        schedule.step()
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0)


def test_the_image_prior_counts_in_the_second_half_alone():
    baseline = made(patch_prior=2.0, tv=3.0, l2=5.0)
    u = normalised(baseline.pixels())
    borders = 2 * patch_borders(u, (4, 4))
    for progress in (0.0, 0.49):
        early = baseline.penalties(shown(baseline, progress))
        assert list(early) == ["patches"]
        torch.testing.assert_close(early["patches"], borders)
    late = baseline.penalties(shown(baseline, 0.5))
    expected = {"patches": borders, "tv": 3 * total_variation(u), "l2": 5 * l2(u)}
    assert late.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(late[name], value)


def test_a_verifier_is_part_of_the_image_prior_and_not_of_what_is_saved():
    baseline = made(batch_norm=2.0)
    baseline.verifier = Verifier(nn.BatchNorm3d(3))
    assert "batch_norm" not in baseline.penalties(shown(baseline, 0.0))
    found = baseline.penalties(shown(baseline, 0.9))["batch_norm"]
    torch.testing.assert_close(found, 2 * baseline.verifier.penalty(baseline.pixels()))
    assert list(baseline.state_dict()) == ["normalised"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tv": -1.0}, "tv: -1.0 is no finite number from 0 on"),
        ({"verifier": "r3d_19"}, "verifier: torchvision has no video net 'r3d_19'"),
        ({"lr": math.inf}, "lr: inf is no finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(TransporterError, match=said):
        made(**options)


def test_a_vlm_that_does_not_say_where_it_cuts_has_no_patch_prior():
    with pytest.raises(TransporterError, match=r"patch_prior: 0\.1, but this VLM does not say where it cuts"):
        new_baseline("gradvit", Canvas(SMALL, (0,)), {})
    baseline = new_baseline("gradvit", Canvas(SMALL, (0,)), {"patch_prior": 0.0})
    assert baseline.penalties(shown(baseline, 0.0)) == {}


def test_the_token_rises_on_a_trained_vlm():
    start, end = climbed(begun("gradvit"), 30)
    assert (start < 0.05).all()
    assert (end > 0.5).all()
