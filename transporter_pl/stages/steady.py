"""A teacher that says the same after an interruption."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from transporter_pl.concepts.divergences import Divergence
from transporter_pl.concepts.teacher import Key, Teacher


class SteadyTeacher(Teacher):
    """Asks its models in fixed blocks of at most ``at_once`` rows of one trajectory.

    The last bits of what a model says of a point depend on what else is in the batch. Batches of whatever is not yet
    known would depend on all that was asked before, which a training that is resumed has not.
    """

    def velocity(self, keys: list[Key]) -> Tensor:
        """As ``Teacher.velocity``."""
        for row, caption in keys:
            if (row, caption) not in self._velocities:
                super().velocity([(other, caption) for other in self._block(row)])
        return super().velocity(keys)

    def divergence(self, places: Tensor, prompt: str | None, measure: Divergence) -> Tensor:
        """As ``Teacher.divergence``."""
        for row, context in places.tolist():
            if (row, context) not in self._divergences:
                block = torch.tensor([(other, context) for other in self._block(row)])
                super().divergence(block, prompt, measure)
        return super().divergence(places, prompt, measure)

    def _block(self, row: int) -> Iterable[int]:
        """The rows that are asked about together; noises over which a mean is taken are not parted."""
        each, size = self.trajectories.each, max(1, self.at_once // self.noise_seeds) * self.noise_seeds
        start = row - row % each % size
        return range(start, min(start + size, row - row % each + each))
