"""The latent cache on disk: safetensors shards, and an ``index.json`` that says what made them.

Why not ``torch.save``: safetensors files hold no pickles, so a stranger's cache can be opened; they are mapped into
memory, so that a batch reads its own bytes only; their header says how long they are, so that a file cut short is
noticed; and every language reads them. The index holds a checksum of each shard.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, VideoSpec

INDEX = "index.json"
TENSORS = ("latents", "condition", "tokens", "reencoded")


@dataclass(frozen=True)
class CacheKey:
    """Everything that changes what a cache holds.

    Attributes:
        generator: The generator, with its dtype.
        vlm: The VLM, with its dtype.
        video: Geometry of the clips.
        clips: Fingerprint of the clips.
        generator_weights: Fingerprint of the generator's weights, as a folder may be trained anew.
        vlm_weights: The same of the VLM's.
    """

    generator: BackboneSpec
    vlm: BackboneSpec
    video: VideoSpec
    clips: str
    generator_weights: str = ""
    vlm_weights: str = ""


@dataclass(frozen=True)
class Shard:
    """One finished file of the cache.

    Attributes:
        file: Its name.
        clips: Number of clips in it.
        end: How many clips of the source are done with it, broken ones included.
        sha256: Its checksum.
    """

    file: str
    clips: int
    end: int
    sha256: str


@dataclass(frozen=True)
class CacheIndex:
    """What ``index.json`` says.

    Attributes:
        key: What made the cache.
        complete: Whether every clip of the source is done.
        shards: Finished files, in the source's order.
        broken: Clips up to the last shard's end that could not be encoded.
    """

    key: CacheKey
    complete: bool = False
    shards: tuple[Shard, ...] = ()
    broken: tuple[BrokenClip, ...] = ()


def read_index(folder: Path) -> CacheIndex | None:
    """The index of a cache, ``None`` if there is none.

    Raises:
        TransporterError: If it can't be read.
    """
    if not (folder / INDEX).is_file():
        return None
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        key = dict(found["key"])
        key.pop("weights", None)  # one digest of both models, in caches older than one for each
        backbones = {name: BackboneSpec(**key[name]) for name in ("generator", "vlm")}
        return CacheIndex(
            CacheKey(**{**key, **backbones, "video": VideoSpec(**key["video"])}),
            found["complete"],
            tuple(Shard(**shard) for shard in found["shards"]),
            tuple(BrokenClip(**clip) for clip in found["broken"]),
        )
    except (ValueError, TypeError, KeyError, TransporterError) as error:
        msg = f"cache: {INDEX} in {str(folder)!r} can't be read ({error!r}); delete the folder and encode again"
        raise TransporterError(msg) from error


def check_key(folder: Path, key: CacheKey) -> None:
    """Refuse to continue a cache that other settings made; fields that ``key`` leaves empty are not compared.

    Raises:
        TransporterError: If a field differs (named), or the folder is something else than a cache.
    """
    index = read_index(folder)
    if index is None and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        msg = f"out: {str(folder)!r} is not empty and no latent cache; choose another folder"
        raise TransporterError(msg)
    if index is None or not index.shards:  # nothing is encoded yet that could be lost or mixed
        return
    was, now = dotted(asdict(index.key)), dotted(asdict(key))
    for field, value in now.items():
        if value not in ("", was[field]):
            msg = (
                f"out: the cache in {str(folder)!r} was made with {field} = {was[field]!r}, not {value!r}; "
                "choose another folder, or delete this one"
            )
            raise TransporterError(msg)


def names_of(shard: safe_open) -> tuple[list[str], list[str]]:
    """Ids and captions of an open shard's clips."""
    metadata = shard.metadata()  # type: ignore[no-untyped-call]
    return json.loads(metadata["ids"]), json.loads(metadata["captions"])


class CacheWriter:
    """Writes a cache shard by shard; a cache of the same key is continued after its last finished shard.

    Args:
        folder: Folder of the cache.
        key: What makes it.
        shard_bytes: Size at which a shard is closed.

    Attributes:
        index: What is on disk.

    Raises:
        TransporterError: If the folder holds a cache of another key, something else, or a damaged shard.
    """

    def __init__(self, folder: str | Path, key: CacheKey, shard_bytes: int = 64 * 2**20) -> None:
        self.folder, self.shard_bytes = Path(folder), shard_bytes
        check_key(self.folder, key)
        self.folder.mkdir(parents=True, exist_ok=True)
        found = read_index(self.folder)
        # clips that were broken before the first shard are tried again, as none are done with
        self.index = found if found is not None and found.shards else CacheIndex(key)
        for shard in self.index.shards:
            self._verify(shard)
        self._pending: list[Encoded] = []
        self._pending_broken: list[BrokenClip] = []
        self._end = self.start
        self._write_index(self.index)

    @property
    def start(self) -> int:
        """Index of the first clip of the source that is not on disk."""
        return self.index.shards[-1].end if self.index.shards else 0

    def add(self, encoded: Encoded | None, broken: list[BrokenClip], end: int) -> None:
        """Take the clips of the source up to ``end``, those encoded and those broken; close the shard if it is full."""
        self._end = end
        self._pending_broken += broken
        if encoded is not None:
            self._pending.append(encoded)
        if sum(getattr(e, name).nbytes for e in self._pending for name in TENSORS) >= self.shard_bytes:
            self._close_shard()

    def keep(self) -> None:
        """Write what is there of a shard that is not full, so that a run that breaks off loses nothing."""
        if self._pending:
            self._close_shard()

    def finish(self) -> CacheIndex:
        """Write what is left and, unless that is nothing, mark the cache as complete."""
        self._close_shard(complete=True)
        return self.index

    def _close_shard(self, complete: bool = False) -> None:
        broken = (*self.index.broken, *self._pending_broken)
        shards = self.index.shards
        if self._pending:
            shards = (*shards, self._write_shard(f"shard-{len(shards):05d}.safetensors"))
        self._pending, self._pending_broken = [], []
        self._write_index(CacheIndex(self.index.key, complete and bool(shards), shards, broken))

    def _write_shard(self, file: str) -> Shard:
        tensors = {n: torch.cat([getattr(e, n) for e in self._pending]).cpu().contiguous() for n in TENSORS}
        ids = [name for e in self._pending for name in e.ids]
        captions = [caption for e in self._pending for caption in e.captions]
        aside = self.folder / f".{file}.part"
        save_file(tensors, aside, {"ids": json.dumps(ids), "captions": json.dumps(captions)})
        aside.replace(self.folder / file)
        return Shard(file, len(ids), self._end, _digest(self.folder / file))

    def _write_index(self, index: CacheIndex) -> None:
        aside = self.folder / f".{INDEX}.part"
        aside.write_text(json.dumps(asdict(index), indent=1), encoding="utf-8")
        aside.replace(self.folder / INDEX)
        self.index = index

    def _verify(self, shard: Shard) -> None:
        path = self.folder / shard.file
        if not path.is_file() or _digest(path) != shard.sha256:
            msg = f"out: {str(path)!r} is damaged or gone; delete the folder and encode again"
            raise TransporterError(msg)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dotted(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
