"""The port of the transports, their registry, and how a name in a config becomes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from transporter_pl.options import check_first, check_options, plugin_class
from transporter_pl.precision import full_precision
from transporter_pl.registry import Registry

Source = Literal["first", "second", "reencoded"]


class Transport(nn.Module, ABC):
    """Merges ẑ1, the tokens of Φ_Ω1, and ẑ2, those of Φ_Ω2, into z̃.

    Tokens are standardised per feature, so projections and distances have unit scale.

    Args:
        width: Token width D.

    Attributes:
        reads: What it takes, in this order: ``first`` is ẑ1, ``second`` ẑ2, ``reencoded`` z_Ξ→Ω. A part of Φ that is
            not read is not built.
    """

    reads: ClassVar[tuple[Source, ...]] = ("first", "second")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def forward(self, *tokens: Any, **options: Any) -> Tensor:  # noqa: ANN401  (each names those that it reads)
        """What ``reads`` names, each (B, N, D) → z̃ (B, N, D), differentiable."""

    def plan(self, *tokens: Any, **options: Any) -> Tensor | None:  # noqa: ANN401  (each names those that it reads)
        """T̃ (B, N source tokens i, N target tokens j) to look at, ``None`` where there is none."""
        return None


class PlanTransport(Transport):
    """A transport by a plan, z̃_j = Σ_i T̃_ij ẑ1_i; a subclass says how the plan is made.

    Args:
        width: Token width D.
    """

    @abstractmethod
    def plan(self, first: Tensor, second: Tensor) -> Tensor:
        """ẑ1 and ẑ2 (B, N, D), at least float32 → T̃ (B, N_i, N_j), every column sums to 1."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """ẑ1 and ẑ2 (B, N, D) → z̃ (B, N, D); at least float32 inside, whatever the autocast."""
        with full_precision(first, second) as (source, target):
            return (self.plan(source, target).mT @ source).to(first.dtype)


transports: Registry[type[Transport]] = Registry("transports")


def new_transport(name: str, width: int, options: Mapping[str, Any]) -> Transport:
    """The transport of a registered name or class path.

    Raises:
        TransporterError: If the name is unknown or another kind of thing, it has no such option (lists those that it
            has), or an option is of another type than it takes.
    """
    kind = plugin_class(transports, Transport, "transport", name)
    check_first("transport", kind, "width", "the width D of a token")
    check_options("transport", name, kind, options, ["width"])
    return kind(width, **options)
