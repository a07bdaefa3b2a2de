"""Points at which a concept vector is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Points:
    """M intermediate latents and what the frozen generator says there.

    Attributes:
        latents: z_t, (M, C, T', H', W').
        t: Their times, (M,).
        row: Row of each in the trajectories, (M,).
        context: Index of each point's context, (M,).
        velocity: v− = G(z_t, ε−, t), (M, C, T', H', W').
        change: Δv = G(z_t, ε+, t) − G(z_t, ε−, t), mean over the noises, (M, C, T', H', W').
    """

    latents: Tensor
    t: Tensor
    row: Tensor
    context: Tensor
    velocity: Tensor
    change: Tensor

    def __len__(self) -> int:
        """Number of points."""
        return len(self.t)

    def __getitem__(self, rows: Tensor) -> Points:
        """Some of the points."""
        return Points(*(field[rows] for field in vars(self).values()))

    def to(self, device: torch.device) -> Points:
        """The points on a device."""
        return Points(*(field.to(device) for field in vars(self).values()))
