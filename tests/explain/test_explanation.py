"""What an explanation tells of itself."""

import json
from dataclasses import replace

import pytest
import torch

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.explain.explainer import Explainer

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
