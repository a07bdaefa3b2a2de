"""The benchmark of the latent cache runs, and tells what it promises."""

import importlib
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))  # a process that it starts imports it, too
    yield importlib.import_module("cache")
    del sys.modules["cache"]


def test_a_fast_run_gives_all_rows(benchmark, capsys):
    benchmark.bench(runs=1, fast=True)
    said = [re.split(r"\s*│\s*", line.strip(" │")) for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = {name: [float(cell) for cell in cells] for name, *cells in said}
    assert list(rows) == ["0.02", "0.05", "0.02, 3 caches", "0.02, float8", "1,000"]
    *read, started = rows.values()
    assert [(cells[0], len(cells)) for cells in read] == [(6, 6)] * 4
    assert all(cell >= 0 for cells in rows.values() for cell in cells)  # how fast it was is no matter of a test
    assert len(started) == 6
