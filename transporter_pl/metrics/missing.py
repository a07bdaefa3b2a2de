"""What a metric needs and does not find."""

from __future__ import annotations

from transporter_pl.errors import TransporterError


class MissingPart(TransporterError):
    """Weights or a program that are not here. The message names them and how to get them; tables show no figure."""
