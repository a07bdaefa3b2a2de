"""Explanations that begin with a clip of the user's."""

import pytest
import torch

from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import draw_noise, sample
from transporter_pl.explain.starting import begin

CAPTION = "a red oval moves left slowly"


@pytest.mark.parametrize("start", ["noised", "inverted"])
def test_a_clip_as_a_start(explainer, tiny, start):
    generator = explainer.bridge.generator
    clip = torch.rand(tiny.video.frames, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = explainer.explain(CAPTION, "left:right", (0.0, 1.0), 7, 4, video=clip, start=start, depth=0.7)
    with torch.no_grad():
        condition, clean = generator.encode_text([CAPTION]), generator.encode(clip[None])
        noise = draw_noise(generator, [7])
        begun, first = begin(generator, start, clean, noise, condition, 4, 0.7)
        assert first > 0
        expected = generator.decode(sample(generator, condition, begun, 4, start=first))
    torch.testing.assert_close(found.video[:1], expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found.video[0], found.video[1], atol=1e-3)
    assert ("from a clip", f"{start}, depth 0.7") in found.made_with


def test_the_vlms_caption_of_a_clip_must_hold_the_word(explainer, tiny, monkeypatch):
    clip = torch.rand(tiny.video.frames, 3, 32, 32)
    monkeypatch.setattr(
        explainer.bridge.vlm, "caption", lambda tokens, prompt=None: ["a red oval moves left"] * len(tokens)
    )
    assert explainer.explain(None, "left:right", (0.0,), 7, 2, video=clip).context == "a red oval moves {}"
    monkeypatch.setattr(explainer.bridge.vlm, "caption", lambda tokens, prompt=None: ["an oval"] * len(tokens))
    with pytest.raises(TransporterError, match=r"caption: the VLM says 'an oval' of the clip, .* give --caption"):
        explainer.explain(None, "left:right", (0.0,), 7, 2, video=clip)
