"""What an explanation tells of itself."""

import json
from dataclasses import replace

import pytest
import torch

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.errors import TransporterError
from transporter_pl.explain.dials import Dial
from transporter_pl.explain.explainer import Explainer
from transporter_pl.explain.looking import faded

CAPTION = "a red oval moves left slowly"


def test_the_calibration_is_of_all_that_was_drawn(explainer, explanation):
    alone = explainer.explain(CAPTION, "left:right", [1.0, 0.5], 7, 3)
    assert alone.phi.tolist() == [1.0, 0.5]
    assert alone.calibration.phi == (0, 0.5, 1)
    assert alone.calibration.coupled == pytest.approx(explanation.coupled.divergence.tolist(), abs=1e-3)
    assert alone.calibration.reencoded[1] == pytest.approx(alone.reencoded.divergence[1].item())
    assert alone.elsewhere.tolist() == pytest.approx([alone.calibration.elsewhere[2], alone.calibration.elsewhere[1]])
    assert alone.calibration.elsewhere[0] == 0


def test_calibrate_is_the_mean_over_seeds_and_contexts(explainer):
    contexts = ["a red oval moves {} slowly", "a small oval moves {}"]
    found = explainer.calibrate("left:right", 3, (0.0, 1.0), contexts, steps=2)
    each = [explainer.explain(contexts[k % 2], "left:right", (0.0, 1.0), k, 2).calibration for k in range(3)]
    assert found.coupled[1] == pytest.approx(sum(c.coupled[1] for c in each) / 3, abs=1e-5)
    assert found.phi == (0, 1)


def test_beyond_saturation_is_a_warning(explainer):
    flat = Calibration(
        (0, 0.5, 1, 2), (0.9, 0, 0, 0), (0, 0.9, 0.9, 0.9), (0, 0.9, 0.9, 0.9), (0, 0.9, 0.9, 0.9), (0,) * 4
    )
    entries = tuple(replace(c, calibration=flat) for c in explainer.bank.entries)
    warned = Explainer(explainer.bridge, replace(explainer.bank, entries=entries))
    (text,) = warned.explain(CAPTION, "left:right", (0.0, 1.5), 7, 2).warnings
    assert text.startswith("φ = 1.5 goes beyond φ = 0.5, where left:right saturated when it was trained")
    assert warned.explain(CAPTION, "left:right", (-1.0, 1.0), 7, 2).warnings == ()  # the words' own ends
    assert explainer.explain(CAPTION, "left:right", (0.0, 9.0), 7, 2).warnings == ()  # not calibrated


def test_samples_are_its_rows(explanation):
    for index, sample in enumerate(explanation.samples):
        assert sample.phi == explanation.phi[index]
        assert torch.equal(sample.video, explanation.video[index])
        assert sample.elsewhere == pytest.approx(explanation.elsewhere[index].item())
        for answer, reading in ((sample.coupled, explanation.coupled), (sample.reencoded, explanation.reencoded)):
            assert answer.caption == reading.captions[index]
            assert answer.positive == pytest.approx(reading.positive[index].item())
            assert answer.negative == pytest.approx(reading.negative[index].item())
            assert answer.divergence == pytest.approx(reading.divergence[index].item())


def test_it_needs_a_folder_alone(explainer, tmp_path):
    found = explainer.explain(CAPTION, ("left", "right"), [0, 0.1], 7, 2)
    page = found.save(tmp_path / "page")
    assert page == tmp_path / "page" / "index.html"
    figures = json.loads((tmp_path / "page" / "explanation.json").read_text())
    assert figures["phi"] == figures["calibration"]["phi"] == [0, 0.1]  # as they were asked for
    assert figures["made_with"]["steps"] == "2"
    assert found.filmstrip(tmp_path / "strip.png").is_file()


def test_a_prompt_shows_one_line(explanation):
    assert repr(explanation) == f"<left:right, φ = 0 0.5 1: {explanation.sentence}>"


def test_a_video_that_lost_its_contrast_is_a_warning():
    clip = torch.rand(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    videos = torch.cat([0.5 + 0.1 * (clip - 0.5), clip, 0.5 * clip, 0 * clip])
    (text,) = faded(videos, torch.tensor([1.0, 0.0, 0.5, -1.0]))
    assert text == "at φ = -1, 1 the video has lost most of its contrast, and perhaps what it shows: look at it"
    assert faded(clip, torch.tensor([0.0])) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (0.01, 0.02)}, r"window: no denoising step of left:right has its t in 0.01 to 0.02; .* from 1 to"),
        ({"also": [Dial("red:blue", window=(0.01, 0.02))]}, "window: no denoising step of red:blue"),
        ({"window": (0.95, 1), "video": torch.zeros(5, 3, 32, 32), "depth": 0.7}, "window: no denoising step"),
        ({"video": torch.zeros(5, 3, 32, 32), "depth": 1e-5}, r"depth: 1e-05 lies below the last of 3 steps"),
        ({"video": torch.full((5, 3, 32, 32), 255.0)}, r"video: torch.float32 from 255 to 255; give floating-point"),
        ({"video": torch.zeros(5, 3, 32, 32, dtype=torch.uint8)}, r"video: torch.uint8 from 0 to 0; give floating"),
        ({"video": torch.full((5, 3, 32, 32), float("nan"))}, r"video: torch.float32 from nan to nan"),
    ],
)
def test_what_can_not_act_or_is_no_clip_is_refused(explainer, monkeypatch, change, message):
    monkeypatch.setattr("transporter_pl.explain.explainer.sample", None)
    with pytest.raises(TransporterError, match=message):
        explainer.explain(**{"caption": CAPTION, "pair": "left:right", "steps": 3, **change})
