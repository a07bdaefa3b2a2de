"""The port of the transports, their registry, and how a name in a config becomes one."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry


class Transport(nn.Module, ABC):
    """Merges ẑ1, the tokens of Φ_Ω1, and ẑ2, those of Φ_Ω2, into z̃.

    Tokens are standardised per feature, so projections and distances have unit scale.

    Args:
        width: Token width D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor | None]:
        """ẑ1 and ẑ2, both (B, N, D) → z̃ (B, N, D) and the plan T̃ (B, N, N), ``None`` where there is no plan."""


transports: Registry[type[Transport]] = Registry("transports")


def new_transport(name: str, width: int, options: Mapping[str, Any]) -> Transport:
    """The transport of a registered name or class path.

    Raises:
        TransporterError: If the name is unknown, or it has no such option (lists those that it has).
    """
    kind = transports.get(name)
    accepted = [p for p in inspect.signature(kind).parameters if p != "width"]
    unknown = [o for o in options if o not in accepted]
    if unknown:
        known = ", ".join(accepted) or "none"
        msg = f"transport_options: {name!r} has no option {unknown[0]!r}; it has: {known}"
        raise TransporterError(msg)
    return kind(width, **options)
