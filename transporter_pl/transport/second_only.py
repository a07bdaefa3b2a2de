"""Ablation: no transport, Φ_Ω2 alone."""

from __future__ import annotations

from torch import Tensor

from transporter_pl.transport.base import Transport


class SecondOnly(Transport):
    """z̃ = ẑ2: the token structure alone (TRANSPORTER's ablation "Φ_Ω2 only").

    Here the transport loss reaches Φ_Ω2 directly; its own loss, a Gram loss, would leave the rotation of ẑ2 open.
    """

    reads = ("second",)

    def forward(self, second: Tensor) -> Tensor:
        """ẑ2 as it is, (B, N, D)."""
        return second
