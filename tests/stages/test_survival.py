"""Trainings that are killed, preempted and resumed end as those that are not."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from resumable_data import SHAPES, OrderedEncodings, Signalled
from safetensors.torch import load_file
from test_concept_stage import arguments as concept_arguments
from test_coupling_stage import SMALL, packaged, trainer, write_cache

from transporter_pl.cli import main
from transporter_pl.errors import TransporterError
from transporter_pl.stages.concept import ConceptStage
from transporter_pl.stages.coupling import CouplingStage
from transporter_pl.stages.guard import LossGuard
from transporter_pl.stages.survival import Preemption, check_lightning

HERE = Path(__file__).parent
QUIET = ["--trainer.logger=false", "--trainer.enable_model_summary=false"]
EVERY_STEP = {"filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}


class Noisy(CouplingStage):
    """A loss that needs every source of random numbers."""

    def training_step(self, batch, index):
        drawn = torch.rand(()) + np.random.rand() + random.random()
        return super().training_step(batch, index) * (1 + 0.1 * drawn)


def noisy(folder, resumed=None, **options):
    torch.manual_seed(0)
    model = Noisy(SHAPES, network=SMALL, warmup=1)
    torch.manual_seed(1 if resumed else 2)
    fit = trainer(folder, **{"max_steps": 6, **options})
    fit.fit(model, datamodule=OrderedEncodings(), ckpt_path=resumed)
    assert fit.global_step == 6
    return model.state_dict(), fit


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    "options",
    [
        # an epoch has 7 batches: it ends inside a step's, and validations fall inside others
        {"accumulate_grad_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"accumulate_grad_batches": 3, "precision": "bf16-mixed"},
    ],
)
def test_from_any_checkpoint_it_ends_with_the_same_weights(tmp_path, options):
    saved = [ModelCheckpoint(tmp_path / "steps", **EVERY_STEP), ModelCheckpoint(tmp_path / "epochs", save_top_k=-1)]
    whole, fit = noisy(tmp_path, callbacks=saved, **options)
    files = sorted(tmp_path.rglob("*.ckpt"))
    assert len(files) > 6
    inside = [file for file in files if "gradients" in torch.load(file, weights_only=True)]
    assert bool(inside) == ("val_check_interval" in options)
    for file in files:
        weights, again = noisy(tmp_path, file, **options)
        assert same(whole, weights), file
        assert guard_of(again).state_dict() == guard_of(fit).state_dict() or file in inside


def guard_of(fit):
    return next(callback for callback in fit.callbacks if isinstance(callback, LossGuard))


def test_another_seed_or_a_pause_for_validation_changes_nothing_but_the_seed_does(tmp_path):
    weights, _ = noisy(tmp_path)
    watched, _ = noisy(tmp_path, val_check_interval=1)
    assert same(weights, watched)
    torch.manual_seed(0)
    other = Noisy(SHAPES, network=SMALL, warmup=1)
    torch.manual_seed(3)
    trainer(tmp_path, max_steps=6).fit(other, datamodule=OrderedEncodings())
    assert not same(weights, other.state_dict())


def test_a_resumed_run_does_not_save_its_step_again_inside_the_next(tmp_path):
    options = {"accumulate_grad_batches": 3, "limit_val_batches": 0}
    noisy(tmp_path, callbacks=[ModelCheckpoint(tmp_path / "a", **EVERY_STEP)], **options)
    again = ModelCheckpoint(tmp_path / "b", **EVERY_STEP)
    noisy(tmp_path, tmp_path / "a" / "step=1.ckpt", callbacks=[again], **options)
    assert sorted(file.stem for file in (tmp_path / "b").iterdir()) == [f"step={n}" for n in (2, 3, 4, 5, 6)]


def command(folder, *more):
    smaller = ["width=16", "heads=2", "mixer_layers=1", "transformer_layers=1", "transport_options.projections=4"]
    return [
        "fit",
        *["--model=transporter_pl.stages.coupling.CouplingStage", "--data=resumable_data.OrderedEncodings"],
        *["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.max_steps=6"],
        *["--trainer.accumulate_grad_batches=2", f"--trainer.default_root_dir={folder}"],
        *(f"--model.network.{option}" for option in smaller),
        *more,
    ]


def signalled(number, batch, **options):
    named = {"number": number, "batch": batch, **options}
    return [
        "--trainer.callbacks+=resumable_data.Signalled",
        *(f"--trainer.callbacks.{name}={value}" for name, value in named.items()),
    ]


def launched(*words):
    """A real process of the command, with its data on the path."""
    return subprocess.run(
        [sys.executable, Path(sys.executable).with_name("transporter"), *words],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def phi(folder):
    return load_file(folder / "coupling" / "coupling.safetensors")


# of 24 batches; a step has 4: it clears the gradients in its first, and moves the weights in its last
MOMENTS = [
    ("on_train_batch_start", range(10, 22)),
    ("on_before_backward", range(10, 22)),
    ("on_before_zero_grad", range(12, 22, 4)),
    ("on_before_optimizer_step", range(11, 22, 4)),
]


def test_killed_in_any_batch_the_command_goes_on_from_last(tmp_path):
    """The packaged config on a cache, with checkpoints after every second step."""
    cache, chance = write_cache(tmp_path / "cache"), random.Random()
    hook, batches = chance.choice(MOMENTS)
    number = chance.choice(batches)
    whole, torn = tmp_path / "whole", tmp_path / "torn"

    def base(folder):
        steps = ["--trainer.max_steps=6", "--trainer.accumulate_grad_batches=4", "--trainer.val_check_interval=8"]
        return [*packaged(cache, folder), *steps]

    assert main(["fit", *base(whole)]) == 0
    killed = launched("fit", *base(torn), *EVERY_SECOND, *signalled(int(signal.SIGKILL), number, hook=hook))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (torn / "coupling").exists()
    assert main(["fit", *base(torn), "--ckpt_path=last"]) == 0
    assert same(phi(whole), phi(torn)), (number, hook)


EVERY_SECOND = [
    "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
    "--trainer.callbacks.every_n_train_steps=2",
]


def test_told_to_end_it_writes_a_checkpoint_and_goes_on_from_there(tmp_path, capsys):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main(command(whole, *QUIET)) == 0
    before = signal.getsignal(signal.SIGTERM)
    assert main(command(torn, *QUIET, *signalled(int(signal.SIGTERM), 4))) == 143  # in the first half of a step
    assert signal.getsignal(signal.SIGTERM) == before
    said = capsys.readouterr().err.splitlines()[-1]
    file = torn / "checkpoints" / "preempted.ckpt"
    assert said == (
        f"stopped by SIGTERM after step 3; the checkpoint is {str(file)!r}; go on with the same command, and "
        "--ckpt_path last for a fit"
    )
    assert torch.load(file, weights_only=True)["global_step"] == 3
    assert not (torn / "coupling").exists()
    assert main(command(torn, *QUIET, "--ckpt_path=last")) == 0
    assert same(phi(whole), phi(torn))


class Older:
    """An object of a Lightning that has another name for something."""

    def __init__(self, renamed, whole):
        self.renamed, self.whole = renamed, whole

    def __getattr__(self, name):
        if name == self.renamed:
            raise AttributeError(name)
        return getattr(self.whole, name)


def test_lightning_has_what_is_used_of_it_in_private(tmp_path):
    """The names that a new version may drop; each of them is missed before a training begins."""
    fit = trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path)])
    check_lightning(fit)
    saving = next(c for c in fit.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    for place, name in [
        (fit._signal_connector, "_sigterm_notifier_fn"),
        (fit.fit_loop, "_should_accumulate"),
        (saving, "_last_global_step_saved"),
    ]:
        assert hasattr(place, name), f"Lightning {L.__version__} has no {name}"
    assert ModelParallelStrategy(save_distributed_checkpoint=False)._save_distributed_checkpoint is False


@pytest.mark.parametrize("place", ["_signal_connector._sigterm_notifier_fn", "fit_loop._should_accumulate"])
def test_another_lightning_is_refused(tmp_path, place):
    where, name = place.split(".")
    fit = trainer(tmp_path)
    vars(fit)[where] = Older(name, getattr(fit, where))
    with pytest.raises(TransporterError, match=rf"^lightning: version \S+ has no {place}, .*; pip install 'lightning<"):
        Preemption().setup(fit, None, "fit")


# pytest finds a fixture by its name in a module
arguments = concept_arguments


class ToldAtOnce(L.Callback):
    """A signal before the first step."""

    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)


def test_concepts_told_to_end_go_on_from_there(arguments, tmp_path, capsys):
    def vectors(resumed=None, **options):
        learned = ConceptStage(**{**arguments, "steps": 4, "phi": "divergence"})
        fit = L.Trainer(
            default_root_dir=tmp_path,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        fit.fit(learned, ckpt_path=resumed)
        assert learned.global_step == 4
        return learned.vectors.detach()

    whole = vectors()
    (tmp_path / "bank" / "concepts.json").unlink()
    with pytest.raises(SystemExit) as end:
        vectors(callbacks=[Signalled(signal.SIGTERM, 1)])
    assert end.value.code == 143
    assert not (tmp_path / "bank" / "concepts.json").exists()
    file = tmp_path / "checkpoints" / "preempted.ckpt"
    assert torch.load(file, weights_only=True)["global_step"] == 2
    with pytest.raises(SystemExit) as end:  # while it asks again what it had asked, nothing is lost
        vectors(file, callbacks=[ToldAtOnce()])
    assert end.value.code == 143
    advice = "stopped by SIGTERM before step 3; go on with the same command, and --ckpt_path last for a fit"
    assert advice in capsys.readouterr().err
    assert torch.equal(vectors(file), whole)
    # a finished one takes no further step, and writes its bank
    finished = max((tmp_path / "checkpoints").glob("epoch*.ckpt"), key=lambda found: found.stat().st_mtime)
    (tmp_path / "bank" / "concepts.json").unlink()
    assert torch.equal(vectors(finished), whole)
    assert (tmp_path / "bank" / "concepts.json").is_file()
