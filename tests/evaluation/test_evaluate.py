"""``transporter evaluate`` as a user runs it: what it leaves, what it takes up again, what it refuses and when."""

import json
import shutil
from pathlib import Path

import pytest
from evaluating import evaluate


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    """Folder of a call that ran to its end."""
    out = tmp_path_factory.mktemp("evaluation")
    assert evaluate({**settings, "out": str(out)}) == 0
    return out


def test_x(first):
    print(*first.rglob("*"), sep="\n")
    print((first / "a-table/table.md").read_text())
    print((first / "tiny/ours/seed0/drawn.json").read_text())
    print((first / "tiny/ours/seed0/figures.json").read_text())
