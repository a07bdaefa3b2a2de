"""The benchmark of the baselines runs, and tells of every method what it promises."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import random_bank

from transporter_pl.concepts.pairs import Pair

FOLDER = Path(__file__).parents[2] / "benchmarks"
METHODS = ["ours, guided", "ours", "am", "gradvit", "maco", "leaps"]
FORWARDS = 4


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("baselines")
    del sys.modules["baselines"]


@pytest.fixture
def bank(tiny, tmp_path):
    """Two pairs in one scene each."""
    pairs = Pair("left", "right", ("a red oval moves {}",)), Pair("red", "blue", ("a {} oval moves left",))
    return random_bank(tiny, tmp_path, *pairs)


def test_it_gives_a_row_a_method_and_goal(benchmark, tiny, trained, bank, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    benchmark.main(trained["coupling"], bank, tiny.generator, tiny.vlm, forwards=FORWARDS, every=2, device="cpu")
    said = capsys.readouterr().out
    assert "2 videos at once on cpu" in said
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == [word for method in METHODS for word in (method, "")]
    assert [row[1] for row in rows] == list(benchmark.GOALS) * len(METHODS)
    for method, (_, goal, arrived, forwards, *_, end) in zip(np.repeat(METHODS, 2), rows, strict=True):
        spent = int(forwards.removeprefix("≥ "))
        assert spent == 0 if method.startswith("ours") else 0 < spent <= FORWARDS, (method, goal)
        assert forwards.startswith("≥ ") == (spent > 0 and float(arrived.removesuffix(" %")) <= 50)
        assert torch.isfinite(torch.tensor(float(end)))
    assert rows[0][2] == rows[1][2] == "100 %"  # ours is what the others are to reach


@pytest.mark.parametrize(("slack", "arrived", "forwards"), [(1e6, 1.0, 2), (-1e6, 0.0, FORWARDS)])
def test_passes_are_counted_up_to_the_look_that_finds_the_goal(
    benchmark, tiny, trained, bank, monkeypatch, slack, arrived, forwards
):
    """The first one, where the start is good enough; the whole budget, where nothing ever is."""
    found = []
    monkeypatch.setattr(benchmark, "SLACK", torch.full((2, 1), slack))
    monkeypatch.setattr(benchmark, "table", lambda rows, *_: found.append(rows) or "")
    benchmark.main(trained["coupling"], bank, tiny.generator, tiny.vlm, forwards=FORWARDS, every=2, device="cpu")
    for name in METHODS[2:]:
        stimulus = arrived * benchmark.baselines.get(name).needs_stimulus  # one pass before the first step
        assert [(cost.arrived, cost.forwards) for cost in found[0][name]] == [(arrived, forwards + stimulus)] * 2, name
