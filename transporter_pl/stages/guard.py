"""Stops a training that has gone wrong, and says where it was still right."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from transporter_pl.errors import TransporterError
from transporter_pl.samples import Encoded
from transporter_pl.stages.checkpoints import damage

WINDOW = 50  # optimiser steps that the running mean of the loss reaches back
DIVERGED = 100.0  # a running mean of so many times the lowest one is a loss that diverges
CALM = 10.0  # up to so many times the lowest one, the weights count as good
SHOWN = 8  # clips that a message names


@dataclass(frozen=True)
class Seen:
    """One of the batches that make up an optimiser step, as tensors that a GPU has still to compute.

    Attributes:
        ids: Names of its B clips.
        sound: Whether all values of a clip are finite, (B,).
        loss: The loss, scalar.
        norm: Norm of the gradients that were summed up to this batch, scalar.
    """

    ids: tuple[str, ...]
    sound: Tensor
    loss: Tensor
    norm: Tensor


class LossGuard(L.Callback):
    """Stops before the weights take a step that a loss or gradients without a finite value would spoil.

    It stops, too, where the loss diverges: where its mean over the last ``WINDOW`` optimiser steps, or as many as there
    are, exceeds ``DIVERGED`` times the lowest such mean so far, and what the loss began with, as one that is nearly 0
    may well leap. All is read once an optimiser step, so that a GPU does not wait for each of several batches. Several
    processes judge the mean of their losses, and stop together. With a gradient scaler (``16-mixed``) gradients may
    overflow, as it then skips the step itself.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin anew; a checkpoint goes on with what was seen before it."""
        self._seen: list[Seen] = []
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._first = self._lowest = math.inf
        self._calm: int | None = None  # steps after which the weights were still good

    def state_dict(self) -> dict[str, Any]:
        """What the loss was."""
        return {"recent": list(self._recent), "first": self._first, "lowest": self._lowest, "calm": self._calm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse."""
        self._recent.extend(state_dict["recent"])
        self._first, self._lowest, self._calm = (state_dict[name] for name in ("first", "lowest", "calm"))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know when the run began."""
        self._calm = trainer.global_step if self._calm is None else self._calm
        self._started = time.time()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Encoded, batch_idx: int
    ) -> None:
        """Look at the clips."""
        tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
        self._clips = batch.ids, torch.stack([x.flatten(1).isfinite().all(1) for x in tensors]).all(0)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Take the loss as the stage gave it: Lightning has divided it by the batches of a step, and scaled it."""
        scaler = _scaler(trainer)
        scale = 1.0 if scaler is None else scaler.get_scale()
        self._loss = loss.detach() * (trainer.accumulate_grad_batches / scale)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the gradients."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = get_total_norm(gradients) if _scaler(trainer) is None else torch.zeros_like(self._loss)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of all shards
        self._seen.append(Seen(*self._clips, self._loss, norm))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the batches of this step; gradients are clipped after this.

        Raises:
            TransporterError: Naming the step, its clips and the last good checkpoint.
        """
        seen, self._seen = self._seen, []
        own = torch.stack([torch.stack([s.loss, s.norm.to(s.loss)]) for s in seen]).mT
        mean = trainer.strategy.reduce(own.clone(), reduce_op="mean")
        (losses, norms), (of_all, norms_of_all) = torch.stack([own, mean]).tolist()
        if not all(map(math.isfinite, [*of_all, *norms_of_all])):
            raise TransporterError(_agreed(self._not_finite(trainer, seen, losses, norms)))
        self._follow(trainer, sum(of_all) / len(seen), seen)

    def _not_finite(
        self, trainer: L.Trainer, seen: list[Seen], losses: list[float], norms: list[float]
    ) -> tuple[int, str] | None:
        """The first of this process's batches that is at fault, and what to say of it."""
        for index, (batch, loss, norm) in enumerate(zip(seen, losses, norms, strict=True)):
            for said, value in ((f"loss: {loss}", loss), (f"gradients: norm {norm}", norm)):
                if not math.isfinite(value):
                    return index, str(self._error(trainer, said, [batch]))
        return None

    def _follow(self, trainer: L.Trainer, loss: float, seen: list[Seen]) -> None:
        """Hold a step's loss against those before it."""
        self._first = self._first if self._recent else loss
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if mean > max(DIVERGED * self._lowest, self._first):
            said = f"loss: {mean:.3g}, the mean of {len(self._recent)} steps, has risen from {self._lowest:.3g}"
            raise self._error(trainer, said, seen)
        self._lowest = min(self._lowest, mean)
        if mean <= CALM * self._lowest:
            self._calm = trainer.global_step

    def _error(self, trainer: L.Trainer, said: str, seen: list[Seen]) -> TransporterError:
        """What went wrong, where, and what to do."""
        ids = [name for batch in seen for name in batch.ids]
        sound = torch.cat([batch.sound for batch in seen]).tolist()
        broken = [name for name, is_sound in zip(ids, sound, strict=True) if not is_sound]
        said += f", in optimiser step {trainer.global_step + 1} at the clips {shortened(ids)}"
        fix = "use a lower lr, or see what is special about these clips"
        if broken:
            said += f", of which {shortened(broken)} hold values that are not finite"
            fix = "encode those anew, or leave them out"
        # such clips say nothing against the weights
        found = last_good_checkpoint(trainer, self._started, (self._calm or 0) + bool(broken))
        last = "there is no good checkpoint" if found is None else f"the last good checkpoint is {str(found)!r}"
        return TransporterError(f"{said}; {last}; {fix}")


def _agreed(found: tuple[int, str] | None) -> str:
    """What the processes say of the first batch at fault; one of them has found it, and all stop."""
    every: list[tuple[int, str] | None] = [found]
    if dist.is_available() and dist.is_initialized():
        every *= dist.get_world_size()
        dist.all_gather_object(every, found)
    return min(one for one in every if one is not None)[1]


def shortened(ids: list[str]) -> str:
    """Some of the names, and how many there are beside."""
    rest = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def last_good_checkpoint(trainer: L.Trainer, since: float, good: int) -> Path | None:
    """The newest checkpoint of a run with finite weights.

    Args:
        trainer: Its ``ModelCheckpoint`` callbacks say where the checkpoints are; the one it was resumed from counts.
        since: When the run began: folders may hold an older run's.
        good: Optimiser steps after which the weights were still good.
    """
    folders = {c.dirpath for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)}
    files = [file for folder in folders if folder for file in Path(folder).glob(f"*{ModelCheckpoint.FILE_EXTENSION}")]
    files = [file for file in files if file.stat().st_mtime >= since]
    resumed = [Path(trainer.ckpt_path)] if trainer.ckpt_path else []
    newest = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    return next((file for file in [*newest, *resumed] if _is_good(file, good)), None)


def _is_good(file: Path, good: int) -> bool:
    if damage(file) is not None:
        return False
    state = torch.load(file, "cpu", weights_only=True, mmap=True)
    return state["global_step"] <= good and all(w.isfinite().all() for w in state["state_dict"].values())


def _scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)
