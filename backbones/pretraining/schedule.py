"""The learning-rate schedule that all three recipes share."""

from __future__ import annotations

from collections.abc import Callable


def warm_hold_decay(steps: int, warmup: int = 100, hold: float = 0.5) -> Callable[[int], float]:
    """Factor of the learning rate: linear warm-up, constant until ``hold`` of the steps, then linear down to 2 %."""

    def factor(step: int) -> float:
        done = step / steps
        decay = 1.0 if done < hold else max(0.02, (1 - done) / (1 - hold))
        return min(1.0, (step + 1) / warmup) * decay

    return factor
