"""Ablation: no transport, Φ_Ω1 alone."""

from __future__ import annotations

from torch import Tensor

from transporter_pl.transport.base import Transport


class FirstOnly(Transport):
    """z̃ = ẑ1: the global projection alone (TRANSPORTER's ablation "Φ_Ω1 only")."""

    reads = ("first",)

    def forward(self, first: Tensor) -> Tensor:
        """ẑ1 as it is, (B, N, D)."""
        return first
