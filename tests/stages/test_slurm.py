"""The layer for SLURM, in a job of one task."""

import signal

import pytest
import torch
from test_survival import QUIET, command, phi, same, signalled

from transporter_pl.cli import main

JOB = {"JOB_ID": "7", "JOB_NAME": "fit", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}


@pytest.fixture
def job(monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_a_preempted_job_ends_with_a_status_of_its_own_and_the_same_command_goes_on(job, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", asked.append)
    arguments = command(tmp_path, "--config=cluster/slurm.yaml", "--ckpt_path=last", *QUIET)
    before = signal.getsignal(signal.SIGUSR1)
    assert main([*arguments, *signalled(int(signal.SIGTERM), 3)]) == 143
    assert not asked  # scontrol is the job's own script's to call
    assert signal.getsignal(signal.SIGUSR1) == before
    assert torch.load(tmp_path / "checkpoints" / "preempted.ckpt", weights_only=True)["global_step"] == 2
    assert main(arguments) == 0
    assert main(command(tmp_path / "whole", *QUIET)) == 0
    assert same(phi(tmp_path / "whole"), phi(tmp_path))
