"""The latent cache: how fast a training reads from it, and how its start-up grows with it.

    python benchmarks/cache.py        # some ten minutes; 3 GB of disk
    python benchmarks/cache.py --fast # small files, to see that everything runs

Reading: batches of eight from the data module's loader, in the order of a training, against the same files read one
after another into a buffer of a batch's size, all from the page cache; rows take turns, medians of their ratios count.
Start-up: opening the data module, shuffling and the first batch, in a new process for each index.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

from transporter_pl.commands.arguments import call
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.cache.index import INDEX, write_index
from transporter_pl.datamodules.cache.key import CacheKey, Manifest, write_manifest
from transporter_pl.datamodules.cache.shards import TENSORS, EncodedClips, ShardWriter, shard_name
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Shapes, VideoSpec

MIB = 2**20
BATCH = 8
KEY = CacheKey(BackboneSpec("wan", "generator"), BackboneSpec("vl", "vlm"), VideoSpec(9, 64, 64), "clips")


def shapes_of(size: float) -> Shapes:
    """Shapes of a clip of so many MiB in bfloat16: two fifths tokens, as many re-encoded, the rest latents and text."""
    numbers = int(size * MIB / 2)
    side = max(1, int((0.15 * numbers / 16) ** 0.5))
    return Shapes((16, 1, side, side), (16, max(1, numbers // 320)), (max(1, numbers // 2560), 1024))


def write_cache(folder: Path, shapes: Shapes, clips: int, shard_clips: int) -> None:
    """A cache of random numbers."""
    folder.mkdir()
    manifest = Manifest(KEY, shapes, clips, shard_clips)
    write_manifest(folder, manifest)
    sizes = shapes.latents, shapes.tokens, shapes.tokens, shapes.condition
    for number in range(manifest.shards):
        writer = ShardWriter(shapes, KEY.storage)
        for clip in manifest.rows(number):
            writer.add(EncodedClips((str(clip),), (("a caption",),), *(torch.randn(1, *size) for size in sizes)))
        writer.write(folder, number)
    write_index(folder, manifest)


def read_raw(files: list[Path], buffer: memoryview) -> float:
    """Bytes a second of the files, one after another, into the same memory."""
    count, start = 0, time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while got := opened.readinto(buffer):
                count += got
    return count / (time.perf_counter() - start)


def passes(folder: Path, num_workers: int) -> Iterator[float]:
    """Bytes a second of one epoch after another."""
    loader = CacheDataModule(str(folder), BATCH, str(folder), num_workers=num_workers).train_dataloader()
    for _ in zip(range(1), loader, strict=False):
        pass
    while True:
        count, start = 0, time.perf_counter()
        for batch in loader:
            count += sum(getattr(batch, name).nbytes for name in TENSORS)
        yield count / (time.perf_counter() - start)


def reading(folder: Path, sizes: list[float], total: float, runs: int) -> Table:
    """GB/s of the raw read and of the loader, for clips of several sizes; ``total`` MiB of each."""
    columns = "MiB a clip", "raw, GB/s", "loader", "of the raw read", "two workers", "of the raw read"
    table = Table(*columns, title=f"reading, batches of {BATCH}")
    for size in sizes:
        cache = folder / f"{size}"
        write_cache(cache, shapes_of(size), max(BATCH, int(total / size)), max(1, int(64 / size)))
        files, buffer = sorted(cache.glob("shard-*")), memoryview(bytearray(int(BATCH * size * MIB)))
        loaders = [passes(cache, num_workers) for num_workers in (0, 2)]
        read_raw(files, buffer)
        found = [(read_raw(files, buffer), *map(next, loaders)) for _ in range(runs)]
        raw, *speeds = map(median, zip(*found, strict=True))
        ratios = [median(speed / first for first, speed in zip(*pair, strict=True)) for pair in pairs(found)]
        cells = [cell for speed, ratio in zip(speeds, ratios, strict=True) for cell in (gb(speed), f"{ratio:.2f}")]
        table.add_row(f"{size:g}", gb(raw), *cells)
    return table


def pairs(found: list[tuple[float, float, float]]) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    raw, *loaders = zip(*found, strict=True)
    return [(raw, loader) for loader in loaders]


def gb(speed: float) -> str:
    return f"{speed / 1e9:.2f}"


@dataclass(frozen=True)
class Started:
    """What a start-up took: seconds, and bytes of memory, the whole process's at its peak and what came on top."""

    seconds: float
    peak: int
    more: int


def write_large(folder: Path, shards: int, shard_clips: int = 4) -> None:
    """A cache with an index of so many shards, all the same one; only those of the first batch are there."""
    shapes = shapes_of(0.1)
    write_cache(folder, shapes, shard_clips, shard_clips)
    write_manifest(folder, Manifest(KEY, shapes, shards * shard_clips, shard_clips))
    with safe_open(folder / INDEX, "pt") as one:
        tensors, about = {name: one.get_tensor(name) for name in one.keys()}, one.metadata()  # noqa: SIM118  (no dict)
    tensors = {name: tensor[:1].expand(shards, *tensor.shape[1:]).contiguous() for name, tensor in tensors.items()}
    save_file({**tensors, "starts": torch.arange(shards + 1) * shard_clips}, folder / INDEX, about)
    first = next(iter(CacheDataModule(str(folder), BATCH).train_dataloader().sampler))
    for shard in {clip // shard_clips for clip, _ in first} - {0}:
        os.link(folder / shard_name(0), folder / shard_name(shard))


def resident(field: str) -> int:
    """What Linux says of this process' memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def start(folder: Path) -> Started:
    """Open, shuffle, and read the first batch, as the first thing in a process."""
    before, begun = resident("VmRSS"), time.perf_counter()
    data = CacheDataModule(str(folder), BATCH)
    next(iter(data.train_dataloader()))
    seconds, peak = time.perf_counter() - begun, resident("VmHWM")
    return Started(seconds, peak, peak - before)


def starting(folder: Path, entries: list[int], runs: int) -> Table:
    """Seconds and memory of a start-up, for indices of several sizes."""
    columns = "index entries", "its MiB", "ms", "ratio", "MiB on top of imports", "MiB in all", "ratio"
    table, found = Table(*columns, title="start-up"), {}
    for count in entries:
        write_large(folder / str(count), count)
    for _ in range(runs):
        for count in entries:
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                found.setdefault(count, []).append(alone.apply(start, (folder / str(count),)))
    first: list[float] = []
    for count, starts in found.items():
        size = (folder / str(count) / INDEX).stat().st_size / MIB
        seconds, more, peak = (median(getattr(one, of) for one in starts) for of in ("seconds", "more", "peak"))
        first = first or [seconds, peak]
        cells = f"{1000 * seconds:.1f}", f"{seconds / first[0]:.2f}", f"{more / MIB:.1f}", f"{peak / MIB:.0f}"
        table.add_row(f"{count:,}", f"{size:.1f}", *cells, f"{peak / first[1]:.2f}")
    return table


def bench(runs: int = 7, fast: bool = False) -> None:
    """How fast a training reads from the latent cache, and how its start-up grows with it.

    Args:
        runs: Runs of every row.
        fast: Small files, to see that everything runs.
    """
    console = Console(width=130)
    sizes, total = ([0.1, 1], 4) if fast else ([0.1, 0.5, 1, 2, 8, 67], 512)
    parts = {
        "reading": lambda place: reading(place, sizes, total, runs),
        "starting": lambda place: starting(place, [1000, 10_000 if fast else 1_000_000], runs),
    }
    for part in parts.values():
        with tempfile.TemporaryDirectory() as folder:
            console.print(part(Path(folder)))


if __name__ == "__main__":
    call(bench, "benchmarks/cache.py", sys.argv[1:])
