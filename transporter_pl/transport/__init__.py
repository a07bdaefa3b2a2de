"""Ways to merge the tokens of Φ_Ω1 and Φ_Ω2: ζ-OT and its ablations."""

from transporter_pl.transport.base import PlanTransport, Transport, new_transport, transports

__all__ = ["PlanTransport", "Transport", "new_transport", "transports"]
