"""The latent cache: how fast a training reads from it, and how its start-up grows with it.

    python benchmarks/cache.py        # three minutes on two quiet cores; some 1 GB of disk
    python benchmarks/cache.py --fast # small files, to see that everything runs

Reading: batches of eight from the data module's loader, in the order of a training, against the same files read one
after another into a buffer of a batch's size, all from the page cache; columns take turns, medians of their ratios
count. Shards are of the size that ``transporter encode`` makes, and there are hundreds, most of them links.
Start-up: opening the data module, shuffling and the first batch, in a new process for each index.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

from transporter_pl.commands.arguments import call
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.cache.index import INDEX, index_of, write_index
from transporter_pl.datamodules.cache.key import CacheKey, Manifest, read_manifest, write_manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.shards import TENSORS, EncodedClips, ShardWriter, shard_name
from transporter_pl.datamodules.encode import fitting_clips
from transporter_pl.loading import BackboneSpec
from transporter_pl.planning.totals import clip_bytes
from transporter_pl.precision import Storage
from transporter_pl.samples import Shapes, VideoSpec

MIB = 2**20
BATCH = 8
KEY = CacheKey(BackboneSpec("wan", "generator"), BackboneSpec("vl", "vlm"), VideoSpec(9, 64, 64), "clips")


def shapes_of(size: float) -> Shapes:
    """Shapes of a clip of so many MiB in bfloat16: two fifths tokens, as many re-encoded, the rest latents and text."""
    numbers = int(size * MIB / 2)
    side = max(1, int((0.15 * numbers / 16) ** 0.5))
    return Shapes((16, 1, side, side), (16, max(1, numbers // 320)), (max(1, numbers // 2560), 1024))


def write_cache(folder: Path, key: CacheKey, shapes: Shapes, total: float = 0, shards: int = 1) -> None:
    """A cache in shards as ``transporter encode`` makes them.

    Random numbers fill at least so many MiB, in at least one shard; the other shards are links to these.
    """
    folder.mkdir()
    shard_clips = fitting_clips(shapes, key.storage, BATCH)
    manifest = Manifest(key, shapes, shards * shard_clips, shard_clips)
    write_manifest(folder, manifest)
    own = min(shards, 1 + int(total * MIB / (shard_clips * clip_bytes(shapes, key.storage))))
    for number in range(own):
        write_shard(folder, number, manifest)
    for number in range(own, shards):
        os.link(folder / shard_name(number % own), folder / shard_name(number))
    write_index(folder, index_of(Place(folder), manifest)[0])


def write_shard(folder: Path, number: int, manifest: Manifest) -> None:
    shapes, writer = manifest.shapes, ShardWriter(manifest.shapes, manifest.key.storage)
    sizes = shapes.latents, shapes.tokens, shapes.tokens, shapes.condition
    for clip in manifest.rows(number):
        writer.add(EncodedClips((str(clip),), (("a caption",),), *(torch.randn(1, *size) for size in sizes)))
    writer.write(folder, number)


@dataclass(frozen=True)
class Row:
    """What is read: MiB a clip in bfloat16, from one cache or several, and the type in which numbers are stored."""

    size: float
    caches: int = 1
    storage: Storage = "bfloat16"

    def __str__(self) -> str:
        several = f", {self.caches} caches" if self.caches > 1 else ""
        return f"{self.size:g}{several}{'' if self.storage == 'bfloat16' else ', float8'}"


def read_raw(files: list[Path], buffer: memoryview) -> float:
    """Bytes a second of the files, one after another, into the same memory."""
    count, start = 0, time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while got := opened.readinto(buffer):
                count += got
    return count / (time.perf_counter() - start)


def passes(folders: list[Path], batches: int, num_workers: int) -> Iterator[float]:
    """Bytes a second of one time after another that so many batches are read; of the first one, nothing is told."""
    data = CacheDataModule(list(map(str, folders)), BATCH, val_fraction=1e-6, num_workers=num_workers)
    loader, width = data.train_dataloader(), getattr(torch, data.cache.key.storage).itemsize
    for number in itertools.count():
        count, start = 0, time.perf_counter()
        for batch in itertools.islice(loader, batches):
            count += sum(width * getattr(batch, name).numel() for name in TENSORS)
        if number:
            yield count / (time.perf_counter() - start)


def reading(folder: Path, rows: list[Row], total: float, shards: int, runs: int) -> Table:
    """GB/s of the raw read and of the loader, counted in bytes as they are stored; ``total`` MiB of each."""
    columns = "MiB a clip", "shards", "raw, GB/s", "loader", "of the raw read", "two workers", "of the raw read"
    table = Table(*columns, title=f"reading, batches of {BATCH}")
    for row in rows:
        caches = [folder / f"{row}-{number}" for number in range(row.caches)]
        for number, cache in enumerate(caches):
            key = replace(KEY, clips=str(number), storage=row.storage)
            write_cache(cache, key, shapes_of(row.size), total / row.caches, shards // row.caches)
        files = [file for cache in caches for file in shard_files(cache)]
        table.add_row(str(row), str(shards // row.caches * row.caches), *speeds(row, caches, files, total, runs))
        for cache in caches:
            shutil.rmtree(cache)
    return table


def shard_files(cache: Path) -> list[Path]:
    """The shards, each of several links once."""
    return list({file.stat().st_ino: file for file in sorted(cache.glob("shard-*"))}.values())


def speeds(row: Row, caches: list[Path], files: list[Path], total: float, runs: int) -> list[str]:
    """The cells of a row."""
    buffer = memoryview(bytearray(int(BATCH * row.size * MIB)))
    batches = max(4, int(total / (BATCH * row.size)))
    loaders = [passes(caches, batches, num_workers) for num_workers in (0, 2)]
    read_raw(files, buffer)
    found = [(read_raw(files, buffer), *map(next, loaders)) for _ in range(runs)]
    raw, *read = map(median, zip(*found, strict=True))
    ratios = [median(speed / first for first, speed in zip(*pair, strict=True)) for pair in pairs(found)]
    return [gb(raw), *(cell for pair in zip(map(gb, read), map("{:.2f}".format, ratios), strict=True) for cell in pair)]


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


def write_large(folder: Path, shards: int) -> None:
    """A cache with an index of so many shards, all the same one; only those of the first batch are there."""
    write_cache(folder, KEY, shapes_of(0.1))
    manifest = read_manifest(Place(folder))
    write_manifest(folder, replace(manifest, clips=shards * manifest.shard_clips))
    with safe_open(folder / INDEX, "pt") as one:
        tensors, about = {name: one.get_tensor(name) for name in one.keys()}, one.metadata()  # noqa: SIM118  (no dict)
    tensors = {name: tensor[:1].expand(shards, *tensor.shape[1:]).contiguous() for name, tensor in tensors.items()}
    save_file({**tensors, "starts": torch.arange(shards + 1) * manifest.shard_clips}, folder / INDEX, about)
    first = next(iter(CacheDataModule(str(folder), BATCH).train_dataloader().sampler))
    for shard in {clip // manifest.shard_clips for clip, _ in first} - {0}:
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
        table.add_row(f"{count:,}", f"{size:.2f}", *cells, f"{peak / first[1]:.2f}")
    return table


def bench(runs: int = 7, fast: bool = False) -> None:
    """How fast a training reads from the latent cache, and how its start-up grows with it.

    Args:
        runs: Runs of every row.
        fast: Small files, to see that everything runs.
    """
    console = Console(width=130)
    rows = [Row(size) for size in ((0.02, 0.05) if fast else (0.1, 0.5, 1, 2, 8, 67))]
    rows += [Row(0.02 if fast else 2, caches=3), Row(0.02 if fast else 2, storage="float8_e4m3fn")]
    total, shards, entries = (1, 6, [1000]) if fast else (512, 320, [1000, 1_000_000])
    parts = {
        "reading": lambda place: reading(place, rows, total, shards, runs),
        "starting": lambda place: starting(place, entries, runs),
    }
    for part in parts.values():
        with tempfile.TemporaryDirectory() as folder:
            console.print(part(Path(folder)))


if __name__ == "__main__":
    call(bench, "benchmarks/cache.py", sys.argv[1:])
