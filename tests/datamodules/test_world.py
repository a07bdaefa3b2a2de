import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.datamodules.shapemotion.world import (
    FACTORS,
    TEMPLATES,
    Scene,
    combinations,
    exchanged,
    factor_of,
    hue_to_rgb,
    oval_mask,
    parse_caption,
    render,
    sample_scene,
    vocabulary,
)
from transporter_pl.errors import TransporterError

WORDS = st.tuples(*(st.integers(0, len(f.words) - 1) for f in FACTORS.values()))


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(words=WORDS, template=st.integers(0, len(TEMPLATES) - 1))
def test_a_caption_says_exactly_its_words(words, template):
    scene = Scene(torch.tensor([words]), torch.zeros(1, len(FACTORS)))
    caption = scene.captions(template)[0]
    assert tuple(parse_caption(caption).values()) == words
    assert set(caption.split()) <= set(vocabulary())


def test_a_factor_that_is_not_named_is_minus_one():
    assert parse_caption("a red oval moves") == {name: 0 if name == "colour" else -1 for name in FACTORS}


def test_captions_take_one_template_a_clip():
    scene = sample_scene(3, _seeded())
    mixed = scene.captions(torch.tensor([0, 1, 2]))
    assert mixed == [scene.captions(template)[template] for template in range(3)]


def test_held_out_combinations_are_disjoint_and_all_are_there():
    seen, held_out = (set(map(tuple, combinations(h).tolist())) for h in (False, True))
    assert not seen & held_out
    assert seen | held_out == set(map(tuple, combinations().tolist()))
    assert len(held_out) == len(combinations()) // 10
    for column in range(len(FACTORS)):  # every word is seen in training
        assert {c[column] for c in seen} == {c[column] for c in combinations().tolist()}


@given(words=WORDS, seed=st.integers(0, 2**31))
def test_values_lie_in_the_interval_that_their_word_names(words, seed):
    scene = sample_scene(8, _seeded(seed), words=torch.tensor([words]).expand(8, -1))
    for index, factor in enumerate(FACTORS.values()):
        assert (factor.word_of(scene.values[:, index]) == words[index]).all()


@settings(max_examples=40)
@given(words=WORDS, seed=st.integers(0, 2**31), side=st.sampled_from([32, 48, 64, 96]), frames=st.sampled_from([5, 9]))
def test_the_oval_stays_inside_the_frame(words, seed, side, frames):
    scene = sample_scene(4, _seeded(seed), words=torch.tensor([words]).expand(4, -1))
    video = render(scene, frames, side, _seeded(seed))
    ground = scene.value("background")[:, None, None, None]
    border = torch.cat([video[..., 0, :], video[..., -1, :], video[..., :, 0], video[..., :, -1]], -1)
    assert video.shape == (4, frames, 3, side, side)
    assert video.min() >= 0
    assert video.max() <= 1
    torch.testing.assert_close(border, ground.expand_as(border))


def test_rendering_depends_on_the_generator_alone():
    scene = sample_scene(4, _seeded())
    torch.testing.assert_close(render(scene, generator=_seeded(1)), render(scene, generator=_seeded(1)), atol=0, rtol=0)
    assert not torch.equal(render(scene, generator=_seeded(1)), render(scene, generator=_seeded(2)))


@pytest.mark.parametrize("log_aspect", [-0.5, 0.0, 0.4])
def test_a_mask_has_the_area_of_its_ellipse(log_aspect):
    radius = torch.tensor(9.0)
    mask = oval_mask(torch.tensor([31.3, 32.6]), radius, torch.tensor(log_aspect), 64)
    assert mask.sum().item() == pytest.approx(torch.pi * 81, rel=0.01)
    wide = (mask > 0.5).any(0).sum() / (mask > 0.5).any(1).sum()
    assert wide.log().item() == pytest.approx(log_aspect, abs=0.12)


def test_hues_are_the_six_pure_colours():
    import colorsys

    from transporter_pl.datamodules.shapemotion.world import SATURATION, VALUE

    for hue in range(0, 360, 17):
        expected = colorsys.hsv_to_rgb(hue / 360, SATURATION, VALUE)
        torch.testing.assert_close(hue_to_rgb(torch.tensor(float(hue))), torch.tensor(expected), atol=1e-5, rtol=0)


def test_speed_and_direction_are_what_the_pixels_do():
    scene = sample_scene(16, _seeded(3))
    video = render(scene, 9, 64, _seeded(3))
    difference = (video - scene.value("background")[:, None, None, None, None]).abs().sum(2)
    line = torch.arange(64) + 0.5
    mass = difference.sum((2, 3))
    x, y = (difference.sum(2) * line).sum(2) / mass, (difference.sum(3) * line).sum(2) / mass
    moved = torch.stack([x[:, -1] - x[:, 0], y[:, 0] - y[:, -1]], 1) / 8 / 64
    angle = torch.deg2rad(scene.value("direction"))
    expected = scene.value("speed")[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(moved, expected, atol=3e-4, rtol=0)


@given(words=WORDS)
def test_exchanging_twice_is_nothing(words):
    caption = Scene(torch.tensor([words]), torch.zeros(1, len(FACTORS))).captions()[0]
    other = exchanged(caption, ("left", "right"))
    said, meant = parse_caption(other)["direction"], parse_caption(caption)["direction"]
    assert said == {0: 1, 1: 0}.get(meant, meant)
    assert exchanged(other, ("left", "right")) == caption


@pytest.mark.parametrize("pair", ["left:blue", "left", "left:left", "left:right:up", "gauche:droite"])
def test_pairs_of_no_factor(pair):
    with pytest.raises(TransporterError, match=f"pair: '{pair}' names no two words of one factor; words: small, large"):
        factor_of(pair)
