"""The layer for SLURM, in a job of one task."""

import os
import re
import signal
import subprocess
from pathlib import Path

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


@pytest.mark.parametrize(("trained", "ended", "asked"), [(0, 0, ""), (2, 2, ""), (143, 0, "requeue 7")])
def test_the_script_of_the_job_ends_as_the_training_or_asks_for_another_turn(tmp_path, trained, ended, asked):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    for name, does in (("srun", f"exit {trained}"), ("scontrol", f'echo "$*" > {tmp_path}/asked')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", script], env=variables, check=False).returncode == ended
    assert (tmp_path / "asked").read_text().strip() == asked
