"""The index of a finished cache: where each shard's clips begin, and checksums of the shards' headers.

A header holds the checksums of its tensors, so that the index vouches for every byte of the cache, and is small: some
50 bytes a shard, whatever the number of clips. It is written last: a cache without one is not finished.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from transporter_pl.datamodules.cache.key import MANIFEST, Manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.shards import TENSORS, Shard, shard_name
from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.errors import TransporterError
from transporter_pl.files import abandoned, replace_file

INDEX = "index.safetensors"
LEFT_OUT = "left_out.csv"


@dataclass(frozen=True)
class Summary:
    """What some shards hold.

    Attributes:
        shards: How many they are.
        clips: Clips in them.
        captions: Captions of these.
        broken: Clips that could not be encoded.
        bytes: Their size.
        errors: Relative error of what is stored, √(Σ(x − x̂)² / Σx²), for each of ``TENSORS``.
    """

    shards: int
    clips: int
    captions: int
    broken: int
    bytes: int
    errors: dict[str, float]


@dataclass(frozen=True)
class Index:
    """What ``index.safetensors`` says.

    Attributes:
        starts: Number of the first clip of every shard, and of all clips, (shards + 1,), int64.
        headers: Bytes of each shard's header, (shards,), int64.
        digests: SHA-256 of each shard's header, (shards, 32), uint8.
        summary: What the cache holds.
    """

    starts: Tensor
    headers: Tensor
    digests: Tensor
    summary: Summary

    def __len__(self) -> int:
        """Number of clips."""
        return int(self.starts[-1])

    def find(self, clip: int) -> tuple[int, int]:
        """The shard that holds a clip, and its row there."""
        shard = int(torch.searchsorted(self.starts, clip, right=True)) - 1
        return shard, clip - int(self.starts[shard])


def whole_shards(place: Place, manifest: Manifest) -> Iterator[tuple[int, Shard]]:
    """The shards that are there and whole, opened, by number; headers and sizes alone are looked at."""
    for number in range(manifest.shards):
        try:
            shard = Shard(place, number)
        except TransporterError:
            continue
        yield number, shard


def finished(place: Place, manifest: Manifest) -> set[int]:
    """Numbers of the shards that are there and whole."""
    return {number for number, _ in whole_shards(place, manifest)}


def summary_of(shards: Iterable[Shard]) -> Summary:
    """Count what is in shards, of which it holds one at a time."""
    counts, sums = torch.zeros(5, dtype=torch.long), torch.zeros(len(TENSORS), 2, dtype=torch.float64)
    for shard in shards:
        captions = sum(len(record.captions) for record in shard.records)
        counts += torch.tensor([1, len(shard.records), captions, len(shard.broken), shard.bytes])
        sums += torch.tensor([shard.errors[name] for name in TENSORS], dtype=torch.float64)
    number, clips, captions, broken, size = counts.tolist()
    errors = [math.sqrt(error / total) if total else 0.0 for error, total in sums.tolist()]
    return Summary(number, clips, captions, broken, size, dict(zip(TENSORS, errors, strict=True)))


def index_of(place: Place, manifest: Manifest) -> tuple[Index, list[BrokenClip]]:
    """The index of a cache whose shards are all there, from their headers; and the clips that could not be encoded.

    Raises:
        TransporterError: If a shard is missing or damaged.
    """
    starts, headers, digests = [0], [], []
    broken: list[BrokenClip] = []

    def noted() -> Iterator[Shard]:
        for number in range(manifest.shards):
            shard = Shard(place, number)
            starts.append(starts[-1] + len(shard.records))
            headers.append(shard.header)
            digests.append(torch.frombuffer(bytearray(shard.digest), dtype=torch.uint8))
            broken.extend(shard.broken)
            yield shard

    summary = summary_of(noted())
    return Index(torch.tensor(starts), torch.tensor(headers), torch.stack(digests), summary), broken


def write_index(folder: Path, index: Index) -> None:
    """Write ``index.safetensors``, with which the cache is finished."""
    tensors = {"starts": index.starts, "headers": index.headers, "digests": index.digests}
    about = {"summary": json.dumps(asdict(index.summary))}
    replace_file(folder / INDEX, lambda aside: save_file(tensors, aside, about))


def write_left_out(folder: Path, missing: Iterable[str], broken: Iterable[BrokenClip]) -> None:
    """List all clips that the cache lacks, and why."""

    def write(aside: Path) -> None:
        with aside.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "reason"))
            rows.writerows((name, "no file") for name in missing)
            rows.writerows((clip.id, clip.reason) for clip in broken)

    replace_file(folder / LEFT_OUT, write)


def read_index(place: Place) -> Index | None:
    """The index, ``None`` if the cache is not finished.

    Raises:
        TransporterError: If it can't be read.
    """
    try:
        found = _contents(place)
        return None if found is None else Index(**found[0], summary=Summary(**json.loads(found[1]["summary"])))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"path: {INDEX} in {str(place)!r} is damaged ({error}); delete that file and run `transporter encode` again"
        )
        raise TransporterError(msg) from error


def _contents(place: Place) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The index's tensors and its notes; a folder's is mapped, so that what nobody looks at is never read."""
    if place.remote:
        found = place.whole(INDEX)
        if found is None:
            return None
        header = json.loads(found[8 : 8 + int.from_bytes(found[:8], "little")])
        return load(found), header["__metadata__"]
    file = Path(place.path, INDEX)
    if not file.is_file():
        return None
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118  (no dict)


def stray_files(folder: Path, manifest: Manifest) -> list[Path]:
    """What runs that were killed have left: files begun, and shards that the cache does not have."""
    known = {shard_name(number) for number in range(manifest.shards)}
    return abandoned(folder) + sorted(file for file in folder.glob("shard-*") if file.name not in known)


def cache_files(folder: Path) -> list[Path]:
    """Everything that ``transporter encode`` wrote into a folder, and nothing else."""
    own = [MANIFEST, INDEX, LEFT_OUT]
    return [folder / name for name in own if (folder / name).exists()] + sorted(folder.glob("shard-*.safetensors"))
