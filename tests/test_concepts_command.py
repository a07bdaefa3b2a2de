"""``transporter concepts``, driven as a user does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from transporter_pl.cli import main
from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair

CALIBRATION = Calibration(
    (0.0, 0.5, 1.0), (0.91, 0.5, 0.12), (0.08, 0.5, 0.87), (0.0, 0.68, 0.69), (0, 0, 0.62), (0, 0, 0.003)
)


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """Two concepts, one of them calibrated, in the folder ``bank`` of here."""
    facts = {"steps": 123, "loss": 0.0345, "explained": 0.789, "prompt": "What [bold]moves[/bold]?"}
    entries = (
        Concept(
            Pair("left", "right", ("an oval moves {}", "it :smile: {} [red]")),
            torch.randn(12, 16),
            divergence=0.456,
            objective="velocity, φ uniform",
            calibration=CALIBRATION,
            **facts,
        ),
        Concept(Pair("red", "blue"), torch.randn(16), divergence=0.3, objective="vlm_guided", **facts),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    made = ConceptBank("some/wan", "some/llama", "runs/coupling", entries, "w1", "w2")
    made.save("bank")
    return made


def said(capsys, *words):
    assert main(["concepts", *words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words):
    """The one line of an error."""
    assert main(["concepts", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def names(folder):
    return [concept.pair.name for concept in ConceptBank.from_pretrained(folder).entries]


@pytest.mark.parametrize("columns", ["30", "200"])
def test_list_has_a_line_for_every_concept(bank, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert said(capsys, "list", "bank").splitlines() == [
        f"left:right  Δϑ 0.46  explained 0.79  123 steps  {CALIBRATION.sentence(bank.entries[0].pair)}",
        "red:blue    Δϑ 0.30  explained 0.79  123 steps  not calibrated",
    ]


def test_list_says_what_did_not_move(bank, capsys):
    still = replace(CALIBRATION, reencoded=(0, 0, 0.05))
    replace(bank, entries=(replace(bank.entries[0], calibration=still),)).save("still")
    assert said(capsys, "list", "still").endswith(still.sentence(bank.entries[0].pair) + "\n")
    assert "moved one route alone" in still.sentence(bank.entries[0].pair)


def test_show_shows_all_that_is_stored(bank, capsys):
    shown = said(capsys, "show", "bank")
    facts = ["some/wan", "some/llama", "runs/coupling", "w1", "w2", "left:right", "red:blue", "12 × 16", "0.456", "0.3"]
    facts += ["an oval moves {}", "it :smile: {} [red]", "What [bold]moves[/bold]?", "123", "0.0345", "0.789"]
    facts += ["velocity, φ uniform", "vlm_guided", "not measured", "P(left)", "P(right)", "φ = 0.5"]
    figures = [f"{value:.4f}" for column in CALIBRATION.as_dict().values() for value in column[1:]][2:]
    missing = [fact for fact in [*facts, *figures] if fact not in shown]
    assert missing == []
    assert "left:right moved the VLM's answer: P(“right”) goes from 0.08 to 0.87" in shown


def test_show_one_pair(bank, capsys):
    for pair in ("red:blue", "a {red|blue} oval"):
        shown = said(capsys, "show", "bank", pair)
        assert "red:blue" in shown
        assert "left:right" not in shown


def test_merge_keeps_and_filters(bank, capsys):
    assert said(capsys, "merge", "bank", "--out", "some/one", "--pairs", "red:blue").startswith("red:blue  Δϑ")
    assert names("some/one") == ["red:blue"]
    assert said(capsys, "merge", "bank", "--out", "two", "--pairs", "left:right")
    assert said(capsys, "merge", "some/one", "two", "--out", "both").count("\n") == 2
    assert names("both") == ["red:blue", "left:right"]
    back = ConceptBank.from_pretrained("both", "some/wan", "some/llama")
    assert torch.equal(back["left:right"].vector, bank["left:right"].vector)
    assert back["left:right"].calibration == CALIBRATION
    assert (back.generator_weights, back.vlm_weights) == ("w1", "w2")


def test_pairs_are_chosen_before_banks_are_merged(bank, capsys):
    """A pair that both hold does not matter where it is not asked for."""
    third = replace(bank.entries[0], pair=Pair("up", "down"), vector=torch.randn(16))
    replace(bank, entries=(*bank.entries, third)).save("more")
    bank.select(["red:blue"]).save("less")
    said(capsys, "merge", "more", "less", "--out", "out", "--pairs", "up:down", "left:right")
    assert names("out") == ["up:down", "left:right"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst", "bank"], "invalid choice: 'lst' (choose from"),
        ([], "{list,show,merge}"),
        (["list"], "list.bank"),
        (["list", "nowhere"], "concepts: 'nowhere' is no concept bank"),
        (["show", "bank", "up:down"], "pair: the bank holds no 'up:down'; it holds left:right, red:blue"),
        (["show", "bank", "left"], "pair: 'left' is not two words"),
        (["merge", "bank"], "merge.out"),
        (["merge", "bank", "--out", "bank/concepts.json"], "out: "),
        (["merge", "bank", "bank", "--out", "out"], "merge: 2 banks hold 'left:right'"),
        (
            ["merge", "bank", "--out", "out", "--pairs", "up:down"],
            "pairs: no bank holds 'up:down'; they hold left:right, ",
        ),
        (["merge", "bank", "other", "--out", "out"], "the vlms 'some/llama' and 'some/gemma'"),
    ],
)
def test_what_is_refused(bank, capsys, tmp_path, words, message):
    replace(bank, vlm="some/gemma", entries=()).save("other")
    assert message in refused(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_an_unknown_command_lists_the_known(capsys):
    line = refused(capsys, "lst", "bank")
    assert all(name in line for name in ("list", "show", "merge"))


def test_a_bank_is_not_merged_into_itself(bank, capsys):
    before = Path("bank/concepts.json").read_text()
    assert main(["concepts", "merge", "bank", "--out", "./bank", "--pairs", "left:right"]) == 2
    assert "out: 'bank' is one of the banks that are read; give a folder of its own" in capsys.readouterr().err
    assert Path("bank/concepts.json").read_text() == before
