"""A training as a part of longer work: in this process alone, without a word, and going on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from transporter_pl.files import delete
from transporter_pl.stages.checkpoints import last_checkpoint
from transporter_pl.stages.stage import Stage

EVERY = timedelta(minutes=5)  # from one checkpoint to the next
CHECKPOINTS = "checkpoints"


def train_alone(
    stage: Stage,
    folder: Path,
    device: torch.device,
    data: L.LightningDataModule | None = None,
    max_steps: int = -1,
    accumulate: int = 1,
    gradient_clip_val: float | None = None,
) -> tuple[float, int]:
    """Train to the end, from where an interrupted call was.

    Checkpoints are written every few minutes, and one at the end, from which a second call takes the result;
    ``forget`` deletes them.

    Args:
        stage: What is trained. A stage without data ends by its own steps.
        folder: The run's, of these settings alone, see ``digest_of``.
        device: Where.
        data: Its data.
        max_steps: Optimiser steps; -1 leaves it to the stage.
        accumulate: Batches a step.
        gradient_clip_val: Largest norm of the gradients.

    Returns:
        Seconds of the training, those of interrupted calls up to their last checkpoints included, and its steps.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once the checkpoint is written.
    """
    timer, saving = Timer(), ModelCheckpoint(folder / CHECKPOINTS, train_time_interval=EVERY)
    with quiet():
        trainer = L.Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            max_steps=max_steps,
            max_epochs=-1 if data is not None else 1,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=gradient_clip_val,
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[timer, saving],
        )
        with _ended_by_ctrl_c():
            trainer.fit(stage, datamodule=data, ckpt_path=last_checkpoint(trainer), weights_only=True)
        trainer.save_checkpoint(folder / CHECKPOINTS / "finished.ckpt")
    return timer.time_elapsed("train"), trainer.global_step


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends a training as SIGTERM does, between two steps and with a checkpoint; a second one ends it at once.

    Raises:
        KeyboardInterrupt: Then.
    """
    before, told = signal.getsignal(signal.SIGINT), []
    if before is not signal.default_int_handler or current_thread() is not main_thread():  # it is another's to see to
        yield
        return

    def tell(*_: object) -> None:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # it has not begun: there is nothing to save
            raise KeyboardInterrupt
        told.append(True)
        signal.signal(signal.SIGINT, before)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGINT, tell)
    try:
        yield
    except SystemExit:
        if not told:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if told:
        raise KeyboardInterrupt


def digest_of(settings: Mapping[str, Any]) -> str:
    """A short name that other settings do not have; they are what JSON holds, anything else by what it prints."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def forget(folder: Path) -> None:
    """Delete the checkpoints of a run whose result is kept elsewhere."""
    if (folder / CHECKPOINTS).is_dir():
        delete(folder / CHECKPOINTS)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Lightning says about itself before and after every run."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
