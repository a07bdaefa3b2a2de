"""CLIP scores against CLIP's own processor and forward pass, on a tiny one in the hub's format."""

import pytest
import torch
from torch.nn.functional import interpolate
from toy_encoders import Colours, videos
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from transporter_pl.backbones.clip import CLIPEncoder
from transporter_pl.errors import TransporterError
from transporter_pl.metrics.clip import CLIPGain, VideoCLIPScore
from transporter_pl.metrics.encoders import text_encoders
from transporter_pl.metrics.missing import MissingPart

CAPTIONS = ["a red oval moves left", "the sea"]
SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of the published layout, with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(vocabulary), "max_position_embeddings": 24, **ends}
    config = CLIPConfig(
        text_config=text, vision_config={**small, "image_size": SIDE, "patch_size": 8}, projection_dim=12
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer({token: i for i, token in enumerate(vocabulary)}, []).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 36}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(folder):
    return text_encoders.get("clip").from_pretrained(folder)


def smooth(count, height, width):
    """Frames as films have them: noise alone tells bytes' rounding from no resizing."""
    draws = torch.rand(count, 3, 6, 7, generator=torch.Generator().manual_seed(2))
    return interpolate(draws, (height, width), mode="bilinear").mul(255).round() / 255


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 85), (91, 40), (20, 33)])
def test_frames_are_cut_as_the_official_processor_does(folder, encoder, height, width):
    frames = smooth(4, height, width)
    official = CLIPImageProcessor.from_pretrained(folder)(list((frames * 255).byte()), return_tensors="pt")
    step = 1 / 255 / 0.26  # one level of 256, normalised
    torch.testing.assert_close(encoder.crop(frames), official["pixel_values"], atol=1.5 * step, rtol=0)


def test_scores_are_those_of_clip_s_own_forward(folder, encoder):
    video = smooth(6, 40, 50).unflatten(0, (2, 3))
    metric = VideoCLIPScore(encoder)
    metric.update(video[:1], CAPTIONS[:1])
    metric.update(video[1:], CAPTIONS[1:])
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    tokens = tokenizer(CAPTIONS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, pixel_values=encoder.crop(video.flatten(0, 1))).logits_per_image
    cosines = (logits / model.logit_scale.exp()).unflatten(0, (2, 3))
    expected = 100 * (cosines[0, :, 0].mean() + cosines[1, :, 1].mean()) / 2
    torch.testing.assert_close(metric.compute(), expected, atol=1e-4, rtol=1e-5)


def test_scores_of_colours():
    """By hand: a red frame and a yellow one against "red"."""
    red, yellow = torch.tensor([0.5, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    video = torch.stack([red, yellow])[None, :, :, None, None].expand(1, 2, 3, 4, 4)
    score, gain = VideoCLIPScore(Colours()), CLIPGain(Colours())
    score.update(video, ["red"])
    assert score.compute().item() == pytest.approx(100 * (1 + 0.5**0.5) / 2, abs=1e-4)
    gain.update(video[:, :1], video[:, 1:], ["red"])
    assert gain.compute().item() == pytest.approx(100 * (1 - 0.5**0.5), abs=1e-4)
    gain.update(video[:, 1:], video[:, :1], ["red"])
    assert gain.compute().item() == pytest.approx(0, abs=1e-4)


def test_gain_is_a_difference_of_scores(encoder):
    video, start = videos(2), videos(2, seed=1).square()
    gain, scores = CLIPGain(encoder), [VideoCLIPScore(encoder) for _ in range(2)]
    gain.update(video, start, CAPTIONS)
    for metric, clips in zip(scores, (video, start), strict=True):
        metric.update(clips, CAPTIONS)
    torch.testing.assert_close(gain.compute(), scores[0].compute() - scores[1].compute(), atol=1e-4, rtol=0)


def test_a_text_is_encoded_once_and_not_once_a_frame(encoder, monkeypatch):
    heard = []
    monkeypatch.setattr(encoder.model, "get_text_features", _listening(encoder.model.get_text_features, heard))
    VideoCLIPScore(encoder).update(videos(2, frames=7), CAPTIONS)
    assert heard == [2]


def _listening(function, heard):
    def call(**inputs):
        heard.append(len(inputs["input_ids"]))
        return function(**inputs)

    return call


def test_long_videos_and_captions_are_taken(encoder):
    """More frames than are seen at once, more words than the text encoder has places for."""
    video = videos(3, frames=30)
    assert encoder.images(video).shape == (3, 30, 12)
    torch.testing.assert_close(encoder.images(video)[2, 29], encoder.images(video[2:, 29:])[0, 0], atol=1e-5, rtol=1e-4)
    assert torch.equal(encoder.texts(["a " * 60]), encoder.texts(["a " * 90]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(encoder, dtype):
    full, half = VideoCLIPScore(encoder), VideoCLIPScore(encoder)
    full.update(videos(2), CAPTIONS)
    half.update(videos(2).to(dtype), CAPTIONS)
    assert half.compute().dtype == torch.float32
    assert half.compute().item() == pytest.approx(full.compute().item(), abs=0.2)


def test_frozen(encoder):
    assert not encoder.train().training
    assert not any(weight.requires_grad for weight in encoder.parameters())


@pytest.mark.parametrize("path", [None, "no-such/clip", "./no-such-folder"])
def test_missing_weights_are_named(path, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingPart, match=r"encoder clip: .*`hf download \S+` gets it") as raised:
        CLIPEncoder.from_pretrained(path)
    assert (path or "openai/clip-vit-large-patch14") in str(raised.value)


def test_what_does_not_fit_is_refused(encoder):
    with pytest.raises(TransporterError, match="texts: 1 for 2 videos"):
        VideoCLIPScore(encoder).update(videos(2), ["a"])
    with pytest.raises(TransporterError, match="start: shape"):
        CLIPGain(encoder).update(videos(2), videos(2, frames=3), CAPTIONS)
    with pytest.raises(TransporterError, match="video: "):
        VideoCLIPScore(encoder).update(videos(2)[0], CAPTIONS)
