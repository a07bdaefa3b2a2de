"""``transporter cache info | verify | prune``: what a latent cache holds, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from rich import filesize
from rich.console import Console
from rich.progress import track
from rich.table import Table

from transporter_pl.commands.arguments import call_one_of
from transporter_pl.datamodules.cache.index import (
    INDEX,
    Index,
    index_of,
    read_index,
    stray_files,
    summary_of,
    whole_shards,
)
from transporter_pl.datamodules.cache.key import Manifest, read_manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.shards import Shard, shard_name
from transporter_pl.errors import TransporterError
from transporter_pl.files import delete
from transporter_pl.settings import dotted

LISTED = 10  # damaged shards that an error names


def run(argv: list[str]) -> None:
    """Run one of the commands; ``argv`` begins with ``cache``."""
    call_one_of("cache", "Look after latent caches.", COMMANDS, _add_arguments, argv)


def _add_arguments(command: str, parser: ArgumentParser) -> None:
    parser.add_argument("path", type=str, metavar="CACHE", help="Folder of a cache, or its URL.")
    if command == "prune":
        parser.add_argument("--damaged", action="store_true", help="Also shards that are damaged.")
        parser.add_argument("--broken", action="store_true", help="Also shards that lack clips, to try these again.")
        parser.add_argument("--dry_run", action="store_true", help="Only say what would be deleted.")


def show(path: str) -> None:
    """Show what made a cache, and what it holds.

    Raises:
        TransporterError: If there is no cache.
    """
    place, manifest = _opened(path)
    index = read_index(place)
    whole = index is not None and (place.remote or _named(Path(path)) >= set(map(shard_name, range(manifest.shards))))
    summary = (
        index.summary
        if index is not None and whole
        else summary_of(shard for _, shard in whole_shards(place, manifest))
    )
    made = Table("made with", "")
    for name, value in dotted(asdict(manifest.key)).items():
        made.add_row(name, str(value))
    held = Table("holds", "")
    state = "" if whole else ", not finished: run the same `transporter encode` again"
    held.add_row("shards", f"{summary.shards} of {manifest.shards}{state}")
    held.add_row("clips", f"{summary.clips}, {summary.broken} could not be encoded")
    held.add_row("captions", str(summary.captions))
    held.add_row("size", filesize.decimal(summary.bytes))
    for name, shape in asdict(manifest.shapes).items():
        held.add_row(name, " × ".join(map(str, shape)))
    for name, error in summary.errors.items():
        held.add_row(f"{name}, changed by", f"{error:.2%}")
    for table in (made, held):
        Console(markup=False, highlight=False).print(table)


def verify(path: str) -> None:
    """Compare every byte of a cache with its checksums.

    Raises:
        TransporterError: If there is no cache, or shards are missing or damaged (names them).
    """
    place, manifest = _opened(path)
    index = read_index(place)
    damaged = _damaged(place, manifest, index)
    if damaged and index is None and not {*map(shard_name, damaged)} & _named(Path(path)):
        msg = f"path: {path!r} is not finished, {len(damaged)} of {manifest.shards} shards are missing, the others "
        raise TransporterError(msg + "whole; run the same `transporter encode` again")
    if damaged:
        named = ", ".join(map(shard_name, damaged[:LISTED])) + (" …" if len(damaged) > LISTED else "")
        msg = f"path: {len(damaged)} of {manifest.shards} shards of {path!r} are missing or damaged: {named}; "
        msg += f"`transporter cache prune --damaged {path}`, then the same `transporter encode` again, makes them anew"
        raise TransporterError(msg)
    if index is not None and not _same(index, index_of(place, manifest)[0]):
        msg = f"path: {INDEX} of {path!r} is damaged, and its shards are whole; delete that file, and the same "
        raise TransporterError(msg + "`transporter encode` writes it again")
    Console(highlight=False, markup=False).print(f"{manifest.shards} shards of {path}: all whole", soft_wrap=True)


def prune(path: str, damaged: bool = False, broken: bool = False, dry_run: bool = False) -> None:
    """Delete what killed runs have left of a cache; the next `transporter encode` makes deleted shards again.

    Args:
        path: Folder of the cache. Nothing may be writing to it.
        damaged: Also delete shards whose bytes don't have their checksums.
        broken: Also delete shards that lack clips which could not be encoded, so that these are tried again.
        dry_run: Only say what would be deleted.

    Raises:
        TransporterError: If there is no cache in a folder.
    """
    place, manifest = _opened(path)
    if place.remote:
        msg = f"path: {path!r} is no folder; prune the folder that it was copied from, and copy it again"
        raise TransporterError(msg)
    folder, shards = Path(path), set[int]()
    if damaged:
        shards |= {
            number for number in _damaged(place, manifest, read_index(place)) if (folder / shard_name(number)).exists()
        }
    if broken:
        shards |= {number for number, shard in whole_shards(place, manifest) if shard.broken}
    files = stray_files(folder, manifest) + [folder / shard_name(number) for number in sorted(shards)]
    # without all its shards a cache is not finished
    files += [folder / INDEX] if shards and (folder / INDEX).exists() else []
    console = Console(highlight=False, markup=False)
    for file in files:
        console.print(f"{'would delete' if dry_run else 'deleted'} {file}", soft_wrap=True)
        if not dry_run:
            delete(file)
    if not files:
        console.print(f"nothing to delete in {path}", soft_wrap=True)


COMMANDS: dict[str, Callable[..., None]] = {"info": show, "verify": verify, "prune": prune}


def _opened(path: str) -> tuple[Place, Manifest]:
    place = Place(path)
    manifest = read_manifest(place)
    if manifest is None:
        msg = f"path: no latent cache in {path!r}; give the folder that `transporter encode` wrote"
        raise TransporterError(msg)
    return place, manifest


def _named(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("shard-*")}


def _same(one: Index, other: Index) -> bool:
    names = ("starts", "headers", "digests")
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
    return tensors and one.summary == other.summary


def _damaged(place: Place, manifest: Manifest, index: Index | None) -> Sequence[int]:
    """Numbers of the shards that are missing or not what they were."""

    def sound(number: int) -> bool:
        digest = None if index is None else index.digests[number].numpy().tobytes()
        try:
            # a place of its own, as threads would close each other's files
            Shard(Place(place.path), number, digest=digest).check()
        except TransporterError:
            return False
        return True

    numbers = range(manifest.shards)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # checksums are computed outside Python's lock
        found = threads.map(sound, numbers)
        watched = track(zip(numbers, found, strict=True), "verifying", total=len(numbers), transient=True)
        return [number for number, is_sound in watched if not is_sound]
