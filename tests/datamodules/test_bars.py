"""What ``transporter measure`` refuses, in which order, and what it leaves behind."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.shapemotion import bars
from transporter_pl.datamodules.shapemotion.bars import measure
from transporter_pl.errors import TransporterError

FACTS = {"divergence": 0.5, "steps": 1, "loss": 0.1, "explained": 0.9, "prompt": "", "objective": "velocity"}
SMALL = {"clips": 2, "seeds": 2, "steps": 1, "device": "cpu"}


def bank_of(tiny, folder, *pairs, vlm=None, shape=(12, 16)):
    entries = tuple(Concept(pair=Pair.parse(pair), vector=torch.zeros(shape), **FACTS) for pair in pairs)
    ConceptBank(tiny.generator.path, vlm or tiny.vlm.path, "coupling", entries).save(folder)
    return folder


@pytest.fixture
def bare(tiny, tmp_path):
    """The generator without its weights: what is refused later than it should be meets that."""
    path = shutil.copytree(tiny.generator.path, tmp_path / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    return replace(tiny.generator, path=str(path))


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        (("left:right", "slow:quick"), {}, "pair: 'slow:quick' names no two words"),
        (("left:right",), {"vlm": "some/gemma"}, "was made with the vlm 'some/gemma'"),
        (("left:right",), {"shape": (99, 16)}, r"vector of 'left:right' is \(99, 16\)"),
    ],
)
def test_a_bank_is_refused_before_anything_is_measured(
    tiny, tiny_coupling, tmp_path, monkeypatch, pairs, options, message
):
    monkeypatch.setattr(bars, "codec_agreement", None)
    concepts = bank_of(tiny, tmp_path / "bank", *pairs, **options)
    with pytest.raises(TransporterError, match=message):
        measure(tiny.generator, tiny.vlm, tiny.video, tiny_coupling, concepts, tmp_path / "out.json", **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: 0 is too small"),
        ({"clips": 0}, "clips: 0 is too small"),
        ({"device": "graphics"}, "device: 'graphics' is not there"),
        ({"coupling": "/none"}, "coupling: no folder '/none'"),
        ({"concepts": "/none"}, "concepts: '/none' is no concept bank"),
    ],
)
def test_inputs_are_read_before_weights(bare, tiny, tmp_path, change, message):
    with pytest.raises(TransporterError, match=message):
        measure(**{"generator": bare, "vlm": tiny.vlm, "video": tiny.video, "out": tmp_path / "out.json", **change})


def test_the_first_table_is_kept_whatever_befalls_the_second(tiny, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bars, "concept_effects", interrupted)
    concepts, out = bank_of(tiny, tmp_path / "bank", "left:right"), tmp_path / "deep" / "out.json"
    with pytest.raises(KeyboardInterrupt):
        measure(tiny.generator, tiny.vlm, tiny.video, None, concepts, out, **SMALL)
    found = json.loads(out.read_text())
    assert [row["source"] for row in found["agreement"]][-1] == "the VLM on pixels"
    assert found["effects"] == []
