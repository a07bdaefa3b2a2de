"""What the small VLM's tokens tell of rendered clips: the words of their captions, and other kinds of clips."""

import pytest
import torch

from transporter_pl.datamodules.shapemotion.judges import DEFAULT, DIRECTIONS, OTHER, VIDEO, ShapeMotionJudge
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec, load_vlm
from transporter_pl.metrics.clip import clip_scores
from transporter_pl.metrics.encoders import text_encoders, video_encoders
from transporter_pl.metrics.frechet import FrechetVideoDistance


@pytest.fixture(scope="module", params=[DEFAULT, pytest.param(OTHER, marks=pytest.mark.slow)])
def judge(request):
    return text_encoders.get("shapemotion").from_pretrained(request.param)


def test_nobody_is_judged_by_its_own_eyes():
    for name, expected in {"gemma3": OTHER, "video_llama3": DEFAULT, "phi4_multimodal": DEFAULT}.items():
        path = f"shapemotion-{name.replace('_llama', 'llama').replace('4_multimodal', '4mm')}"
        vlm = load_vlm(BackboneSpec(name, path), VIDEO)
        assert ShapeMotionJudge.path_for(vlm) == expected


def clips(count, seed, words=None):
    draws = torch.Generator().manual_seed(seed)
    scene = sample_scene(count, draws, held_out=None, words=words)
    return scene, render(scene, 9, 64, draws)


@pytest.fixture(scope="module")
def some():
    return clips(30, seed=50)


def test_it_is_both_encoders(judge):
    assert video_encoders.get("shapemotion") is type(judge) is ShapeMotionJudge
    assert not judge.train().vlm.training


@pytest.mark.parametrize("name", FACTORS)
def test_a_clip_s_own_caption_suits_it_better_than_one_with_a_word_changed(judge, some, name):
    scene, video = some
    column, count = list(FACTORS).index(name), len(FACTORS[name].words)
    changed = scene.words.clone()
    changed[:, column] = (changed[:, column] + 1) % count
    captions = scene.captions(1), Scene(changed, scene.values).captions(1)
    own, other = (clip_scores(judge, video, judge.texts(texts)) for texts in captions)
    assert own.mean() > 75
    assert own.mean() > other.mean() + 2
    assert (own > other).float().mean() > 0.6


def test_a_caption_is_heard_by_its_words(judge):
    """Whatever the template; words that are not named are left open; a caption of no word of the world is 0."""
    scene, _ = clips(1, seed=3)
    told = judge.texts([scene.captions(template)[0] for template in range(3)])
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], told[2])
    red, red_left, nothing = judge.texts(["a red oval", "a red oval moves left", "hello"])
    assert red.norm() < red_left.norm()
    assert nothing.norm() == 0


def distance(judge, video, reference):
    metric = FrechetVideoDistance(judge)
    metric.update(reference, real=True)
    metric.update(video, real=False)
    return metric.compute().item()


def test_other_kinds_of_clips_are_far_from_the_world_s(judge):
    _, reference = clips(96, seed=53)
    scene, real = clips(40, seed=51)
    words = scene.words.clone()
    words[:, list(FACTORS).index("direction")] = 0
    near = distance(judge, real, reference)
    assert distance(judge, clips(40, 51, words)[1], reference) > 1.3 * near
    assert distance(judge, real[:, 4:5].expand(-1, 9, -1, -1, -1), reference) > 1.3 * near  # nothing moves
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    assert distance(judge, noise, reference) > 4 * near


def test_features_are_in_per_cent_of_the_world_s_variance(judge):
    features = judge(clips(64, seed=52)[1])
    assert features.shape == (64, DIRECTIONS)
    assert 75 < features.var(0).sum() < 105
    torch.testing.assert_close(judge(clips(64, seed=52)[1][:2].half()), features[:2], atol=0.2, rtol=0)


def test_clips_of_another_geometry_are_refused(judge):
    with pytest.raises(TransporterError, match="but the adapter was loaded for 9 frames of 64x64"):
        judge(torch.rand(1, 5, 3, 64, 64))


def test_a_path_names_adapter_and_checkpoint():
    with pytest.raises(TransporterError, match="is not name:path"):
        ShapeMotionJudge.from_pretrained("shapemotion-gemma3")
