"""Activation maximisation: its start, its waves, its transforms, and its way up the token of a trained VLM."""

import math

import pytest
import torch
from ascending import ASKED, begun, climbed
from chance import sources
from torch.nn.functional import cosine_similarity

from transporter_pl.baselines.am import ActivationMaximisation
from transporter_pl.baselines.base import Canvas, baselines
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(4, 12, 10)


def test_it_is_registered():
    assert baselines.get("am") is ActivationMaximisation


def test_it_starts_near_grey_from_white_waves_of_their_spread():
    made = ActivationMaximisation(Canvas(VideoSpec(9, 64, 64), (0, 1)), sd=0.02)
    inner = made.waves[..., 1:32, :]  # where both parts of a wave are free
    assert inner.std().item() == pytest.approx(0.02, rel=0.02)
    assert cosine_similarity(inner[0].flatten(), inner[1].flatten(), dim=0).abs() < 0.02
    video = made.pixels()
    assert video.shape == (2, 9, 3, 64, 64)
    assert video.mean().item() == pytest.approx(0.5, abs=0.02)
    assert 0.001 < video.std().item() < 0.05


def test_a_wave_is_a_wave_in_time_and_space():
    """One coefficient of a moving wave becomes that wave's picture, computed by hand."""
    made = ActivationMaximisation(Canvas(SPEC, (0,)), decay=2.0)
    with torch.no_grad():
        made.waves.zero_()
        made.waves[0, 1, 0, 2, 3, 0] = 0.7
    t, y, x = torch.meshgrid(torch.arange(4), torch.arange(12), torch.arange(10), indexing="ij")
    wave = torch.cos(2 * math.pi * (t / 4 + 2 * y / 12 + 3 * x / 10))
    squared = (1 / 4) ** 2 + (2 / 12) ** 2 + (3 / 10) ** 2
    brightness = 2 * 0.7 / squared / math.sqrt(4 * 12 * 10) / math.sqrt(3)
    expected = torch.sigmoid(brightness * wave)[None, :, None].expand(1, 4, 3, 12, 10)
    torch.testing.assert_close(made.pixels(), expected)


def test_every_seed_has_its_start_whatever_is_beside_it():
    alone = ActivationMaximisation(Canvas(SPEC, (5,))).pixels()
    together = ActivationMaximisation(Canvas(SPEC, (3, 5, 8))).pixels()
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.allclose(together[0], together[1])


def test_a_step_moves_a_row_as_if_it_were_alone():
    weights = torch.randn(3, 4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    rows = {}
    for seeds in ((3, 5, 8), (5,)):
        made = ActivationMaximisation(Canvas(SPEC, seeds))
        optimiser, _ = made.optimiser(10)
        for _ in range(3):
            optimiser.zero_grad()
            (-(weights[[(3, 5, 8).index(s) for s in seeds]] * made.pixels()).sum()).backward()
            optimiser.step()
        rows[seeds] = made.pixels()[seeds.index(5)]
    torch.testing.assert_close(rows[5,], rows[3, 5, 8])


def test_what_is_shown_is_a_little_shaken():
    """A smooth clip is still itself, moved by less than jitter, turn and zoom together; with grey where it ended."""
    made = ActivationMaximisation(Canvas(VideoSpec(2, 64, 64), (0,)))
    bump = torch.linspace(-1, 1, 64)
    clip = torch.exp(-8 * (bump[:, None] ** 2 + bump**2)).expand(50, 2, 3, 64, 64)
    seen = made.transform(clip, 0.3, sources(50))
    assert seen.shape == clip.shape
    weight = seen[:, 0, 0].clamp_min(0)[:, 16:48, 16:48]
    place = torch.arange(16, 48) - 31.5
    total = weight.sum((1, 2))
    shifts = torch.stack([(weight.sum(1) * place).sum(1) / total, (weight.sum(2) * place).sum(1) / total])
    assert 1 < shifts.abs().max() < 4
    assert shifts.mean().abs() < 0.5
    corners = made.transform(torch.ones(50, 2, 3, 64, 64), 0.3, sources(50))[:, 0, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners - 0.5).abs().min() < 1e-4


def test_the_lr_is_constant():
    optimiser, schedule = ActivationMaximisation(Canvas(SPEC, (0,)), lr=0.3).optimiser(5)
    rates = []
    for _ in range(5):
        rates.extend(schedule.get_last_lr())
        optimiser.step()
        schedule.step()
    assert rates == [0.3] * 5


@pytest.mark.parametrize("option", ["lr", "decay", "sd"])
def test_bad_options(option):
    with pytest.raises(TransporterError, match=f"{option}: -1"):
        ActivationMaximisation(Canvas(SPEC, (0,)), **{option: -1.0})


def test_the_token_rises_on_a_trained_vlm():
    """To words that this VLM does not say of the grey that it starts from."""
    asked = [(Pair(pair.positive, pair.negative), context) for pair, context in ASKED]
    start, end = climbed(begun("am", asked), 50)
    assert (start < 0.1).all()
    assert (end > 0.5).all()
