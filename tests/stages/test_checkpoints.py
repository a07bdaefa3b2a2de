"""Checkpoint files that are found again, damaged, malicious, or can't be written."""

import os
import pickle
import resource
import socket
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from test_coupling_stage import RandomEncodings, stage, trainer
from test_survival import QUIET, command, phi, same

from transporter_pl.cli import main
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.stages.checkpoints import CheckpointFiles, damage
from transporter_pl.stages.coupling import CouplingStage
from transporter_pl.stages.guard import last_good_checkpoint
from transporter_pl.stages.sharding import FSDP2


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def age(*files):
    """Make files as old as their order says."""
    for second, file in enumerate(files):
        os.utime(file, (second, second))


def test_last_is_the_newest_of_all_starts_or_the_beginning(tmp_path, caplog):
    """With a logger, every start has a folder of its own."""
    asked = [*command(tmp_path, "--ckpt_path=last"), "--trainer.enable_model_summary=false"]
    assert main([*asked, "--trainer.max_steps=2"]) == 0
    assert f"ckpt_path: no checkpoint yet under {str(tmp_path)!r}" in caplog.text
    for steps in (4, 6):
        assert main([*asked, f"--trainer.max_steps={steps}"]) == 0
    found = {torch.load(file, weights_only=True)["global_step"]: file for file in tmp_path.rglob("*.ckpt")}
    assert found.keys() == {2, 4, 6}
    assert len({file.parent for file in found.values()}) == 3
    going_on = [line.rpartition(" ")[2] for line in caplog.text.splitlines() if "ckpt_path: going on from " in line]
    assert going_on == [str(found[2]), str(found[4])]


@pytest.fixture
def run(tmp_path):
    """A run with two checkpoints, of steps 3 and 6."""
    steps = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=3, save_top_k=-1)
    trainer(tmp_path, max_steps=6, callbacks=[steps]).fit(stage(), datamodule=RandomEncodings())
    files = [tmp_path / "checkpoints" / f"step={step}.ckpt" for step in (3, 6)]
    age(*files)
    return files


def test_last_of_a_run_that_has_only_damaged_ones_is_no_beginning(run, tmp_path, capsys):
    """A job that is started again must not begin anew, and write over what it had."""
    for file in run:
        cut(file)
    assert main(command(tmp_path, "--ckpt_path=last")) == 2
    said = last_line(capsys)
    assert said.startswith(
        f"error: ckpt_path: none of the 2 checkpoint(s) under {str(tmp_path)!r} is good; delete them"
    )


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def zeroed(file):
    """As a file whose length reached the disk, but not all of its content."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 256] = bytes(256)
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


class Stranger:
    """What a pickle may do when it is read."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return os.mkdir, (str(self.touched),)


def malicious(file):
    state = torch.load(file, weights_only=True)
    torch.save({**state, "hyper_parameters": Stranger(file.with_name("pwned"))}, file)


def bare_pickle(file):
    file.write_bytes(pickle.dumps(Stranger(file.with_name("pwned"))))


def of_something_else(file):
    torch.save({"weights": torch.zeros(3)}, file)


HARMS = [
    (cut, "is cut short or damaged"),
    (zeroed, "is cut short or damaged"),
    (emptied, "is cut short or damaged"),
    (malicious, "holds more than tensors and plain data, and nothing else is unpickled"),
    (bare_pickle, "is cut short or damaged"),
    (of_something_else, "is no training checkpoint"),
]


@pytest.mark.parametrize(("harm", "says"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
def test_harm_is_told(run, harm, says):
    _, newest = run
    assert damage(newest) is None
    harm(newest)
    assert damage(newest) == says


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint."""
    file = tmp_path_factory.mktemp("whole") / "whole.ckpt"
    fit = trainer(file.parent, max_steps=1)
    fit.fit(stage(), datamodule=RandomEncodings())
    fit.save_checkpoint(file)
    return file


FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8)


@given(FLIPS, st.sampled_from(["anywhere", "in the pickle", "in the directory"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_flipped_bits_are_told_or_change_nothing(whole, tmp_path, flips, where):
    content = bytearray(whole.read_bytes())
    start = content.index(b"PK\x01\x02") if where == "in the directory" else 0
    length = 6000 if where == "in the pickle" else len(content) - start
    for place, bit in flips:
        content[start + int(place * length)] ^= 1 << bit
    file = tmp_path / "flipped.ckpt"
    file.write_bytes(content)
    trouble = damage(file)
    assert trouble in (None, "is cut short or damaged")
    if trouble:
        with pytest.raises(TransporterError, match=f"^ckpt_path: .*flipped.ckpt' {trouble}; give another checkpoint"):
            CheckpointFiles().load_checkpoint(file)
    else:
        weights, found = (CheckpointFiles().load_checkpoint(f)["state_dict"] for f in (whole, file))
        assert same(weights, found)
    assert last_good_checkpoint(SimpleNamespace(checkpoint_callbacks=[], ckpt_path=file), 0, 9) == (
        None if trouble else file
    )


@pytest.mark.parametrize("harm", [cut, emptied, malicious, bare_pickle])
def test_nothing_is_unpickled_whatever_is_asked(run, tmp_path, monkeypatch, harm):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    _, newest = run
    harm(newest)
    for ask in ("fit", "validate"):
        asked = getattr(trainer(tmp_path, max_steps=9), ask)
        with pytest.raises(TransporterError, match=r"^ckpt_path: .*step=6.ckpt' .*; give another checkpoint, or"):
            asked(stage(), datamodule=RandomEncodings(), ckpt_path=newest, weights_only=False)
    with pytest.raises((pickle.UnpicklingError, RuntimeError, EOFError)):
        CouplingStage.load_from_checkpoint(newest, weights_only=False)
    assert not newest.with_name("pwned").exists()


@pytest.mark.parametrize("harm", [cut, malicious])
def test_nothing_is_unpickled_where_weights_are_sharded(run, harm):
    _, newest = run
    harm(newest)
    with pytest.raises(TransporterError, match=r"^ckpt_path: .*step=6.ckpt' .*; give another checkpoint, or"):
        FSDP2().load_checkpoint(newest, weights_only=False)
    assert not newest.with_name("pwned").exists()


def test_last_takes_the_one_before_a_damaged_one_and_a_path_names_it(run, tmp_path, capsys, caplog):
    good, newest = run
    cut(newest)
    age(good, newest)
    smaller = ["--model.network.mixer_layers=2", "--model.network.expansion=2", *QUIET, "--model.warmup=1"]
    arguments = [*command(tmp_path, *smaller), "--trainer.max_steps=7", "--trainer.accumulate_grad_batches=1"]
    assert main([*arguments, f"--ckpt_path={newest}"]) == 2
    assert last_line(capsys) == (
        f"error: ckpt_path: {str(newest)!r} is cut short or damaged; the last good one is {str(good)!r}"
    )
    with pytest.warns(UserWarning, match=f"ckpt_path: {str(newest)!r} is cut short or damaged; the one before it is"):
        assert main([*arguments, "--ckpt_path=last"]) == 0
    assert f"ckpt_path: going on from {good}" in caplog.text
    cut(good)
    for file in newest.parent.glob("epoch*.ckpt"):
        file.unlink()
    with pytest.warns(UserWarning, match="is cut short"):
        assert main([*arguments, f"--ckpt_path={newest}"]) == 2
    assert last_line(capsys).endswith("is cut short or damaged; no other is good")


def test_what_killed_starts_had_half_written_goes_at_the_next(tmp_path):
    """Of this run alone, and nothing that a living process writes, or that is no checkpoint."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    host = socket.gethostname()

    def left(folder, process, name="last.ckpt"):
        file = tmp_path / folder / f".part-{host}-{process}-{name[0]}" / name
        file.parent.mkdir(parents=True)
        file.touch()
        return file

    killed_ones = [left(f, killed.pid) for f in ("run/checkpoints", "run/lightning_logs/version_0/checkpoints", "run")]
    others = [
        left("run/checkpoints", os.getpid()),
        left("run/checkpoints", f"1-{killed.pid}"),  # another host's
        left("other/checkpoints", killed.pid),
        left("run/lightning_logs/version_0/checkpoints", killed.pid, "coupling.safetensors"),
    ]
    trainer(tmp_path / "run", max_steps=1).fit(stage(), datamodule=RandomEncodings())
    assert not any(file.parent.exists() for file in killed_ones)
    assert all(file.exists() for file in others)


@contextmanager
def full_disk(after):
    """Every file ends at so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    first = ModelCheckpoint(folder, "one", every_n_train_steps=2, enable_version_counter=False)
    trainer(tmp_path, max_steps=2, callbacks=[first]).fit(stage(), datamodule=RandomEncodings())
    before = (folder / "one.ckpt").read_bytes()
    again = ModelCheckpoint(folder, "one", every_n_train_steps=2, enable_version_counter=False)
    fit = trainer(tmp_path, max_steps=4, callbacks=[again])
    with full_disk(len(before) // 2), pytest.raises(TransporterError) as error:
        fit.fit(stage(), datamodule=RandomEncodings(), ckpt_path=folder / "one.ckpt")
    said = str(error.value)
    assert said == (
        f"checkpoint: can't write {str(folder / 'one.ckpt')!r} (File too large); what was there is untouched; make "
        "room, or choose a folder that can be written, then go on with the same command, and --ckpt_path last for a fit"
    )
    assert [file.name for file in folder.iterdir()] == ["one.ckpt"]
    assert (folder / "one.ckpt").read_bytes() == before


def test_a_folder_that_can_not_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    saved = ModelCheckpoint(tmp_path / "file", every_n_train_steps=2)
    with pytest.raises(TransporterError, match=r"^checkpoint: can't write .*step=2.ckpt' \(.+\); what was there"):
        trainer(tmp_path, callbacks=[saved]).fit(stage(), datamodule=RandomEncodings())


def test_a_full_disk_at_the_export_costs_nothing_but_another_command(tmp_path, capsys):
    arguments = command(tmp_path, *QUIET)
    assert main(arguments) == 0
    made = phi(tmp_path)
    (tmp_path / "coupling" / "config.json").unlink()
    with full_disk(2000), pytest.raises(TransporterError, match=r"^export: can't write .*coupling' .*File too large"):
        trainer(tmp_path, max_steps=0).fit(stage(), datamodule=RandomEncodings())
    assert [file.name for file in (tmp_path / "coupling").iterdir()] == ["coupling.safetensors"]
    assert main([*arguments, "--ckpt_path=last"]) == 0
    assert same(phi(tmp_path), made)
    assert CouplingNetwork.from_pretrained(tmp_path / "coupling").config.width == 16
