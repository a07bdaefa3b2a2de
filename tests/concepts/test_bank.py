import json
from dataclasses import replace

import pytest
import torch

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Origin, VideoSpec


@pytest.fixture
def bank():
    facts = {"divergence": 0.5, "steps": 10, "loss": 0.1, "explained": 0.9, "prompt": "?", "objective": "velocity"}
    pairs = Pair("left", "right", ("moves {}",)), Pair("red", "blue", ("a {} oval", "the {} oval"))
    vectors = torch.randn(12, 16), torch.randn(16)
    entries = tuple(Concept(pair=p, vector=v, **facts) for p, v in zip(pairs, vectors, strict=True))
    return ConceptBank("some/wan", "some/llama", "runs/coupling", entries)


def test_round_trip(bank, tmp_path):
    bank.save(tmp_path / "deep" / "bank")
    back = ConceptBank.from_pretrained(tmp_path / "deep" / "bank", "moved/to/wan", "some/llama")
    assert (back.generator, back.vlm, back.coupling) == (bank.generator, bank.vlm, bank.coupling)
    for concept in bank.entries:
        again = back[concept.pair]
        assert again.pair == concept.pair
        assert torch.equal(again.vector, concept.vector)
        assert (again.divergence, again.explained, again.steps) == (0.5, 0.9, 10)
    assert json.loads((tmp_path / "deep/bank/concepts.json").read_text())["vlm"] == "some/llama"


def test_saving_again_replaces(bank, tmp_path):
    bank.save(tmp_path / "bank")
    ConceptBank(bank.generator, bank.vlm, bank.coupling, bank.entries[:1]).save(tmp_path / "bank")
    assert len(ConceptBank.from_pretrained(tmp_path / "bank").entries) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]


@pytest.mark.parametrize("folder", ["my", "."])
def test_what_else_is_in_the_folder_stays(bank, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder / "cache").mkdir(parents=True)
    (tmp_path / folder / "cache" / "shard").write_text("mine")
    for _ in range(2):
        bank.save(folder)
    assert (tmp_path / folder / "cache" / "shard").read_text() == "mine"
    assert {p.name for p in (tmp_path / folder).iterdir()} == {"cache", "concepts.json", "concepts.safetensors"}
    assert len(ConceptBank.from_pretrained(folder).entries) == 2


def test_unknown_pair_lists_the_known(bank):
    with pytest.raises(TransporterError, match="no 'up:down'; it holds left:right, red:blue"):
        bank["up:down"]


@pytest.mark.parametrize(("generator", "vlm"), [("other/wan2", None), (None, "other/gemma")])
def test_other_backbones_are_refused(bank, tmp_path, generator, vlm):
    bank.save(tmp_path / "bank")
    with pytest.raises(TransporterError, match=r"made with the (generator|vlm) 'some/\w+', not 'other/"):
        ConceptBank.from_pretrained(tmp_path / "bank", generator, vlm)


def test_other_weights_are_refused(bank, tmp_path):
    replace(bank, generator_weights="w1", vlm_weights="w2").save(tmp_path / "bank")
    back = ConceptBank.from_pretrained(tmp_path / "bank")
    same = Origin("moved/wan", "moved/llama", VideoSpec(5, 32, 32), "w1", "w2")
    back.check_weights(same)
    with pytest.raises(TransporterError, match="generator: the concept bank was trained with other weights"):
        back.check_weights(replace(same, generator_weights="w3"))
    with pytest.raises(TransporterError, match="vlm: the concept bank was trained with other weights"):
        back.check_weights(replace(same, vlm_weights="w3"))


def test_a_bank_without_fingerprints_still_loads(bank, tmp_path):
    bank.save(tmp_path)
    described = json.loads((tmp_path / "concepts.json").read_text())
    for name in ("generator_weights", "vlm_weights"):
        del described[name]
    (tmp_path / "concepts.json").write_text(json.dumps(described))
    ConceptBank.from_pretrained(tmp_path).check_weights(Origin("a", "b", VideoSpec(5, 32, 32), "w1", "w2"))


def test_a_folder_that_is_no_bank(bank, tmp_path):
    with pytest.raises(TransporterError, match="is no concept bank"):
        ConceptBank.from_pretrained(tmp_path)
    bank.save(tmp_path / "bank")
    (tmp_path / "bank/concepts.safetensors").write_bytes(b"broken")
    with pytest.raises(TransporterError, match="is no concept bank"):
        ConceptBank.from_pretrained(tmp_path / "bank")
