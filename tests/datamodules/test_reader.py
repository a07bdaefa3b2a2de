import pytest
import torch

from transporter_pl.datamodules.shapemotion.reader import WHOLE_RESIDUAL, read
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, render, sample_scene


def _clips(count, seed, side=64):
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(count, draws, held_out=None)
    return scene, render(scene, 9, side, draws)


@pytest.fixture(scope="module")
def thousand():
    parts = [(scene, read(video)) for scene, video in (_clips(128, seed) for seed in range(8))]
    scene = Scene(torch.cat([s.words for s, _ in parts]), torch.cat([s.values for s, _ in parts]))
    return scene, [reading for _, reading in parts]


@pytest.mark.parametrize("name", FACTORS)
def test_words_are_right(thousand, name):
    scene, readings = thousand
    said = torch.cat([r.word(name) for r in readings])
    assert len(said) >= 1000
    assert (said == scene.word(name)).float().mean() >= 0.99


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("size", 1e-3), ("shape", 0.02), ("colour", 1.5), ("direction", 0.5), ("speed", 3e-4), ("background", 1e-4)],
)
def test_continuous_values_are_near_the_truth(thousand, name, tolerance):
    scene, readings = thousand
    error = torch.cat([r.value(name) for r in readings]) - scene.value(name)
    if (period := FACTORS[name].period) is not None:
        error = (error + period / 2) % period - period / 2
    assert error.abs().max() < tolerance


def test_velocity_and_area_follow_from_the_factors(thousand):
    scene, readings = thousand
    angle = torch.deg2rad(scene.value("direction"))
    velocity = scene.value("speed")[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(torch.cat([r.velocity for r in readings]), velocity, atol=3e-4, rtol=0)
    area = torch.pi * scene.value("size") ** 2
    torch.testing.assert_close(torch.cat([r.area for r in readings]), area, atol=0, rtol=0.02)


def test_rendered_ovals_are_whole(thousand):
    _, readings = thousand
    assert torch.cat([r.residual for r in readings]).max() < 0.02
    assert torch.cat([r.whole for r in readings]).all()


def _blurred(video):
    return torch.nn.functional.avg_pool2d(video.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(video)


def _in_two_pieces(video, ground):
    """Half of the object's rows pushed away from the other half."""
    upper, lower = video.clone(), video.clone()
    mass = (video - ground).abs().sum((2, 4))
    middle = (mass.cumsum(2) < mass.sum(2, keepdim=True) / 2)[:, :, None, :, None]
    upper, lower = torch.where(middle, video, ground), torch.where(middle, ground, video)
    gap = video.shape[-1] // 6
    return ground + (upper - ground).roll(-gap, 3) + (lower - ground).roll(gap, 3)


def _doubled(video, ground):
    """The object and, as strong, another half a frame away."""
    other = video.roll((video.shape[-1] // 2, video.shape[-1] // 2), (3, 4))
    return torch.where((video - ground).abs() > (other - ground).abs(), video, other)


def _smeared(video, ground):
    """Every frame shows the object along its whole path."""
    strength = (video - ground).abs().sum(2, keepdim=True)
    strongest = strength.argmax(1, keepdim=True).expand(-1, -1, 3, -1, -1)
    return video.gather(1, strongest).expand_as(video)


@pytest.mark.parametrize("side", [32, 64])
def test_blur_leaves_ovals_whole(side):
    _, video = _clips(64, 20, side)
    assert read(_blurred(video)).whole.all()


@pytest.mark.parametrize("break_up", [_in_two_pieces, _doubled])
@pytest.mark.parametrize("side", [32, 64])
def test_broken_objects_are_told_from_whole_ones(break_up, side):
    scene, video = _clips(128, 21, side)
    broken = break_up(video, scene.value("background")[:, None, None, None, None])
    assert not read(broken).whole.any()
    assert read(broken).residual.min() > 1.2 * WHOLE_RESIDUAL


@pytest.mark.parametrize("side", [32, 64])
def test_a_smear_shows_in_the_speed(side):
    scene, video = _clips(64, 23, side)
    slowest = FACTORS["speed"].centres[0] - FACTORS["speed"].half_width
    assert read(video).value("speed").min() > 0.9 * slowest
    assert (
        read(_smeared(video, scene.value("background")[:, None, None, None, None])).value("speed").max() < 0.1 * slowest
    )


def test_a_little_noise_does_not_disturb():
    scene, video = _clips(128, 22)
    noisy = (video + 0.02 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    reading = read(noisy)
    assert (reading.words == scene.words).float().mean(0).min() >= 0.97
    assert reading.whole.float().mean() >= 0.99


def test_an_empty_clip_reads_as_numbers_and_not_as_whole():
    reading = read(torch.rand(16, 1, 1, 1, 1).expand(16, 9, 3, 64, 64))
    assert reading.values.isfinite().all()
    assert not reading.whole.any()
