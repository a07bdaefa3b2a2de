"""Transforms against explicit indexing, torch.rot90 and finite differences."""

import math

import pytest
import torch
from chance import sources
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.baselines import transforms

SHAPE = (4, 3, 3, 8, 12)
SETS = {
    "jitter": lambda video, draws: transforms.jitter(video, 2, draws),
    "roll": lambda video, draws: transforms.roll(video, 3, draws),
    "rotate_and_scale": lambda video, draws: transforms.rotate_and_scale(video, 20, 0.8, 1.2, draws),
    "crop": lambda video, draws: transforms.crop(video, 0.3, 0.7, draws),
    "add_noise": lambda video, draws: transforms.add_noise(video, 0.1, draws),
    "flip": lambda video, draws: transforms.flip(video, 0.5, draws),
}


def clips(seed=0, shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def still(shape=SHAPE):
    """Clips whose frames are all alike."""
    return clips(shape=shape)[:, :1].expand(shape)


def near(one, other):
    return torch.allclose(one, other, atol=1e-5)


def warped(video, angle=0.0, zoom=1.0, centre=(0.0, 0.0)):
    whole = torch.ones(len(video), dtype=torch.float64)
    return transforms.warp(video, angle * whole, zoom * whole, whole[:, None] * torch.tensor(centre))


@pytest.mark.parametrize("name", SETS)
def test_frames_of_a_clip_are_treated_alike_and_clips_are_not(name):
    one = still(shape=(1, *SHAPE[1:])).expand(SHAPE)
    seen = SETS[name](one, sources(4))
    assert seen.shape == SHAPE
    assert any(not torch.allclose(seen[0], other) for other in seen[1:])
    if name != "add_noise":
        torch.testing.assert_close(seen, seen[:, :1].expand(SHAPE))


@pytest.mark.parametrize("name", SETS)
def test_a_clip_is_shown_alike_whatever_clips_are_beside_it(name):
    torch.manual_seed(3)
    seen = SETS[name](clips(), sources(4))
    torch.manual_seed(4)  # the global generator is nobody's
    torch.testing.assert_close(SETS[name](clips()[2:3], sources(4)[2:3]), seen[2:3], rtol=0, atol=0)
    assert not torch.allclose(SETS[name](clips(), sources(4, seed=1)), seen)


@pytest.mark.parametrize("name", SETS)
def test_gradients(name):
    def seen(video):
        return SETS[name](video, sources(2, seed=1))

    assert torch.autograd.gradcheck(seen, clips(shape=(2, 1, 3, 4, 3)).requires_grad_())


def test_nothing_done_is_the_video():
    torch.testing.assert_close(warped(clips()), clips())


@pytest.mark.parametrize("turns", [1, 2, -1])
def test_quarter_turns_are_rot90(turns):
    square = clips(shape=(2, 3, 3, 8, 8))
    torch.testing.assert_close(warped(square, math.pi / 2 * turns), torch.rot90(square, turns, (-2, -1)))


def test_a_turned_frame_that_is_not_square_keeps_its_shapes():
    """In the middle square of 8 x 12 a quarter turn is that of the square alone; the sides come from beyond it."""
    video = clips()
    turned = warped(video, math.pi / 2)
    torch.testing.assert_close(turned[..., 2:10], torch.rot90(video[..., 2:10], 1, (-2, -1)))
    torch.testing.assert_close(turned[..., [0, 1, 10, 11]], torch.full_like(turned[..., :4], 0.5))


def test_zoom_by_two_is_bilinear_enlargement_of_the_middle():
    video = clips(shape=(1, 2, 3, 8, 8))
    larger = torch.nn.functional.interpolate(video[0], scale_factor=2, mode="bilinear")[None, ..., 4:12, 4:12]
    torch.testing.assert_close(warped(video, zoom=2.0), larger)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), pixels=st.integers(0, 5))
def test_jitter_shifts_by_whole_pixels_with_grey_beyond(seed, pixels):
    video = clips(seed)
    seen = transforms.jitter(video, pixels, sources(4, seed))
    padded = torch.nn.functional.pad(video, [pixels] * 4, value=0.5)
    choices = range(2 * pixels + 1)
    for clip, shown in zip(padded, seen, strict=True):
        shifts = [(y, x) for y in choices for x in choices if near(clip[..., y : y + 8, x : x + 12], shown)]
        assert len(shifts) == 1


@settings(max_examples=20)
@given(seed=st.integers(0, 999), most=st.integers(0, 3))
def test_roll_is_indexing_modulo_the_side(seed, most):
    video = clips(seed)
    seen = transforms.roll(video, most, sources(4, seed))
    row, column = torch.arange(8), torch.arange(12)
    shifts = range(-most, most + 1)
    for clip, shown in zip(video, seen, strict=True):
        moved = [clip[..., (row - y) % 8, :][..., (column - x) % 12] for y in shifts for x in shifts]
        assert sum(torch.equal(one, shown) for one in moved) == 1


def places(side, count):
    """Clips whose first channel says how far right a pixel is, and whose second how far down, both in [0, 1]."""
    x = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    return torch.stack([*torch.meshgrid(x, x, indexing="xy"), torch.zeros(side, side)]).expand(count, 1, 3, side, side)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), side=st.floats(0.2, 1))
def test_crops_show_a_box_within_the_frame(seed, side):
    across, down = transforms.crop(places(32, 5), side, side, sources(5, seed))[:, 0, :2].unbind(1)
    torch.testing.assert_close(across, across[:, :1].expand_as(across))
    torch.testing.assert_close(down, down[:, :, :1].expand_as(down))
    for line in (*across[:, 0], *down[:, :, 0]):
        assert line.min() >= 0.5 / 32 - 1e-6
        assert line.max() <= 1 - 0.5 / 32 + 1e-6
        # equal steps of the box's size but for the half pixel between the outermost centres and the frame's border
        steps = line[3:-3].diff()
        torch.testing.assert_close(steps, torch.full_like(steps, side / 32), atol=1e-5, rtol=0)


def test_crops_reach_every_corner():
    boxes = transforms.crop(places(32, 300), 0.5, 0.5, sources(300))[:, 0, :2].mean((-1, -2))
    for corner in (torch.tensor([x, y]) for x in (0.25, 0.75) for y in (0.25, 0.75)):
        assert (boxes - corner).norm(dim=-1).min() < 0.1


def test_flips_are_mirror_images_as_often_as_asked():
    video = clips(shape=(1, 1, 3, 2, 4)).expand(2000, 1, 3, 2, 4)
    seen = transforms.flip(video, 0.25, sources(2000))
    mirrored = (seen == video.flip(-1)).flatten(1).all(1)
    assert (mirrored | (seen == video).flatten(1).all(1)).all()
    assert mirrored.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(transforms.flip(video, 0.0, sources(2000)), video)
    assert torch.equal(transforms.flip(video, 1.0, sources(2000)), video.flip(-1))


def test_noise_has_its_spread_and_no_mean():
    added = transforms.add_noise(torch.full((2, 9, 3, 32, 32), 0.5), 0.08, sources(2)) - 0.5
    assert added.mean().item() == pytest.approx(0, abs=2e-3)
    assert added.std().item() == pytest.approx(0.08, rel=0.02)


def test_turns_and_zooms_stay_in_their_ranges():
    """A clip that says where its pixels are tells turn and zoom by its slopes in the middle."""
    seen = transforms.rotate_and_scale(places(33, 400), 10, 0.9, 1.1, sources(400))[:, 0]
    across, down = ((seen[:, c, 16, 17] - seen[:, c, 16, 16]) * 33 for c in (0, 1))
    degrees, zoom = torch.rad2deg(torch.atan2(down, across)), 1 / torch.hypot(across, down)
    assert -10 - 1e-4 <= degrees.min() < -9
    assert 9 < degrees.max() <= 10 + 1e-4
    assert 0.9 - 1e-5 <= zoom.min() < 0.91
    assert 1.09 < zoom.max() <= 1.1 + 1e-5
