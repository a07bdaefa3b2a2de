"""What is asked of a VLM about drawn videos, and which restart is kept."""

import pytest
import torch
from plain_pixels import PlainPixels, Primed

from transporter_pl.baselines.ascent import Ascent, targets_of
from transporter_pl.baselines.base import Canvas, check_baseline, new_baseline
from transporter_pl.baselines.references import References, natural_clips
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_vlm
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

ASKED = [(Pair("left", "right"), "a red oval moves {} slowly"), (Pair("red", "blue"), "a {} oval moves left slowly")]


@pytest.fixture(scope="module")
def vlm(tiny):
    return load_vlm(tiny.vlm, tiny.video)


def _clips(tiny, count=2, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(count, tiny.video.frames, 3, tiny.video.height, tiny.video.width, generator=draws)


def _probabilities(vlm, video, prefixes):
    return vlm.logits(vlm.encode(video), None, prefixes).softmax(-1)


def test_targets_are_the_tokens_where_captions_part(vlm):
    targets = targets_of(vlm, ASKED, "positive", References(), None)
    assert targets.prefixes == ("a red oval moves", "a")
    assert [vlm.text([token]).strip() for token in targets.positive] == ["right", "blue"]
    assert targets.start is None


def test_moved_is_measured_between_the_clips_of_both_captions(vlm, tiny):
    references = References(_clips(tiny, seed=1), _clips(tiny, seed=2))
    targets = targets_of(vlm, ASKED, "moved", references, None)
    start, end = (_probabilities(vlm, clips, targets.prefixes) for clips in (references.negative, references.positive))
    torch.testing.assert_close(targets.start, start)
    torch.testing.assert_close(targets.change, hellinger(start, end))


def test_moved_without_clips_is_refused(vlm, tiny):
    with pytest.raises(TransporterError, match="clips: the objective moved reads a clip of ε− and one of ε"):
        targets_of(vlm, ASKED, "moved", References(positive=_clips(tiny)), None)


def test_a_steps_loss_is_the_penalties_less_the_objective(vlm, tiny):
    baseline = PlainPixels(Canvas(tiny.video, (0, 1)), grey=3.0)
    baseline.transform = lambda video, progress, draws: video
    targets = targets_of(vlm, ASKED, "positive", References(), None)
    climb = Ascent(vlm, baseline, targets, "positive").climb(0, 1)
    said = _probabilities(vlm, baseline.pixels(), targets.prefixes).gather(1, targets.positive[:, None])[:, 0]
    torch.testing.assert_close(climb.probability, said)
    grey = 3 * (baseline.pixels() - 0.5).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(climb.loss, grey - said.log())
    torch.testing.assert_close(climb.penalties["grey"], grey)


def test_the_best_restart_of_each_target_is_kept(vlm, tiny):
    baseline = PlainPixels(Canvas(tiny.video, tuple(range(6))))
    targets = targets_of(vlm, ASKED, "positive", References(), None)
    reached = Ascent(vlm, baseline, targets, "positive").reached()
    every = targets.repeated(3)
    said = _probabilities(vlm, baseline.pixels(), every.prefixes).gather(1, every.positive[:, None])[:, 0].view(2, 3)
    torch.testing.assert_close(reached.probability, said.amax(1))
    assert reached.restart.tolist() == said.argmax(1).tolist()
    for target, restart in enumerate(reached.restart.tolist()):
        torch.testing.assert_close(reached.video[target], baseline.pixels()[3 * target + restart])


def test_a_primed_baseline_sees_the_layers_of_its_stimulus(vlm, tiny):
    stimulus = _clips(tiny)
    baseline = Primed(Canvas(tiny.video, (0, 1), stimulus))
    ascent = Ascent(vlm, baseline, targets_of(vlm, ASKED, "positive", References(), None), "positive")
    for seen, wanted in zip(ascent.stimulus, vlm.encode_layers(stimulus), strict=True):
        torch.testing.assert_close(seen, wanted)
    assert "far" in ascent.climb(1, 2).penalties
    with pytest.raises(TransporterError, match="clips: Primed is primed by a clip of ε"):
        Primed(Canvas(tiny.video, (0,)))


def test_noise_is_each_videos_own(tiny):
    both = Canvas(tiny.video, (3, 5)).noise()
    torch.testing.assert_close(Canvas(tiny.video, (5, 8)).noise()[0], both[1])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("leap", {}, "baselines: unknown name 'leap'"),
        ("plain_pixels.PlainPixels", {"rate": 1}, "options: .* has no option 'rate'; it has: lr, grey"),
        ("plain_pixels.PlainPixels", {"lr": "high"}, "options.lr: 'high' is of the wrong type"),
        ("collections.OrderedDict", {}, "baseline: 'collections.OrderedDict' is no Baseline"),
    ],
)
def test_what_is_no_baseline_or_option_is_refused(name, options, message):
    with pytest.raises(TransporterError, match=message):
        check_baseline(name, options)


def test_a_class_path_is_a_baseline(tiny):
    assert new_baseline("plain_pixels.PlainPixels", Canvas(tiny.video, (0,)), {"lr": 1}).lr == 1


def test_references_are_read_from_files(tiny, tmp_path):
    clips = _clips(tiny)
    for name, clip in zip(("left.mp4", "right.mp4"), clips, strict=True):
        write_video(tmp_path / name, clip, tiny.video.fps, quality=0, chroma="4:4:4")
    files = {"moves left": str(tmp_path / "left.mp4"), "moves right": str(tmp_path / "right.mp4")}
    found = References.read([("moves left", "moves right")], files, tmp_path, tiny.video)
    assert (found.negative[0] - clips[0]).abs().max() < 0.05
    assert (found.positive[0] - clips[1]).abs().max() < 0.05
    assert len(found.natural) == 2
    lacking = References.read([("moves left", "moves up")], files, None, tiny.video)
    assert lacking.positive is None
    assert lacking.negative is not None
    with pytest.raises(TransporterError, match="natural: no video file in"):
        natural_clips(tmp_path / "nowhere", VideoSpec(5, 32, 32))
