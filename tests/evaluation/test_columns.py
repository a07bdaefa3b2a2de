"""Every column beside its metric called by hand, on clips that a real VLM of random weights looks at."""

import gc
import weakref
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
import torchvision
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from transporter_pl.backbones.clip import CLIPEncoder
from transporter_pl.backbones.scratch import word_tokenizer
from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.shapemotion.world import render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation import video_columns
from transporter_pl.evaluation.cases import ReferenceClips
from transporter_pl.evaluation.columns import Column, all_options, columns, headings, measure, new_columns
from transporter_pl.evaluation.samples import Case, Drawn, Judged
from transporter_pl.loading import load_vlm
from transporter_pl.metrics.captions import BLEU4, CaptionCosine, CIDErD
from transporter_pl.metrics.clip import CLIPGain, VideoCLIPScore
from transporter_pl.metrics.encoders import ImageTextEncoder, VideoEncoder
from transporter_pl.metrics.frechet import FrechetVideoDistance
from transporter_pl.metrics.missing import MissingPart
from transporter_pl.metrics.similarity import EmbeddingSimilarity

CASES = 11  # more than a batch
WORDS = ("red", "blue", "green", "yellow")


class Sums(VideoEncoder, ImageTextEncoder):
    """Someone's encoder: a few moments of the pixels, and the letters of the captions."""

    label, num_features = "moments", 4
    loaded = 0

    def __init__(self, scale):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.freeze()

    @classmethod
    def from_pretrained(cls, path=None, device="cpu"):
        cls.loaded += 1
        return cls(float(path or 1)).to(device)

    def forward(self, video):
        flat = video.flatten(1) * self.scale
        return torch.stack([flat.mean(1), flat.std(1), flat[:, ::7].mean(1), flat[:, 1::5].std(1)], 1)

    def images(self, video):
        return torch.stack([self(frame[:, None]) for frame in video.unbind(1)], 1)

    def texts(self, captions):
        return torch.tensor([[caption.count(letter) for letter in "adel"] for caption in captions]) * self.scale


@dataclass(frozen=True)
class Clip:
    video: torch.Tensor


class Absent(Sums):
    """One whose weights can't be had, for which it looks each time."""

    asked = 0

    @classmethod
    def from_pretrained(cls, path=None, device="cpu"):
        cls.asked += 1
        msg = f"moments: {path} is not here"
        raise MissingPart(msg)


SUMS = f"{__name__}.Sums"


class Length(Column):
    """Someone's column."""

    label, better, decimals = "frames", None, 0

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def measure(self, judged):
        return self.factor * judged.drawn.video.shape[1]


class Crashing(Column):
    """One with a mistake in it."""

    label = "crashing"

    def measure(self, judged):
        return 1 / 0


class Infinite(Column):
    """One that has no value."""

    label = "infinite"

    def measure(self, judged):
        return float("inf")


def listed(videos):
    """References that lie in memory."""
    clips = [Clip(video) for video in videos]
    return ReferenceClips(clips, range(len(clips)), print)


@pytest.fixture(scope="module")
def judged(tiny):
    draws = torch.Generator().manual_seed(0)
    real, drawn, start = (render(sample_scene(CASES, draws), 5, 32, draws) for _ in range(3))
    cases = tuple(Case(Pair("left", "right"), f"a {WORDS[i % 4]} oval {{}} {i}", str(i), real[i]) for i in range(CASES))
    captions = tuple(f"a {WORDS[i % 3]} oval right {i}" for i in range(CASES))
    shares = torch.rand(2, CASES, generator=draws)
    made = Drawn(drawn, captions, *shares, seconds=5.5, forwards=40)
    references = listed(render(sample_scene(20, draws), 5, 32, draws))
    return Judged(cases, made, start, references, load_vlm(tiny.vlm, tiny.video))


@pytest.fixture
def wanted(judged):
    return [case.captions[1] for case in judged.cases]


def value(name, judged, **options):
    figures = measure({name: options}, judged)
    assert figures.missing == {}
    return figures.values[name]


def near(metric):
    return pytest.approx(float(metric), rel=1e-4)


def test_token_columns_are_means(judged):
    drawn = judged.drawn
    assert value("token", judged) == near(drawn.positive.mean())
    assert value("token_gain", judged) == near((drawn.positive - drawn.start).mean())


def test_cost_is_that_of_one_video(judged):
    assert value("seconds", judged) == pytest.approx(0.5)
    assert value("forwards", judged) == 40


@torch.no_grad()
def test_embeddings_are_the_vlm_s(judged):
    """All at once here, in batches there."""
    real = torch.stack([case.real for case in judged.cases])
    tokens, real_tokens = judged.vlm.encode(judged.drawn.video), judged.vlm.encode(real)
    for temperature in (1.0, 0.3):
        metric = EmbeddingSimilarity(temperature)
        metric.update(tokens, real_tokens)
        expected = metric.compute()
        assert value("kl", judged, temperature=temperature) == near(expected["kl"])
    for name in ("cos", "l1", "l2"):
        assert value(name, judged) == near(expected[name])


def test_real_clips_are_like_themselves(judged):
    real = torch.stack([case.real for case in judged.cases])
    same = replace(judged, drawn=replace(judged.drawn, video=real))
    assert value("cos", same) == pytest.approx(1)
    for name in ("l1", "l2", "kl"):
        assert value(name, same) == pytest.approx(0, abs=1e-5)


def test_fvd_is_measured_against_the_references(judged):
    metric = FrechetVideoDistance(Sums(2.0))
    metric.update(torch.cat(list(judged.references.batches(20))), real=True)
    metric.update(judged.drawn.video, real=False)
    assert value("fvd", judged, encoder=SUMS, path="2") == near(metric.compute())


def test_references_are_seen_once(judged):
    """A second cell's videos are measured alone, with the references of the first."""
    other = replace(judged, drawn=replace(judged.drawn, video=judged.start))
    first, second = (value("fvd", one, encoder=SUMS) for one in (judged, other))
    assert value("fvd", judged, encoder=SUMS) == first
    video_columns._seen.cache_clear()
    assert value("fvd", other, encoder=SUMS) == pytest.approx(second)
    assert first != pytest.approx(second)
    fewer = replace(judged, references=listed(torch.cat(list(judged.references.batches(20)))[:12]))
    assert value("fvd", fewer, encoder=SUMS) != pytest.approx(first)


class Impartial(Sums):
    """One that judges some VLMs with other weights."""

    @classmethod
    def path_for(cls, vlm):
        return "7" if vlm.source == "tiny" else None


def test_the_encoder_says_whose_weights_judge_a_vlm(judged, monkeypatch):
    column = columns.get("fvd")(f"{__name__}.Impartial")
    monkeypatch.setattr(judged.vlm, "source", "tiny")
    assert column.encoder(judged).scale == 7
    assert columns.get("fvd")(f"{__name__}.Impartial", "3").encoder(judged).scale == 3
    monkeypatch.setattr(judged.vlm, "source", "another")
    assert column.encoder(judged).scale == 1


def test_defaults_are_options_too():
    assert all_options({"fvd": {"path": "a"}, f"{__name__}.Length": {}}) == {
        "fvd": {"encoder": "i3d", "path": "a"},
        f"{__name__}.Length": {"factor": 1.0},
    }


def test_a_column_that_crashes_is_no_number_and_no_other_columns_trouble(judged, caplog):
    for _ in range(2):
        found = measure({f"{__name__}.Crashing": {}, f"{__name__}.Length": {}}, judged)
    assert found.values[f"{__name__}.Crashing"] is None
    assert found.missing == {f"{__name__}.Crashing": "ZeroDivisionError: division by zero"}
    assert found.values[f"{__name__}.Length"] == judged.drawn.video.shape[1]
    assert caplog.text.count("Crashing could not be computed") == 1  # not in every cell
    assert f'File "{__file__}"' in caplog.text  # where the bug is


def test_an_encoder_is_loaded_once(judged):
    before = Sums.loaded
    measure({name: {"encoder": SUMS, "path": "3"} for name in ("fvd", "clip", "clip_gain", "caption_cos")}, judged)
    measure({"clip": {"encoder": SUMS, "path": "3"}}, judged)
    assert Sums.loaded == before + 1


def test_weights_that_cannot_be_had_are_looked_for_once(judged):
    name = f"{__name__}.Absent"
    asked = {column: {"encoder": name, "path": "x.pt"} for column in ("fvd", "clip", "clip_gain")}
    for _ in range(2):
        figures = measure(asked, judged)
        assert figures.missing == dict.fromkeys(asked, "moments: x.pt is not here")
    assert Absent.asked == 1


def test_no_vlm_outlives_its_figures(tiny, judged):
    vlm = load_vlm(tiny.vlm, tiny.video)
    left = weakref.ref(vlm)
    figures = measure({"cos": {}, "kl": {}, "token": {}, "clip": {"encoder": SUMS}}, replace(judged, vlm=vlm))
    assert figures.missing == {}
    measure({"clip": {"encoder": f"{__name__}.Absent"}}, replace(judged, vlm=vlm))
    del vlm
    gc.collect()
    assert left() is None


def test_captions_are_compared_with_those_of_the_positive_word(judged, wanted):
    for name, metric in (("bleu4", BLEU4()), ("cider", CIDErD())):
        metric.update(list(judged.drawn.captions), wanted)
        assert value(name, judged) == near(metric.compute())
        assert value(name, judged) > 0
    cosine = CaptionCosine(Sums(1.0))
    cosine.update(list(judged.drawn.captions), wanted)
    assert value("caption_cos", judged, encoder=SUMS) == near(cosine.compute())


@torch.no_grad()
def test_clip_looks_at_the_positive_captions(judged, wanted):
    score, gain = VideoCLIPScore(Sums(1.0)), CLIPGain(Sums(1.0))
    score.update(judged.drawn.video, wanted)
    gain.update(judged.drawn.video, judged.start, wanted)
    assert value("clip", judged, encoder=SUMS) == near(score.compute())
    assert value("clip_gain", judged, encoder=SUMS) == pytest.approx(float(gain.compute()), rel=1e-3, abs=1e-4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Folder of a tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = word_tokenizer(["a", "oval", "right", *WORDS], 77)
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **layers}
    vision = {"image_size": 32, "patch_size": 16, **layers}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return str(folder)


def test_clip_from_a_folder(judged, wanted, clip):
    metric = VideoCLIPScore(CLIPEncoder.from_pretrained(clip))
    metric.update(judged.drawn.video, wanted)
    assert value("clip", judged, path=clip) == near(metric.compute())


@torch.no_grad()
def test_aesthetic_is_a_head_on_clip(judged, clip, tmp_path):
    """Of random weights, as the file has them; without activations they are one matrix."""
    widths, state, draws = (768, 1024, 128, 64, 16, 1), {}, torch.Generator().manual_seed(0)
    matrix = torch.eye(768)
    for place, (wide, narrow) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        weight = torch.randn(narrow, wide, generator=draws) / wide**0.5
        state |= {f"layers.{place}.weight": weight, f"layers.{place}.bias": torch.zeros(narrow)}
        matrix = weight @ matrix
    torch.save(state, tmp_path / "head.pth")
    images = CLIPEncoder.from_pretrained(clip).images(judged.drawn.video)
    expected = (images / images.norm(dim=-1, keepdim=True) @ matrix.T).mean()
    got = value("aesthetic", judged, head=str(tmp_path / "head.pth"), clip=clip)
    assert got == pytest.approx(expected.item(), rel=1e-3, abs=1e-5)


def test_lpips_is_of_each_case_s_real_clip(judged, monkeypatch):
    """With random weights in place of those that torchvision would download."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", lambda *_, **__: state)
    monkeypatch.setattr(video_columns, "_lpips", video_columns._lpips.__wrapped__)
    large = torch.nn.functional.interpolate  # the net sees little in frames of 32 x 32
    real, drawn = (
        large(video.flatten(0, 1), size=64).unflatten(0, video.shape[:2])
        for video in (torch.stack([case.real for case in judged.cases]), judged.drawn.video)
    )
    cases = tuple(replace(case, real=clip) for case, clip in zip(judged.cases, real, strict=True))
    got = value("lpips", replace(judged, cases=cases, drawn=replace(judged.drawn, video=drawn)), net="squeeze")
    net = LearnedPerceptualImagePatchSimilarity("squeeze", normalize=True)
    net.update(drawn.flatten(0, 1), real.flatten(0, 1))
    assert got == near(net.compute())
    same = value("lpips", replace(judged, cases=cases, drawn=replace(judged.drawn, video=real)), net="squeeze")
    assert same == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_without_java_there_is_no_figure(judged, name, monkeypatch):
    monkeypatch.setenv("PATH", "")
    figures = measure({name: {}}, judged)
    assert figures.values == {name: None}
    assert "there is no `java`" in figures.missing[name]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("fvd", {"path": "/nowhere/i3d.pt"}, "/nowhere/i3d.pt"),
        ("aesthetic", {"head": "/nowhere/head.pth"}, "/nowhere/head.pth"),
        ("clip", {"path": "/nowhere/clip"}, "/nowhere/clip"),
    ],
)
def test_what_is_missing_is_no_number(judged, name, options, reason):
    figures = measure({name: options, "token": {}}, judged)
    assert figures.values[name] is None
    assert reason in figures.missing[name]
    assert figures.values["token"] is not None
    assert list(figures.missing) == [name]


def test_what_is_not_finite_is_no_number(judged):
    name = f"{__name__}.Infinite"
    figures = measure({name: {}}, judged)
    assert figures.values == {name: None}
    assert figures.missing == {name: "it came out as inf"}


def test_anyone_s_column_by_class_path(judged):
    name = f"{__name__}.Length"
    assert value(name, judged, factor=3.0) == 15
    (heading,) = headings({name: {}})
    assert (heading.name, heading.label, heading.better, heading.decimals) == (name, "frames", None, 0)


def test_headings_say_what_was_seen_with():
    found = headings(
        {"fvd": {"encoder": SUMS}, "clip": {"encoder": SUMS, "path": "a/b.pt"}, "kl": {"temperature": 0.5}}
    )
    notes = [heading.note for heading in found]
    assert notes[0].startswith("FVD on moments; the fewer the videos, the larger")
    assert notes[1] == "CLIP_v on moments, b.pt"
    assert "KL(real ‖ generated)" in notes[2]
    assert "temperature 0.5" in notes[2]
    assert [heading.better for heading in found] == ["down", "up", "down"]


def test_every_registered_column_has_a_heading():
    """None of ours needs an option, or reads weights before it measures."""
    names = columns.names()
    assert {"fvd", "lpips", "clip", "aesthetic", "clip_gain", "token_gain", "token"} <= set(names)
    assert {"cos", "l1", "l2", "kl", "caption_cos", "bleu4", "cider", "meteor", "spice", "seconds", "forwards"} <= {
        *names
    }
    found = headings({name: {} for name in names})
    assert [heading.name for heading in found] == names
    assert all(heading.label for heading in found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "columns: none is given"),
        ({"fdv": {}}, "unknown name 'fdv'. Did you mean 'fvd'"),
        ({"fvd": {"net": "alex"}}, "columns.fvd: 'fvd' has no option 'net'; it has: encoder, path$"),
        ({"fvd": {"encoder": "i2d"}}, "video_encoders: unknown name 'i2d'"),
        ({"lpips": {"net": "resnet"}}, "columns.lpips.net: 'resnet' is none of alex, vgg, squeeze"),
        ({"kl": {"temperature": "warm"}}, "columns.kl.temperature: 'warm' is of the wrong type"),
        ({"kl": {"temperature": 0.0}}, "temperature: 0.0"),
        ({"pathlib.Path": {}}, "'pathlib.Path' is no Column"),
    ],
)
def test_bad_columns_are_refused_before_the_work(given, message):
    with pytest.raises(TransporterError, match=message):
        new_columns(given)
