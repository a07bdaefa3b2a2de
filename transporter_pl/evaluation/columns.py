"""The port of a table's columns, their registry, and how what a method drew becomes figures."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from traceback import format_exception
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.figures import Figures, Heading
from transporter_pl.options import check_options, plugin_class, resolved
from transporter_pl.registry import Registry

if TYPE_CHECKING:
    from torchmetrics import Metric

    from transporter_pl.evaluation.samples import Judged

log = logging.getLogger(__name__)

BATCH = 8  # videos that a metric is shown at once; what I3D's activations cost is no matter of a table's settings

AnyMetric = TypeVar("AnyMetric", bound="Metric")
Options = Mapping[str, Mapping[str, Any]]  # name or class path of every column → its options


class Column(ABC):
    """One figure of what a method drew; a subclass may take options, of plain types.

    Attributes:
        label: What readers call it.
        better: Where better figures lie; ``None`` where neither is better.
        decimals: Digits after the point.
    """

    label: ClassVar[str]
    better: ClassVar[Literal["up", "down"] | None] = None
    decimals: ClassVar[int] = 2

    @property
    def note(self) -> str:
        """What readers must know of the figure; by default nothing."""
        return ""

    @abstractmethod
    def measure(self, judged: Judged) -> float:
        """The figure.

        Raises:
            TransporterError: If it can't be computed: weights or a program are not here, or the videos do not suit it.
        """


columns: Registry[type[Column]] = Registry("columns")


def new_columns(options: Options) -> dict[str, Column]:
    """The columns of registered names or class paths; no weights are read.

    Raises:
        TransporterError: If there is none, a name is unknown or another kind of thing, it has no such option (lists
            those that it has), or an option is wrong.
    """
    if not options:
        msg = f"columns: none is given; give some of {', '.join(columns.names())}, each with its options or {{}}"
        raise TransporterError(msg)
    return {name: _new_column(name, given) for name, given in options.items()}


def all_options(options: Options) -> dict[str, dict[str, Any]]:
    """Options of every column with the defaults of those that are not given, so that a changed default is told.

    Raises:
        TransporterError: If a name is unknown, or another kind of thing.
    """
    return {name: resolved(plugin_class(columns, Column, "columns", name), given) for name, given in options.items()}


def headings(options: Options) -> tuple[Heading, ...]:
    """What stands above the columns, in their order.

    Raises:
        TransporterError: As ``new_columns``.
    """
    return tuple(
        Heading(name, column.label, column.better, column.decimals, column.note)
        for name, column in new_columns(options).items()
    )


@torch.no_grad()
def measure(options: Options, judged: Judged) -> Figures:
    """Every column's figure; one that can't be computed, or comes out as no number, is ``None`` and says why.

    Args:
        options: Name or class path of every column → its options.
        judged: What one method drew for one VLM with one seed, and what to judge it by.

    Raises:
        TransporterError: As ``new_columns``.
    """
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for name, column in new_columns(options).items():
        try:
            value = float(column.measure(judged))
        except Exception as error:  # one column's trouble is no other's
            values[name], missing[name] = None, _in_words(name, error)
            continue
        values[name] = value if math.isfinite(value) else None
        if values[name] is None:
            missing[name] = f"it came out as {value}"
    return Figures(values, missing)


def _in_words(name: str, error: Exception) -> str:
    """What to say of an error in a column; where it is a bug of the column's, the log tells its place."""
    if isinstance(error, TransporterError):
        return str(error)
    _log_once(f"column {name} could not be computed\n{''.join(format_exception(error))}")
    return f"{type(error).__name__}: {error}"


@cache
def _log_once(text: str) -> None:
    """A bug is the same in every cell."""
    log.warning(text)


def batches(device: torch.device, *inputs: Tensor | Sequence[str]) -> Iterator[list[Any]]:
    """Inputs of equal length, a few videos at a time, on a device."""
    for first in range(0, len(inputs[0]), BATCH):
        parts = (part[first : first + BATCH] for part in inputs)
        yield [part.to(device) if isinstance(part, Tensor) else list(part) for part in parts]


def fed(metric: AnyMetric, device: torch.device, *inputs: Tensor | Sequence[str], **fixed: bool) -> AnyMetric:
    """The metric on a device, after it has been shown the inputs.

    Args:
        metric: A metric.
        device: Where it computes.
        inputs: What its ``update`` takes, K of each.
        fixed: What else it takes, the same every time.
    """
    metric = metric.to(device)
    for parts in batches(device, *inputs):
        metric.update(*parts, **fixed)
    return metric


def real_clips(judged: Judged) -> Tensor:
    """The cases' real clips of ε+, (K, T, 3, H, W)."""
    return torch.stack([case.real for case in judged.cases])


def wanted(judged: Judged) -> list[str]:
    """The cases' captions ε+."""
    return [case.captions[1] for case in judged.cases]


def _new_column(name: str, options: Mapping[str, Any]) -> Column:
    kind = plugin_class(columns, Column, "columns", name)
    if not isinstance(getattr(kind, "label", None), str):
        msg = f"columns.{name}: {kind.__name__} has no label; give the class one, which stands above its figures"
        raise TransporterError(msg)
    check_options("column", name, kind, options, place=f"columns.{name}")
    return kind(**options)
