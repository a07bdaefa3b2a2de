"""Spectra, phases and colours against closed forms, direct sums and what was measured."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.baselines.parametrisations import Colours, fall, mean_magnitude, odd_phase, spectrum, waves
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SPECS = [VideoSpec(5, 6, 8), VideoSpec(4, 5, 7), VideoSpec(1, 3, 2), VideoSpec(2, 4, 1)]


def drawn(spec, count=2, seed=0):
    shape = (count, spec.frames, 3, spec.height, spec.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def phases(spec, seed, count=1):
    shape = (count, spec.frames, 3, spec.height, spec.width // 2 + 1)
    turns = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 20 * (turns - 0.5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_spectrum_is_the_sum_over_waves(spec):
    """Against the definition of the unitary transform, written as a sum; and ``waves`` is its inverse."""
    video = drawn(spec)
    sides = (spec.frames, spec.height, spec.width)
    t, y, x = (
        torch.exp(-2j * math.pi * torch.outer(torch.arange(n), torch.arange(n)).double() / n) / n**0.5 for n in sides
    )
    whole = torch.einsum("btchw,tk,hl,wm->bkclm", video.to(t), t, y, x)
    torch.testing.assert_close(spectrum(video), whole[..., : spec.width // 2 + 1])
    torch.testing.assert_close(waves(spectrum(video), spec), video)


def test_the_fall_is_a_power_of_the_frequency():
    """One wave of so many periods along each axis, in cycles a frame and a pixel."""
    scale = fall(VideoSpec(10, 20, 40), 1.5)
    for t, y, x in [(0, 0, 3), (2, 0, 0), (0, 5, 0), (3, 4, 5), (10 - 3, 20 - 4, 5)]:
        cycles = math.hypot(min(t, 10 - t) / 10, min(y, 20 - y) / 20, x / 40)
        assert scale[t, 0, y, x].item() == pytest.approx(cycles**-1.5)
    assert scale.max().item() == scale[0, 0, 0, 0].item() == pytest.approx(40**1.5)
    assert torch.equal(fall(VideoSpec(3, 4, 5), 0.0), torch.ones(3, 1, 4, 3))


def test_white_waves_become_pictures_with_the_slope_of_natural_ones():
    """The amplitude that a spectrum analysis finds in the drawn videos falls with f^-power."""
    spec, power = VideoSpec(8, 32, 32), 1.0
    noise = torch.randn((16, 8, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    video = waves(spectrum(noise) * fall(spec, power), spec)
    amplitude = torch.fft.fftn(video, dim=(1, 3, 4)).abs().square().mean((0, 2)).sqrt()
    f = torch.cartesian_prod(*(torch.fft.fftfreq(n) for n in (8, 32, 32))).norm(dim=1)
    kept = f > 1 / 16
    logs = torch.stack([f[kept].log(), torch.ones(int(kept.sum()))], 1)
    slope = torch.linalg.lstsq(logs, amplitude.flatten()[kept].log()[:, None]).solution[0]
    assert slope.item() == pytest.approx(-power, abs=0.02)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), spec=st.sampled_from(SPECS))
def test_no_phase_changes_a_magnitude(seed, spec):
    """The spectrum of the real video has the magnitudes that were asked for, in every wave but none at all."""
    magnitude = mean_magnitude(drawn(spec, 3))
    video = waves(torch.polar(magnitude, odd_phase(phases(spec, seed), spec.width)), spec)
    torch.testing.assert_close(spectrum(video).abs(), magnitude[None])
    if spec.frames * spec.height * spec.width > 1:
        means, variances = video.mean((1, 3, 4)), video.square().mean((1, 3, 4))
        torch.testing.assert_close(means, torch.zeros_like(means))
        torch.testing.assert_close(variances, torch.ones_like(variances))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_an_odd_phase_is_that_of_its_real_video(spec):
    """The spectrum of the video has this phase, in every wave of the half that is stored."""
    odd = odd_phase(phases(spec, 0), spec.width)
    video = waves(torch.polar(torch.ones_like(odd), odd), spec)
    whole = torch.fft.fftn(video, dim=(1, 3, 4), norm="ortho")
    torch.testing.assert_close(whole[..., : spec.width // 2 + 1], torch.polar(torch.ones_like(odd), odd))


def test_mean_magnitude_is_the_mean_over_clips():
    values = drawn(SPECS[0], 4)
    mean = torch.stack([spectrum(clip).abs() for clip in values]).mean(0)
    ratio = mean_magnitude(values) / mean
    assert torch.equal(ratio[0, :, 0, 0], torch.zeros(3, dtype=torch.float64))
    ratio[0, :, 0, 0] = ratio[1, :, 0, 0]
    torch.testing.assert_close(ratio, ratio[1:2, :, :1, :1].expand_as(ratio))


def test_measured_colours_are_the_mean_and_covariance_of_the_clips():
    """Each clip about its own mean; numpy's covariance of the logits says what they are."""
    clips = 0.05 + 0.9 * drawn(SPECS[0], 3)
    clips[:, :, 1] = 0.7 * clips[:, :, 0] + 0.3 * clips[:, :, 1]
    clips[1] *= 0.8  # darker as a whole
    colours = Colours.measured(clips)
    logits = (clips / (1 - clips)).log().movedim(2, 1).flatten(2)
    covariance = torch.stack([clip.cov(correction=0) for clip in logits]).mean(0)
    torch.testing.assert_close(colours.axes @ colours.axes.mT, covariance)
    torch.testing.assert_close(colours.mean, logits.mean((0, 2)))


def test_drawn_colours_have_the_measured_covariance():
    """Uncorrelated values of unit variance become logits of that mean and covariance."""
    clips = 0.05 + 0.9 * drawn(SPECS[0], 3)
    clips[:, :, 2] = 1 - clips[:, :, 0] ** 2
    colours = Colours.measured(clips)
    raw = drawn(VideoSpec(4, 8, 8), 1)[0].movedim(1, 0).flatten(1)
    raw = raw - raw.mean(1, keepdim=True)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(raw.cov(correction=0)), raw, upper=False)
    painted = colours(white.unflatten(1, (4, 8, 8)).movedim(0, 1)).logit().movedim(1, 0).flatten(1)
    torch.testing.assert_close(painted.cov(correction=0), colours.axes @ colours.axes.mT)
    torch.testing.assert_close(painted.mean(1), colours.mean)


def test_colours_there_and_back():
    clips = 0.05 + 0.9 * drawn(SPECS[0], 3)
    for colours in (Colours.measured(clips), Colours.opponent().double()):
        torch.testing.assert_close(colours(colours.inverse(clips)), clips)


def test_grey_clips_stay_grey():
    clips = 0.05 + 0.9 * drawn(SPECS[0], 3)[:, :, :1].expand(-1, -1, 3, -1, -1)
    colours = Colours.measured(clips)
    torch.testing.assert_close(colours(colours.inverse(clips)), clips)
    painted = colours(torch.randn_like(clips))
    torch.testing.assert_close(painted, painted[:, :, :1].expand_as(painted))


def test_opponent_axes_are_orthogonal_with_their_scales():
    axes = Colours.opponent().axes
    torch.testing.assert_close(axes.mT @ axes, torch.diag(torch.tensor([1.0, 1 / 16, 1 / 64])))
    assert torch.equal(axes[:, 1:].sum(0).abs() < 1e-6, torch.tensor([True, True]))  # no brightness in them
    grey = Colours.opponent()(torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(grey, torch.full_like(grey, 0.5))


def test_clips_without_contrast_are_refused():
    blank = torch.rand(2, 1, 3, 1, 1).expand(2, 4, 3, 5, 6)
    with pytest.raises(TransporterError, match="natural: none of these 2 clips has any contrast"):
        Colours.measured(blank)


def test_gradients():
    spec = VideoSpec(2, 3, 4)
    magnitude, colours = mean_magnitude(drawn(spec)), Colours.opponent().double()

    def video(phase):
        return colours(waves(torch.polar(magnitude, odd_phase(phase, spec.width)), spec))

    assert torch.autograd.gradcheck(video, phases(spec, 0).requires_grad_())
