"""Ablation: nothing is learned."""

from __future__ import annotations

from torch import Tensor

from transporter_pl.transport.base import Transport


class Reencoded(Transport):
    """z̃ = z_Ξ→Ω: decoded and seen by the VLM (TRANSPORTER's ablation "decode-and-re-encode"); has nothing to train."""

    reads = ("reencoded",)

    def forward(self, reencoded: Tensor) -> Tensor:
        """z_Ξ→Ω as it is, (B, N, D)."""
        return reencoded
