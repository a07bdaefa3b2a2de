"""The loop that writes a cache's shards, in one process or in one of several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.data import DataLoader, Dataset

from transporter_pl.datamodules.cache.encoder import ClipEncoder
from transporter_pl.datamodules.cache.index import finished
from transporter_pl.datamodules.cache.key import Manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.shards import ShardWriter, shard_name
from transporter_pl.datamodules.clips import BrokenClip, CaptionedClips, ReadClip
from transporter_pl.errors import TransporterError
from transporter_pl.loading import find_device

WAIT = timedelta(days=30)  # processes wait for the slowest of them at the end
COUNTED = 60.0  # seconds from one count of the folder's shards to the next, as there may be many


def launched(device: str, devices: int, nodes: int) -> Fabric:
    """Lightning's Fabric over the processes, which it starts unless torchrun or SLURM did.

    Raises:
        TransporterError: If there are not so many GPUs, or nothing has started the other nodes' processes.
    """
    if nodes > 1 and not {"MASTER_ADDR", "SLURM_JOB_ID"} & os.environ.keys():
        msg = f"nodes: {nodes}, but nothing starts processes there; run the command by torchrun or srun on all of them"
        raise TransporterError(msg)
    place = find_device(device)
    there = torch.cuda.device_count()
    if place.type == "cuda" and devices > there:
        msg = f"devices: {devices}, but this machine has {there} GPU(s); give at most that, or device: cpu"
        raise TransporterError(msg)
    # nothing is exchanged but who is done: no need of NCCL, whose patience is short
    strategy = "auto" if devices * nodes == 1 else DDPStrategy(process_group_backend="gloo", timeout=WAIT)
    chosen = [place.index] if place.index is not None and devices == 1 else devices
    fabric = Fabric(accelerator=place.type, devices=chosen, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def write_shards(
    folder: Path, manifest: Manifest, data: CaptionedClips, encoder: ClipEncoder, fabric: Fabric, num_workers: int
) -> None:
    """Write the shards that are not there yet, as far as they are this process's.

    Raises:
        TransporterError: If a shard can't be written.
    """
    # asked by one process, before any writes another shard
    done = fabric.broadcast(finished(Place(folder), manifest) if fabric.is_global_zero else set())
    mine = [number for number in range(manifest.shards) if number not in done][fabric.global_rank :: fabric.world_size]
    batches = _batches(data, manifest, mine, encoder.batch_size, num_workers)
    parent = os.getppid() if fabric.global_rank else None
    # a shard is hashed and written while the next one is encoded
    with _Watch(folder, manifest, fabric.is_global_zero) as watch, ThreadPoolExecutor(1) as behind:
        written: Future[None] | None = None
        for number in mine:
            writer = ShardWriter(manifest.shapes, manifest.key.storage)
            for _ in _chunks(manifest.rows(number), encoder.batch_size):
                _check_parent(parent)
                read = next(batches)
                _add(writer, encoder, read)
                watch.advance_by(len(read))
            if written is not None:
                written.result()  # at most two shards are in memory
            written = behind.submit(writer.write, folder, number)
        if written is not None:
            written.result()
        watch.count()


def _check_parent(parent: int | None) -> None:
    """End a process whose starter was killed, as nothing else ends it; the first process's may well be gone."""
    if parent not in (None, os.getppid()):
        raise SystemExit(1)


def _add(writer: ShardWriter, encoder: ClipEncoder, read: Sequence[ReadClip | BrokenClip]) -> None:
    """Encode the clips of a batch that could be read, and note the others."""
    clips = [clip for clip in read if isinstance(clip, ReadClip)]
    writer.leave_out([clip for clip in read if isinstance(clip, BrokenClip)])
    if clips:
        encoded, broken = encoder(clips)
        writer.add(encoded)
        writer.leave_out(broken)


def _batches(
    data: CaptionedClips, manifest: Manifest, shards: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[list[ReadClip | BrokenClip]]:
    """What is read of the clips of some shards; no batch reaches over the end of its shard."""
    order = [list(rows) for number in shards for rows in _chunks(manifest.rows(number), batch_size)]
    return iter(DataLoader(_Tolerant(data), batch_sampler=order, collate_fn=list, num_workers=num_workers))


def _chunks(rows: range, size: int) -> list[range]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


class _Tolerant(Dataset[ReadClip | BrokenClip]):
    """The clips, with a note in the place of each that can't be read."""

    def __init__(self, data: CaptionedClips) -> None:
        self.data = data

    def __getitem__(self, index: int) -> ReadClip | BrokenClip:
        try:
            return self.data[index]
        except TransporterError as error:
            return BrokenClip(self.data.clips[index].id, str(error))


class _Watch(Progress):
    """Shows the clips that all processes are done with: every now and then it counts the shards that are there."""

    def __init__(self, folder: Path, manifest: Manifest, shown: bool) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Throughput()
        super().__init__(*columns, TimeRemainingColumn(), disable=not shown)
        self._folder, self._manifest = folder, manifest
        self._bar = self.add_task("encoding", total=manifest.clips)
        self.count()

    def advance_by(self, clips: int) -> None:
        """After a batch of this process."""
        self.advance(self._bar, clips)
        if time.monotonic() - self._counted > COUNTED:
            self.count()

    def count(self) -> None:
        """See what the other processes have done, too."""
        self._counted = time.monotonic()
        if not self.disable:
            self.update(self._bar, completed=self._finished())

    def _finished(self) -> int:
        there = {file.name for file in self._folder.iterdir()}
        numbers = (number for number in range(self._manifest.shards) if shard_name(number) in there)
        return sum(len(self._manifest.rows(number)) for number in numbers)


class _Throughput(ProgressColumn):
    """Clips a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} clips/s")
