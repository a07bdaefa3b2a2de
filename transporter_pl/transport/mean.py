"""Ablation: the average instead of a transport."""

from __future__ import annotations

from torch import Tensor

from transporter_pl.transport.base import Transport


class MeanTransport(Transport):
    """z̃ = (ẑ1 + ẑ2) / 2 (TRANSPORTER's ablation "mean⟨Φ_Ω1, Φ_Ω2⟩")."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The average of both, (B, N, D)."""
        return (first + second) / 2
