"""Two processes that share the videos find what one finds that sees them all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from metrics_in_processes import COUNT, measured, of_rank

SCRIPT = Path(__file__).parent / "metrics_in_processes.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What either found; the first is this process."""
    folder = tmp_path_factory.mktemp("two")
    with subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stderr=subprocess.PIPE, text=True) as second:
        first = of_rank(0, folder)
        assert second.wait() == 0, second.stderr.read()[-5000:]
    return [first, json.loads((folder / "second.json").read_text())]


@pytest.mark.parametrize("shares", ["unequal", "all or nothing"])
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_find_what_one_does(found, shares):
    alone = measured(torch.arange(COUNT))
    assert alone["fvd"] > 0.01
    assert alone["cider"] > 1
    for rank in found:
        assert rank[shares] == pytest.approx(alone, rel=1e-4, abs=1e-7)
