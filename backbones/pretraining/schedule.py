"""What the recipes share: the learning-rate schedule, and batches outside the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L  # noqa: N812


def warm_hold_decay(steps: int, warmup: int = 100, hold: float = 0.5) -> Callable[[int], float]:
    """Factor of the learning rate: linear warm-up, constant until ``hold`` of the steps, then linear down to 2 %."""

    def factor(step: int) -> float:
        done = step / steps
        decay = 1.0 if done < hold else max(0.02, (1 - done) / (1 - hold))
        return min(1.0, (step + 1) / warmup) * decay

    return factor


def first_batches(module: L.LightningModule, count: int) -> Iterator[Any]:
    """The first training batches of the data module that the recipe is trained with."""
    trainer: Any = module.trainer
    return (trainer.datamodule.train_batches[index] for index in range(count))
