"""Kills ``transporter encode`` by SIGKILL at random moments, and compares the finished cache with an uninterrupted one.

The same command is started again after each kill, on the same folder, as a preempted job is. Moments are uniform from
shortly before an uninterrupted run's first shard is there until, on average, its share of the work is done, so that the
kills are spread over the whole of it. With several processes, all of them are killed.

    python benchmarks/cache_kills.py --kills 20
    python benchmarks/cache_kills.py --kills 20 --processes 2
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

TRANSPORTER = str(Path(sys.executable).with_name("transporter"))


def main(kills: int = 20, clips: int = 200, processes: int = 1, seed: int = 0) -> int:
    """Count the files in which the two caches differ.

    Args:
        kills: How often the run is killed.
        clips: Clips of the embedded world.
        processes: Processes that encode.
        seed: Seed of the moments.
    """
    draws, table = random.Random(seed), Table("kill", "after s", "shards there")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos, whole, killed = (folder / part for part in ("clips", "whole", "killed"))
        subprocess.run(
            [TRANSPORTER, "clips", "--config", "shapemotion/clips.yaml", "--folder", videos, "--count", str(clips)],
            check=True,
        )
        first, lasts = _encode(videos, whole, processes)
        for number in range(kills):
            moment = draws.uniform(0.9 * first, first + 2 * (lasts - first) / kills)
            _encode(videos, killed, processes, moment)
            table.add_row(str(number + 1), f"{moment:.1f}", str(len(list(killed.glob("shard-*")))))
        _encode(videos, killed, processes)
        contents = [{file.name: file.read_bytes() for file in cache.iterdir()} for cache in (whole, killed)]
    Console().print(table)
    names = sorted({name for content in contents for name in content})
    differing = [name for name in names if contents[0].get(name) != contents[1].get(name)]
    said = (
        f"{len(names)} files, an uninterrupted run {lasts:.0f} s; different after {kills} kills: {differing or 'none'}"
    )
    print(said)
    return len(differing)


def _encode(videos: Path, out: Path, processes: int, seconds: float | None = None) -> tuple[float, float]:
    """Seconds after which the first shard was there, and the run at its end or all of its processes killed."""
    options = {"data.root": videos, "data.annotations": videos / "annotations.json", "out": out}
    options |= {"shard_clips": 8, "batch_size": 4, "device": "cpu", "devices": processes}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    began, first = time.monotonic(), 0.0
    with subprocess.Popen(
        [TRANSPORTER, "encode", "--config", "shapemotion/encode.yaml", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as run:
        while run.poll() is None:
            passed = time.monotonic() - began
            if not first and any(out.glob("shard-*")):
                first = passed
            if seconds is not None and passed >= seconds:
                os.killpg(run.pid, signal.SIGKILL)
                return first, passed
            time.sleep(0.01)
    if run.returncode:
        msg = f"encode ended with {run.returncode}"
        raise RuntimeError(msg)
    return first, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(auto_cli(main))
