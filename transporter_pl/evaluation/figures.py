"""What an evaluation measured: the figures of its cells, and the table that they make."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import fmean, stdev
from typing import Any, Literal

import transporter_pl

PACKAGES = ("torch", "transformers", "diffusers", "lightning", "torchmetrics")


@dataclass(frozen=True)
class Figures:
    """The figures of one cell.

    Attributes:
        values: Of every column, its value; ``None`` where it could not be computed.
        missing: Of every such column, what is missing and how to get it.
    """

    values: dict[str, float | None]
    missing: dict[str, str]


@dataclass(frozen=True)
class Heading:
    """What stands above a column.

    Attributes:
        name: Name of the column, as in the config.
        label: The same for readers.
        better: Where better figures lie; ``None`` where neither is better.
        decimals: Digits after the point.
        note: What readers must know, such as the features that a distance is measured on; empty for nothing.
    """

    name: str
    label: str
    better: Literal["up", "down"] | None
    decimals: int
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """What one method drew for one VLM with one seed, in figures.

    Attributes:
        vlm: Name of the VLM.
        row: Key of the row.
        seed: The seed.
        figures: What was measured.
        seconds: Wall-clock time of the drawing.
        forwards: The VLM's forward passes a video.
    """

    vlm: str
    row: str
    seed: int
    figures: Figures
    seconds: float
    forwards: int


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: Its mean.
        deviation: Its sample standard deviation; ``None`` of a single seed.
        count: Number of seeds.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Table:
    """Rows of methods, grouped by VLM, over columns of figures; a cell that has not run yet is not there.

    Attributes:
        title: What the table shows.
        columns: Their headings, in order.
        cells: All that have run, of every VLM, row and seed.
        rows: Key of every row → its label, in order.
        vlms: Names of the VLMs, in order.
        settings: What the table was computed with.
        versions: Of the packages, see ``versions``.
        reference_rows: Keys of rows that are measured for comparison, such as real clips; they are never the best.
    """

    title: str
    columns: tuple[Heading, ...]
    cells: tuple[Cell, ...]
    rows: dict[str, str]
    vlms: tuple[str, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    reference_rows: tuple[str, ...] = ()

    def of(self, vlm: str, row: str) -> tuple[Cell, ...]:
        """The cells of a row: one a seed that has run."""
        return tuple(cell for cell in self.cells if (cell.vlm, cell.row) == (vlm, row))

    def spread(self, vlm: str, row: str, column: str) -> Spread | None:
        """Mean and deviation over the seeds that have the figure; ``None`` where none has."""
        figures = (cell.figures.values.get(column) for cell in self.of(vlm, row))
        values = [value for value in figures if value is not None]
        if not values:
            return None
        return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def best(self, vlm: str, heading: Heading) -> frozenset[str]:
        """The rows whose mean, as it is printed, is the best of the VLM's; none where fewer than two compete."""
        spreads = {row: self.spread(vlm, row, heading.name) for row in self.rows if row not in self.reference_rows}
        means = {row: round(spread.mean, heading.decimals) for row, spread in spreads.items() if spread is not None}
        if heading.better is None or len(means) < 2:
            return frozenset()
        best = (max if heading.better == "up" else min)(means.values())
        return frozenset(row for row, mean in means.items() if mean == best)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON has it, with means and deviations beside the cells."""
        names = [heading.name for heading in self.columns]
        spreads = {
            vlm: {row: {name: _plain(self.spread(vlm, row, name)) for name in names} for row in self.rows}
            for vlm in self.vlms
        }
        return {**asdict(self), "spreads": spreads}


def versions() -> dict[str, str]:
    """Versions of what computed the figures: ours, Python's, and those of the libraries; nothing is imported."""
    libraries = {package: version(package) for package in PACKAGES}
    return {"transporter-pl": transporter_pl.__version__, "python": platform.python_version(), **libraries}


def _plain(spread: Spread | None) -> dict[str, float | int | None] | None:
    return None if spread is None else asdict(spread)
