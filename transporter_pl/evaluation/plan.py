"""Everything that an evaluation shall do, and how far it has come, by its folders alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.cases import Selection, Source, choose
from transporter_pl.evaluation.cells import (
    CONTENTS,
    computed_with,
    content_of,
    digest,
    stored,
    stored_figures,
    stored_video,
)
from transporter_pl.evaluation.columns import all_options, headings
from transporter_pl.evaluation.figures import Cell, Heading, Table, versions
from transporter_pl.evaluation.methods.base import Method, new_method
from transporter_pl.evaluation.methods.real import Real
from transporter_pl.evaluation.pages import Comparison, compare
from transporter_pl.evaluation.samples import Drawn
from transporter_pl.evaluation.setup import Explained, Row, Setup
from transporter_pl.evaluation.studio import STARTS, clips_folder, plain_spec, shared_settings, told_cases
from transporter_pl.options import resolved


@dataclass(frozen=True)
class Job:
    """One cell of the table: what one row draws for one VLM with one seed.

    Attributes:
        vlm: Name of the VLM.
        row: Key of the row.
        seed: The seed.
        folder: Where it is kept.
        settings: All that its drawing depends on.
    """

    vlm: str
    row: str
    seed: int
    folder: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """For readers."""
        return f"{self.vlm}, {self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """An evaluation.

    Attributes:
        title: Title of the table.
        data: The captioned clips.
        setup: What all rows share.
        vlms: The VLMs that are explained, by name.
        rows: The rows of the table, by key.
        columns: Name or class path of every column → its options.
        scenes: Cases a pair.
        seeds: Number of seeds.
        references: Reference clips.
        out: Folder of everything.
        call: Name of the call, of which there is no other.
    """

    title: str
    data: Source
    setup: Setup
    vlms: dict[str, Explained]
    rows: dict[str, Row]
    columns: dict[str, dict[str, Any]]
    scenes: int
    seeds: int
    references: int
    out: Path
    call: str

    @property
    def slug(self) -> str:
        """The title in letters, digits and dashes."""
        return re.sub(r"\W+", "-", self.title).strip("-").lower()

    @property
    def folder(self) -> Path:
        """Folder of the table."""
        return self.out / self.slug

    @cached_property
    def selection(self) -> Selection:
        """The clips.

        Raises:
            TransporterError: As ``choose``.
        """
        return choose(self.data, self.setup.pairs, self.scenes, self.references)

    @cached_property
    def methods(self) -> dict[str, Method]:
        """The method of every row.

        Raises:
            TransporterError: As ``new_method`` (names the row).
        """
        found = {}
        for key, row in self.rows.items():
            try:
                found[key] = new_method(row.method, row.options)
            except TransporterError as error:
                msg = f"rows.{key}: {error}"
                raise TransporterError(msg) from error
        return found

    @cached_property
    def measured(self) -> dict[str, dict[str, Any]]:
        """All options of every column.

        Raises:
            TransporterError: As ``all_options``.
        """
        return all_options(self.columns)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """All cells: VLM by VLM, as each is loaded once, and seed by seed, so that every row has a figure soon."""
        keys = [(vlm, row, seed) for vlm in self.vlms for seed in range(self.seeds) for row in self.rows]
        return tuple(Job(*key, self.out / key[0] / key[1] / f"seed{key[2]}", self._settings(*key)) for key in keys)

    def is_done(self, job: Job) -> bool:
        """Whether a cell is drawn, and all columns of it are measured.

        Raises:
            TransporterError: If it was drawn with other settings, or can't be read.
        """
        if stored(job.folder, job.settings) is None:
            return False
        return len(stored_figures(job.folder, self.measured).values) == len(self.columns)

    def drawn(self, job: Job) -> Drawn:
        """What a cell holds that is drawn."""
        facts: dict[str, Any] = stored(job.folder, job.settings) or {}
        said = {**facts, "captions": tuple(facts["captions"])}
        said |= {name: torch.tensor(facts[name]) for name in ("positive", "start")}
        return Drawn(stored_video(job.folder), **said)

    def pages(self) -> Iterator[Comparison]:
        """What all rows have drawn so far with the first seed, side by side; no more than one VLM's is held."""
        for name in self.vlms:
            first = [job for job in self.jobs if (job.vlm, job.seed) == (name, 0) and self.is_done(job)]
            drawn = {job.row: self.drawn(job) for job in first}
            real = next((drawn.pop(key) for key in list(drawn) if isinstance(self.methods[key], Real)), None)
            labelled = {self.rows[key].label or key: one for key, one in drawn.items()}
            if labelled:
                start = stored_video(clips_folder(self.out, STARTS, 0))
                yield from compare(name, self.selection.cases, start, labelled, self.setup.video.fps, real)

    def table(self) -> Table:
        """What is drawn so far, with the figures that there are."""
        cells, done = [], []
        for job in self.jobs:
            facts = stored(job.folder, job.settings)
            if facts is None:
                continue
            done.append(job)
            found = stored_figures(job.folder, self.measured)
            cells.append(Cell(job.vlm, job.row, job.seed, found, facts["seconds"], facts["forwards"]))
        return Table(
            title=self.title,
            columns=self._headings,
            cells=tuple(cells),
            rows={key: row.label or key for key, row in self.rows.items()},
            vlms=tuple(self.vlms),
            settings=self._told(),
            versions=self._versions(done),
            reference_rows=tuple(key for key, method in self.methods.items() if method.reference),
        )

    def _versions(self, done: list[Job]) -> dict[str, str]:
        """Those that have drawn and measured."""
        told = [one for job in done for one in computed_with(job.folder, self.measured)]
        found = {name: dict.fromkeys(one[name] for one in told if name in one) for name in versions()}
        return {name: " / ".join(values) for name, values in found.items() if values}

    @cached_property
    def _headings(self) -> tuple[Heading, ...]:
        return headings(self.columns)

    def _settings(self, vlm: str, row: str, seed: int) -> dict[str, Any]:
        """All that a drawing depends on, as JSON holds it."""
        method, shared = self.methods[row], shared_settings(self.setup, self.selection.cases, seed)
        trained: dict[str, Any] = {need: self._contents[vlm, need] for need in method.needs}
        options = resolved(type(method), self.rows[row].options)
        drawn = {"vlm": plain_spec(self.vlms[vlm].vlm), "method": self.rows[row].method, "options": options}
        return {**method.settings(self.setup), **shared, **drawn, **trained, "references": self._references}

    @cached_property
    def _contents(self) -> dict[tuple[str, str], str]:
        """What is in the folders that were made for each VLM, of those that are given."""
        given = [(name, need, getattr(explained, need)) for name, explained in self.vlms.items() for need in CONTENTS]
        return {(name, need): content_of(need, place) for name, need, place in given if place is not None}

    @cached_property
    def _references(self) -> str:
        ids = [self.data.clips[row].id for row in self.selection.references]
        return f"{len(ids)} clips, {digest(name.encode() for name in ids)}"

    def _told(self) -> dict[str, Any]:
        """The settings as a reader of the table wants them."""
        return {
            **asdict(self.setup),
            "data": type(self.data).__qualname__,
            "scenes": self.scenes,
            "cases": told_cases(self.selection.cases),
            "seeds": self.seeds,
            "references": self._references,
            "vlms": {name: asdict(explained) for name, explained in self.vlms.items()},
            "rows": {key: asdict(row) for key, row in self.rows.items()},
            "columns": self.columns,
        }
