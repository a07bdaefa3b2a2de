"""Callbacks that let a training be interrupted: it goes on exactly where it stopped, and stops when it is asked to."""

from __future__ import annotations

import random
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from transporter_pl.chance import draws_of
from transporter_pl.errors import TransporterError
from transporter_pl.stages.checkpoints import GO_ON

# what is used of Lightning without being its public interface, from the trainer on
PRIVATE = ("_signal_connector._sigterm_notifier_fn", "fit_loop._should_accumulate")
PRIVATE_OF_CHECKPOINTS = ("_last_global_step_saved",)
SIGTERM_STATUS = 143  # 128 + 15, as a shell has it
PREEMPTED = "preempted.ckpt"


def check_lightning(trainer: L.Trainer) -> None:
    """See that this version of Lightning has what is used of it, as without it a run would not survive, in silence.

    Raises:
        TransporterError: Naming what is missing.
    """
    saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    missing = [name for name in PRIVATE if not _has(trainer, name)]
    missing += [name for name in PRIVATE_OF_CHECKPOINTS for callback in saving if not _has(callback, name)]
    if missing:
        msg = f"lightning: version {L.__version__} has no {missing[0]}, by which trainings survive; "
        raise TransporterError(msg + "pip install 'lightning<2.7'")


def _has(place: object, name: str) -> bool:
    try:
        attrgetter(name)(place)
    except AttributeError:
        return False
    return True


class ExactResume(L.Callback):
    """Makes a training that was interrupted end as one that was not, bit for bit on the CPU.

    Lightning's checkpoints hold the weights, the optimiser, the schedule, the gradient scaler, the loader's state and
    all counters. This adds what they lack. The global random numbers of each batch are made a function of (seed,
    process, batch), rather than saved: validation, pictures and whatever else draws between two batches then change
    nothing, and no process but the first need write anything. And a checkpoint that falls inside accumulated batches,
    as a validation there makes Lightning write, takes their gradients along.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Forget an earlier run."""
        self._seed: int | None = None
        self._gradients: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """The seed: a resumed run goes on with the one that it began with."""
        return {} if self._seed is None else {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse."""
        self._seed = state_dict["seed"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the first process's seed, if there was none."""
        if self._seed is None:
            self._seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on where the checkpoint was.

        Raises:
            TransporterError: If the processes would go on from different steps.
        """
        first = trainer.strategy.broadcast(trainer.global_step)
        if not trainer.strategy.reduce_boolean_decision(trainer.global_step == first):
            msg = f"ckpt_path: process {trainer.global_rank} is at step {trainer.global_step}, the first at {first}; "
            raise TransporterError(msg + "give a default_root_dir that all nodes share")
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                # it has forgotten that this step is saved, and would save it again inside the next step's batches
                callback._last_global_step_saved = trainer.global_step
        parameters = dict(pl_module.named_parameters())
        for name, gradient in self._gradients.items():
            parameters[name].grad = _placed(gradient, parameters[name])
        self._gradients = {}

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        """Seed Python's, numpy's and torch's global random numbers on all devices."""
        batch = trainer.fit_loop.epoch_loop.total_batch_idx
        number = draws_of(f"{self._seed}-{trainer.global_rank}-{batch}").initial_seed()
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.manual_seed(number)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take along gradients that wait for their optimiser step; all processes take part."""
        if trainer.fit_loop._should_accumulate():
            found = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            checkpoint["gradients"] = {name: _whole(trainer, gradient) for name, gradient in found.items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep them until the training starts."""
        self._gradients = checkpoint.get("gradients", {})


def _whole(trainer: L.Trainer, gradient: Tensor) -> Tensor:
    """The mean over processes, which is what each of them may start from: the last batch's mean is linear."""
    if isinstance(gradient, DTensor):
        return gradient.full_tensor().cpu()
    return trainer.strategy.reduce(gradient.clone(), reduce_op="mean").cpu()  # type: ignore[union-attr]


def _placed(gradient: Tensor, parameter: Tensor) -> Tensor:
    gradient = gradient.to(parameter)
    if isinstance(parameter, DTensor):
        return distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
    return gradient


class Preemption(L.Callback):
    """Ends a training on SIGTERM: between two optimiser steps, with a checkpoint, all processes at the same step.

    Lightning's own handler broadcasts from inside the signal, wherever the other processes are at that moment; theirs
    is then some other collective: they hang, or end with status 0 and no checkpoint. This one takes a note, and the
    processes compare notes after every optimiser step, so that it is enough if one of them is told.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Be the one that Lightning registers as the handler of SIGTERM for the time of the training.

        Raises:
            TransporterError: If this version of Lightning lacks what is needed.
        """
        self._asked = False
        if stage == "fit":
            check_lightning(trainer)
            trainer._signal_connector._sigterm_notifier_fn = self._take_note  # type: ignore[method-assign, assignment]

    def _take_note(self, *_: object) -> None:
        self._asked = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know the step that it begins with."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Stop if any process was told to.

        Raises:
            SystemExit: Then, once the checkpoint is written.
        """
        if trainer.global_step == self._step:  # inside accumulated batches
            return
        self._step = trainer.global_step
        if self._is_told(trainer):
            file = _folder(trainer) / PREEMPTED
            trainer.save_checkpoint(file, weights_only=False)
            _end(trainer, f"after step {self._step}; the checkpoint is {str(file)!r}")

    def look(self, trainer: L.Trainer) -> None:
        """Stop, if any process was told to, before there is anything to save; all processes take part.

        Raises:
            SystemExit: Then.
        """
        if self._is_told(trainer):
            _end(trainer, f"before step {trainer.global_step + 1}")

    def _is_told(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._asked, all=False)


def _end(trainer: L.Trainer, where: str) -> NoReturn:
    if trainer.is_global_zero:
        print(f"stopped by SIGTERM {where}; {GO_ON}", file=sys.stderr, flush=True)
    raise SystemExit(_status(trainer))


def _folder(trainer: L.Trainer) -> Path:
    found = (c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    return Path(next(found, None) or Path(trainer.default_root_dir) / "checkpoints")


def _status(trainer: L.Trainer) -> int:
    """Lightning kills a whole run when one of the processes that it has started ends with another status than 0."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return 0 if isinstance(environment, LightningEnvironment) and trainer.local_rank else SIGTERM_STATUS
