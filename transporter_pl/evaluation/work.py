"""Draws and measures the cells of an evaluation, in this process or in several."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from time import monotonic
from typing import Any, Literal

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.cases import ReferenceClips
from transporter_pl.evaluation.cells import add_figures, held, store, stored, stored_figures
from transporter_pl.evaluation.columns import measure
from transporter_pl.evaluation.plan import Job, Plan
from transporter_pl.evaluation.samples import Drawn, Judged
from transporter_pl.evaluation.studio import Studio
from transporter_pl.loading import load_generator

ERROR = "error.txt"
GRACE = 60.0  # seconds that the processes have for a last checkpoint


@dataclass(frozen=True)
class Event:
    """What became of a cell.

    Attributes:
        state: Whether it was begun, is done or failed; a ``note`` is none of these.
        name: Name of the cell, or of what the note is about.
        said: What went wrong.
    """

    state: Literal["begun", "done", "failed", "note"]
    name: str
    said: str = ""


def work(plan: Plan, device: torch.device) -> Iterator[Event]:
    """Draw and measure all cells that nobody else is at; one that fails does not end the others."""
    notes: list[str] = []
    generator = cache(partial(load_generator, plan.setup.generator, plan.setup.video, device))
    references = ReferenceClips(plan.data, plan.selection.references, notes.append)
    for name, explained in plan.vlms.items():
        studio = Studio(plan.setup, explained, generator, references, plan.out, device)
        for job in (job for job in plan.jobs if job.vlm == name):
            with held(job.folder) as mine:
                if mine and not plan.is_done(job) and not _was_tried(plan, job):
                    yield Event("begun", job.name)
                    yield _tried(plan, job, studio)
            yield from (Event("note", "references", notes.pop()) for _ in list(notes))
        del studio
        gc.collect()  # a Trainer and its stage hold each other, and with them the VLM: the next may need its memory


def _was_tried(plan: Plan, job: Job) -> bool:
    """Whether another process of this call has failed at a cell, or died of it: one more would, too."""
    file = job.folder / ERROR
    return file.is_file() and file.read_text(encoding="utf-8").startswith(plan.call)


def _tried(plan: Plan, job: Job, studio: Studio) -> Event:
    """Do one cell; whatever goes wrong is that cell's alone, and its traceback stays in the folder."""
    file = job.folder / ERROR
    file.write_text(f"{plan.call}\nunder way, or its process was killed in the midst of it\n", encoding="utf-8")
    try:
        _perform(plan, job, studio)
    except Exception as error:
        file.write_text(f"{plan.call}\n{traceback.format_exc()}", encoding="utf-8")
        said = str(error) if isinstance(error, TransporterError) else f"{type(error).__name__}: {error}; see {file}"
        return Event("failed", job.name, said)
    file.unlink()
    return Event("done", job.name)


def _perform(plan: Plan, job: Job, studio: Studio) -> None:
    cases = plan.selection.cases
    if stored(job.folder, job.settings) is None:
        drawn = plan.methods[job.row].draw(studio, cases, job.seed, job.folder)
        store(job.folder, job.settings, drawn.video, _facts(drawn))
    drawn = plan.drawn(job)
    known = stored_figures(job.folder, plan.measured).values
    asked = {name: options for name, options in plan.measured.items() if name not in known}
    judged = Judged(cases, drawn, studio.starts(cases, job.seed), studio.references, studio.vlm)
    add_figures(job.folder, asked, measure(asked, judged))


def _facts(drawn: Drawn) -> dict[str, Any]:
    facts = {name: value for name, value in vars(drawn).items() if name != "video"}
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in facts.items()}


# -- several processes ------------------------------------------------------------------------------------------------


def spread_work(plan: Plan, devices: Sequence[torch.device]) -> Iterator[Event]:
    """``work`` in as many processes as there are devices, each with its share of the threads.

    They end with this one, however it ends.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // len(devices))
    crew: dict[Connection, BaseProcess] = {}
    try:
        for device in devices:
            ours, theirs = spawn.Pipe(duplex=False)
            # a copy of the plan has not read the clips yet: sent along, they would need as much shared memory again
            crew[ours] = spawn.Process(target=_member, args=(replace(plan), device, threads, theirs))
            crew[ours].start()
            theirs.close()  # so that ours ends when the process does
        yield from _heard(crew)
    finally:
        for process in crew.values():
            process.terminate()
        deadline = monotonic() + GRACE
        for process in crew.values():
            process.join(max(0.0, deadline - monotonic()))
            process.kill()  # what is half-written was written aside
            process.join()


def _member(plan: Plan, device: torch.device, threads: int, end: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    for event in work(plan, device):
        end.send(event)


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, be it killed, and end this one as SIGTERM would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _heard(crew: Mapping[Connection, BaseProcess]) -> Iterator[Event]:
    """What the processes say, until all have ended; one that dies takes the cell with it that it was at."""
    at = dict.fromkeys(crew, "a process")
    while at:
        said = wait(list(at))
        for end in [end for end in at if end in said]:
            try:
                event: Event = end.recv()
            except EOFError:
                crew[end].join()
                if crew[end].exitcode:
                    yield Event("failed", at[end], f"its process ended with exit code {crew[end].exitcode}")
                del at[end]
                continue
            if event.state == "begun":
                at[end] = event.name
            yield event
