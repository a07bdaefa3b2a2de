import pytest
import torch

from transporter_pl.datamodules.shapemotion.measure import (
    _effect,
    agreement,
    caption_words,
    monotone_value,
)
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, factor_of, render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec, load_vlm
from transporter_pl.samples import VideoSpec


def _moved(factor: str, start: float, end: float, share: float, count: int = 16) -> Scene:
    """Scenes whose factor lies ``share`` of the way from one value to another, all else equal."""
    scene = sample_scene(count, torch.Generator().manual_seed(0), held_out=None)
    values = scene.values.clone()
    values[:, list(FACTORS).index(factor)] = start + share * (end - start)
    words = torch.stack([f.word_of(values[:, i]) for i, f in enumerate(FACTORS.values())], 1)
    return Scene(words, values)


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(BackboneSpec("video_llama3", "shapemotion-videollama3"), VideoSpec(9, 64, 64))


@pytest.mark.parametrize(
    ("factor", "pair", "start", "end"),
    [
        ("size", "small:large", 0.09, 0.17),
        ("size", "large:small", 0.17, 0.09),
        ("speed", "slowly:quickly", 0.02, 0.05),
        ("background", "dark:bright", 0.15, 0.75),
        ("colour", "red:blue", 360.0, 240.0),
        ("colour", "red:yellow", 0.0, 60.0),
    ],
)
def test_a_perfect_dial_scores_full_marks(factor, pair, start, end, vlm):
    phi = (0.0, 0.25, 0.5, 0.75, 1.0)
    scenes = [_moved(factor, start, end, p) for p in phi]
    videos = [render(s, 9, 64, torch.Generator().manual_seed(1)) for s in scenes]
    effect = _effect(pair, "perfect", factor, scenes[-1], videos, phi, vlm)
    assert effect.said > 0.8  # 16 clips, and the VLM errs too
    assert effect.flipped == 1
    assert effect.kept == effect.kept_worst == 1
    assert effect.spearman > 0.99
    assert effect.whole == (1.0,) * 5


def test_a_dial_that_does_nothing_scores_nothing(vlm):
    scene = _moved("size", 0.09, 0.17, 0.0)
    target = _moved("size", 0.09, 0.17, 1.0)
    videos = [render(scene, 9, 64, torch.Generator().manual_seed(1))] * 3
    effect = _effect("small:large", "idle", "size", target, videos, (0.0, 0.5, 1.0), vlm)
    assert effect.flipped == effect.said == 0
    assert effect.spearman == 0


def test_velocity_along_the_target_direction_is_the_measure_of_direction():
    scene = _moved("direction", 180.0, 0.0, 1.0)
    reading = read(render(scene, 9, 64, torch.Generator().manual_seed(1)))
    along = monotone_value(reading, "direction", FACTORS["direction"].words.index("right"))
    torch.testing.assert_close(along, scene.value("speed"), atol=5e-4, rtol=0)


def test_captions_give_back_the_words():
    scene = sample_scene(32, torch.Generator().manual_seed(2))
    words = caption_words(scene.captions())
    assert agreement("captions", words, scene.words).factors == (1.0,) * 6
    assert (caption_words(["nothing at all"]) == -1).all()


def test_a_pair_of_no_factor_is_refused_with_the_words():
    assert factor_of("left:right") == ("direction", 0, 1)
    with pytest.raises(TransporterError, match=r"left:blue.*quickly"):
        factor_of("left:blue")
