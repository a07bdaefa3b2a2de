"""Trainings as parts of longer work: interrupted, they go on; finished, they are not done again."""

import signal

import pytest
import torch
from test_baseline_stage import stage

from transporter_pl.stages import alone
from transporter_pl.stages.alone import CHECKPOINTS, digest_of, forget, train_alone
from transporter_pl.stages.baseline import BaselineStage

CPU = torch.device("cpu")


class Interrupted(Exception):
    """As Ctrl-C is."""


def _run(drawing, folder):
    torch.manual_seed(0)
    _, steps = train_alone(drawing, folder, CPU)
    assert steps == drawing.steps
    return drawing.reached.video


def test_an_interrupted_training_goes_on_and_a_finished_one_is_taken(tiny, tmp_path, monkeypatch):
    whole = _run(stage(tiny), tmp_path / "whole")
    monkeypatch.setattr(alone, "EVERY", alone.EVERY * 0)  # a checkpoint after every step
    broken = stage(tiny)
    climb, seen = broken.__class__.training_step, []

    def interrupted(self, batch, index):
        seen.append(self.global_step)
        if self is broken and len(seen) == 4:
            raise Interrupted
        return climb(self, batch, index)

    monkeypatch.setattr(broken.__class__, "training_step", interrupted)
    with pytest.raises(Interrupted):
        _run(broken, tmp_path / "broken")
    assert torch.equal(_run(stage(tiny), tmp_path / "broken"), whole)
    assert seen == [0, 1, 2, 3, 3, 4]
    assert torch.equal(_run(stage(tiny), tmp_path / "broken"), whole)
    assert len(seen) == 6  # taken as it is
    forget(tmp_path / "broken")
    assert not (tmp_path / "broken" / CHECKPOINTS).exists()


@pytest.fixture
def _heard():
    """Ctrl-C as a terminal's process hears it: one in the background is started deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard")
def test_ctrl_c_leaves_a_checkpoint_after_the_step_that_it_falls_in(tiny, tmp_path, monkeypatch):
    whole = _run(stage(tiny), tmp_path / "whole")
    climb, seen = BaselineStage.training_step, []

    def pressed(self, batch, index):
        seen.append(self.global_step)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return climb(self, batch, index)

    monkeypatch.setattr(BaselineStage, "training_step", pressed)
    with pytest.raises(KeyboardInterrupt):
        _run(stage(tiny), tmp_path / "broken")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert torch.equal(_run(stage(tiny), tmp_path / "broken"), whole)
    assert seen == [0, 1, 2, 3, 4]


def test_other_settings_have_another_name(tiny):
    names = {digest_of(dict(stage(tiny, **options).hparams)) for options in ({}, {}, {"forwards": 13}, {"seed": 1})}
    assert len(names) == 3
