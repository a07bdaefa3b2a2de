"""Tests that need more than a plain machine are skipped, not failed."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

MARKED = """
import pytest

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.network
def test_network(): pass

@pytest.mark.gpu
def test_gpu(): pass

def test_plain(): pass
"""


@pytest.fixture
def marked(pytester):
    """A module with a test of every marker, under our own conftest."""
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n    slow\n    network\n    gpu")
    pytester.makepyfile(MARKED)
    return pytester


@pytest.mark.parametrize(
    ("options", "cuda", "passed"),
    [
        ([], False, {"test_plain"}),
        ([], True, {"test_plain", "test_gpu"}),
        (["-m", "slow"], False, {"test_slow"}),
        (["-m", "slow or network or gpu"], False, {"test_slow", "test_network"}),
        (["-m", "not slow"], True, {"test_plain", "test_gpu"}),
    ],
)
def test_only_what_can_run_and_was_asked_for_runs(marked, monkeypatch, options, cuda, passed):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    run = marked.inline_run(*options)
    assert {report.nodeid.partition("::")[2] for report in run.listoutcomes()[0]} == passed
    assert run.listoutcomes()[2] == []
