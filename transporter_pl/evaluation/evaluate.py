"""``transporter evaluate``: every method draws, for every VLM and seed; the figures of it are a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from transporter_pl.concepts.pairs import Pair, pairs_of
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.evaluation.cases import Source
from transporter_pl.evaluation.cells import forget_missing, stored
from transporter_pl.evaluation.columns import new_columns
from transporter_pl.evaluation.figures import Table
from transporter_pl.evaluation.methods.trained import TRAINED
from transporter_pl.evaluation.pages import INDEX, write_pages
from transporter_pl.evaluation.plan import Plan
from transporter_pl.evaluation.setup import Explained, Row, Setup
from transporter_pl.evaluation.studio import ENDS, STARTS, clips_folder, shared_settings
from transporter_pl.evaluation.tables import console_tables, footnotes, write_tables
from transporter_pl.evaluation.work import Event, spread_work, work
from transporter_pl.files import check_folder
from transporter_pl.loading import BackboneSpec, find_device, pair_shapes

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # of a VLM or a row: it becomes a folder's
TAKEN = STARTS, ENDS, TRAINED  # folders of what rows share


def evaluate(
    data: Source,
    generator: BackboneSpec,
    vlms: dict[str, Explained],
    rows: dict[str, Row],
    columns: dict[str, dict[str, Any] | None],
    pairs: list[Pair | str],
    title: str,
    out: Path,
    scenes: int = 4,
    seeds: int = 3,
    steps: int = 20,
    references: int = 256,
    batch_size: int = 8,
    processes: int = 1,
    device: str = "auto",
) -> Table:
    """Have every method draw what makes a VLM say the positive word, and write a table of how good that is.

    A cell of the table, one row of one VLM with one seed, leaves ``out``/<vlm>/<row>/seed<k>. What is there already,
    with the same settings, is taken as it is: a call that was interrupted goes on where it stopped, a table with other
    columns takes the drawings over, and several calls on one folder share the work.

    Args:
        data: The captioned clips, from which cases and references are taken, in the geometry that all videos have.
        generator: The generator, the same for all VLMs.
        vlms: Name → a VLM, and what was trained for it.
        rows: Key → the method that draws, its label and its options.
        columns: Name of every figure → its options, if it has any.
        pairs: Contrasts, "left:right".
        title: Title of the table; its files lie in a folder of that name.
        out: Folder of everything.
        scenes: Cases a pair: clips whose caption holds the positive word.
        seeds: Number of seeds, 0, 1, ….
        steps: Denoising steps of everything that the generator draws.
        references: At most so many real clips beside the cases', against which distributions are measured.
        batch_size: Videos drawn, decoded and read at once; fewer need less memory.
        processes: Processes that share the cells, on GPUs one each in turn.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPUs if there are any.

    Returns:
        The table.

    Raises:
        TransporterError: Before any weight is loaded, if a name, an option, a count or a clip is wrong, a row lacks
            what it needs, or ``out`` can't be written or holds cells of other settings; after all others, if cells
            failed (names them).
    """
    check_counts(scenes=scenes, seeds=seeds, steps=steps, references=references)
    check_counts(batch_size=batch_size, processes=processes)
    asked = {name: options or {} for name, options in columns.items()}
    new_columns(asked)  # what is wrong with them is told before the work that they are to measure
    check_folder("out", out)
    setup = Setup(generator, data.video, tuple(pairs_of(pairs)), steps, batch_size)
    plan = Plan(title, data, setup, vlms, rows, asked, scenes, seeds, references, out, uuid4().hex)
    _check_names(plan)
    _check_rows(plan)
    places = _places(device, processes)
    console = Console(highlight=False, markup=False)
    for line in (*(f"left out: {said}" for said in plan.selection.skipped), *plan.selection.doubts):
        console.print(line, soft_wrap=True)
    try:
        failed = _carry_out(plan, places, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; what is drawn is in {plan.out}, and the same call goes on", soft_wrap=True)
        raise
    return _finish(plan, failed, console)


def _check_names(plan: Plan) -> None:
    """Refuse names that can't be folders, and a table without rows, VLMs or pairs."""
    for field, given in (("pairs", plan.setup.pairs), ("vlms", plan.vlms), ("rows", plan.rows)):
        if not given:
            msg = f"{field}: none; give at least one"
            raise TransporterError(msg)
    if not plan.slug or plan.slug in TAKEN:
        msg = f"title: {plan.title!r} names the folder of the table; give it a letter or a digit, and none of "
        raise TransporterError(msg + f"{', '.join(TAKEN)}, which are taken")
    for field, names, taken in (("vlms", plan.vlms, (*TAKEN, plan.slug)), ("rows", plan.rows, ())):
        for name in names:
            if not isinstance(name, str) or not NAME.fullmatch(name) or name in taken:  # YAML reads 200 as a number
                msg = f"{field}: {name!r} names a folder; use letters, digits, _, . and -, in quotes if digits alone"
                so = f", and none of {', '.join(taken)}, the title's and others', which are taken" if taken else ""
                raise TransporterError(msg + so)
    labels = [row.label or key for key, row in plan.rows.items()]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        msg = f"rows: two are called {twice!r}; give each a label of its own"
        raise TransporterError(msg)


def _check_rows(plan: Plan) -> None:
    """Hold every row against every VLM, by what is known before weights are loaded, and against what is there."""
    for name, explained in plan.vlms.items():
        try:
            pair_shapes(plan.setup.generator, explained.vlm, plan.setup.video)
        except TransporterError as error:
            msg = f"vlms.{name}, or generator: {error}"
            raise TransporterError(msg) from error
        for key, method in plan.methods.items():
            try:
                method.check(explained, plan.setup)
            except TransporterError as error:
                msg = f"rows.{key} with vlms.{name}: {error}"
                raise TransporterError(msg) from error
    _check_out(plan)


def _check_out(plan: Plan) -> None:
    """Refuse cells of other settings, all at once."""
    refused: dict[str, str] = {}
    for seed, place in product(range(plan.seeds), (STARTS, ENDS)):
        try:
            stored(clips_folder(plan.out, place, seed), shared_settings(plan.setup, plan.selection.cases, seed))
        except TransporterError as error:
            refused[f"{place}, seed {seed}"] = str(error)
    for job in plan.jobs:
        try:
            plan.is_done(job)
        except TransporterError as error:
            refused[job.name] = str(error)
    if refused:
        others = list(refused)[1:]
        so = f". The same holds for {len(others)} more: {'; '.join(others)}" if others else ""
        raise TransporterError(next(iter(refused.values())) + so)


def _places(device: str, processes: int) -> list[torch.device]:
    """A device for every process."""
    gpus = torch.cuda.device_count() if device in {"auto", "cuda"} else 0
    return [torch.device("cuda", k % gpus) if gpus else find_device(device) for k in range(processes)]


def _carry_out(plan: Plan, places: list[torch.device], console: Console) -> list[str]:
    """Do what is not done, and write the table after every cell; returns what failed."""
    for job in plan.jobs:
        forget_missing(job.folder, plan.measured)
    done = sum(map(plan.is_done, plan.jobs))
    if done:
        console.print(f"{done} of {len(plan.jobs)} cells are taken as earlier calls left them", soft_wrap=True)
    if done == len(plan.jobs):
        return []
    events = work(plan, places[0]) if len(places) == 1 else spread_work(plan, places)
    failed: dict[str, str] = {}
    for event in _shown(events, plan, done, console):
        if event.state == "done":
            write_tables(plan.folder, plan.table())
        elif event.state == "failed":
            failed.setdefault(event.name, event.said)
    return [f"{name}: {said}" for name, said in failed.items()]


def _shown(events: Iterable[Event], plan: Plan, done: int, console: Console) -> Iterator[Event]:
    """The events, shown as they pass by, after so many cells that were done before."""
    parts = (
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    under_way: dict[str, None] = {}
    with Progress(*parts, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(plan.jobs), completed=done)
        for event in events:
            if event.state == "begun":
                under_way[event.name] = None
            else:
                under_way.pop(event.name, None)
            if event.state in {"failed", "note"}:
                console.print(f"{event.name}: {event.said}", soft_wrap=True)
            bar.update(task, advance=event.state == "done", description="; ".join(under_way))
            if event.state == "done" and not console.is_terminal:  # a file has no bar
                shown = bar.tasks[0]
                console.print(f"{shown.completed:.0f}/{shown.total:.0f} {event.name}", soft_wrap=True)
            yield event


def _finish(plan: Plan, failed: list[str], console: Console) -> Table:
    """Write and print the table.

    Raises:
        TransporterError: If cells failed.
    """
    table, index = plan.table(), plan.folder / INDEX
    written = write_tables(plan.folder, table)
    if not index.is_file() or index.stat().st_mtime_ns < written.stat().st_mtime_ns:  # of what was there before
        try:
            write_pages(plan.folder, plan.pages(), table)
        except TransporterError as error:
            failed = [*failed, f"pages: {error}"]
    for part in console_tables(table, console):
        console.print(part)
    for line in footnotes(table):
        console.print(line, soft_wrap=True)
    beside = f"; side by side in {index}" if any(plan.folder.glob(f"*/*/{INDEX}")) else ""
    console.print(f"written to {plan.folder}{beside}", soft_wrap=True)
    left = len(plan.jobs) - sum(map(plan.is_done, plan.jobs))
    if failed:
        others = "The others are done; the" if left < len(plan.jobs) else "The"
        msg = f"rows: {'; '.join(failed)}. {others} same call tries these again"
        raise TransporterError(msg)
    if left:
        console.print(f"{left} of {len(plan.jobs)} cells are under way in another call", soft_wrap=True)
    return table
