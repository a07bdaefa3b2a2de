import json
from dataclasses import asdict, replace

import pytest
import torch

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Origin, VideoSpec

CALIBRATION = Calibration((0.0, 1.0), (0.9, 0.1), (0.1, 0.9), (0.0, 0.7), (0.0, 0.6), (0.0, 1 / 3))


def same(bank, other):
    """Whether all of two banks is the same; vectors are compared by value."""
    for mine, theirs in zip(bank.entries, other.entries, strict=True):
        assert torch.equal(mine.vector, theirs.vector)
        assert asdict(replace(mine, vector=None)) == asdict(replace(theirs, vector=None))
    return replace(bank, entries=()) == replace(other, entries=())


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


def test_a_calibration_comes_back(bank, tmp_path):
    entries = replace(bank.entries[0], calibration=CALIBRATION), bank.entries[1]
    bank = replace(bank, entries=entries, generator_weights="w1", vlm_weights="w2")
    bank.save(tmp_path)
    back = ConceptBank.from_pretrained(tmp_path)
    assert same(back, bank)
    assert [concept.calibration for concept in back.entries] == [CALIBRATION, None]


def test_a_bank_without_calibrations_still_loads(bank, tmp_path):
    bank.save(tmp_path)
    described = json.loads((tmp_path / "concepts.json").read_text())
    for concept in described["concepts"]:
        del concept["calibration"]
    (tmp_path / "concepts.json").write_text(json.dumps(described))
    assert same(ConceptBank.from_pretrained(tmp_path), bank)


def test_a_selection_has_its_own_order_and_round_trips(bank, tmp_path):
    chosen = bank.select([Pair("red", "blue"), "left:right", "red:blue"])
    assert [concept.pair.name for concept in chosen.entries] == ["red:blue", "left:right"]
    bank.select(["red:blue"]).save(tmp_path)
    assert same(ConceptBank.from_pretrained(tmp_path), replace(bank, entries=bank.entries[1:]))
    with pytest.raises(TransporterError, match="no 'up:down'; it holds left:right, red:blue"):
        bank.select(["left:right", "up:down"])


def test_banks_merge_and_round_trip(bank, tmp_path):
    parts = [bank.select(["left:right"]), replace(bank.select(["red:blue"]), coupling="other", vlm_weights="w2")]
    merged = ConceptBank.merge([replace(parts[0], generator="moved/to/wan"), parts[1]])
    expected = replace(bank, generator="moved/to/wan", coupling="runs/coupling, other", vlm_weights="w2")
    assert same(merged, expected)
    merged.save(tmp_path)
    assert same(ConceptBank.from_pretrained(tmp_path, "some/wan", "some/llama"), expected)
    assert same(ConceptBank.merge([bank]), bank)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"generator": "other/wan2"}, "the generators 'some/wan' and 'other/wan2'; merge those of one generator"),
        ({"vlm": "other/gemma"}, "the vlms 'some/llama' and 'other/gemma'; merge those of one vlm"),
        ({"generator_weights": "w3"}, r"weights of the generator 'some/wan' \(fingerprints w1 and w3\)"),
        ({"vlm_weights": "w3"}, r"weights of the vlm 'some/llama' \(fingerprints w2 and w3\)"),
    ],
)
def test_banks_of_different_backbones_do_not_merge(bank, other, message):
    bank = replace(bank, generator_weights="w1", vlm_weights="w2")
    with pytest.raises(TransporterError, match=f"^merge: the banks were made with .*{message}"):
        ConceptBank.merge([bank.select(["left:right"]), replace(bank.select(["red:blue"]), **other)])


def test_a_pair_twice_does_not_merge(bank):
    with pytest.raises(TransporterError, match="merge: 2 banks hold 'red:blue'; leave it out of all but one"):
        ConceptBank.merge([bank, bank.select(["red:blue"])])
    with pytest.raises(TransporterError, match="merge: no bank"):
        ConceptBank.merge([])


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


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '"text"',
        '{"generator": "a"}',
        '{"concepts": [5]}',
        '{"generator": "a", "vlm": "b", "coupling": "c", "concepts": [{"pair": {"negative": "x", "positive": "x"}}]}',
    ],
)
def test_a_description_that_is_none(bank, tmp_path, text):
    bank.save(tmp_path)
    (tmp_path / "concepts.json").write_text(text)
    with pytest.raises(TransporterError, match="is no concept bank"):
        ConceptBank.from_pretrained(tmp_path)


def test_a_calibration_that_is_none(bank, tmp_path):
    replace(bank, entries=(replace(bank.entries[0], calibration=CALIBRATION),)).save(tmp_path)
    described = (tmp_path / "concepts.json").read_text()
    broken = json.loads(described)
    broken["concepts"][0]["calibration"]["phi"] = [1.0, 0.0]
    (tmp_path / "concepts.json").write_text(json.dumps(broken))
    with pytest.raises(TransporterError, match=r"is no concept bank \(calibration: φ is 1 0"):
        ConceptBank.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_old_files(bank, tmp_path, monkeypatch):
    bank.save(tmp_path)
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bank.select(["red:blue"]).save(tmp_path)
    assert same(ConceptBank.from_pretrained(tmp_path), bank)
    assert {path.name for path in tmp_path.iterdir()} == {"concepts.json", "concepts.safetensors"}
