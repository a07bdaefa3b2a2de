"""A shard: one safetensors file with everything about some clips.

safetensors holds no pickles, so that a stranger's cache can be opened; its header says where every tensor begins and
ends, so that one clip is one range of bytes, of a file that is mapped into memory or in a bucket, and a file cut short
is noticed; and every language reads it. All else about the clips stands in the header as one JSON text, because the
order of several is not always the same, and the same clips shall give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from transporter_pl.datamodules.cache.places import Place, Span
from transporter_pl.datamodules.cache.storage import Storage, squared_error, store
from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.samples import Shapes

TENSORS = ("latents", "condition", "tokens", "reencoded")
VISUAL = ("latents", "tokens", "reencoded")  # one a clip; conditions are one a caption
SCALE = ".scale"
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}


def shard_name(number: int) -> str:
    """File of a shard."""
    return f"shard-{number:07d}.safetensors"


@dataclass(frozen=True)
class EncodedClips:
    """A batch of clips as the backbones gave it.

    Attributes:
        ids: Names of the B clips.
        captions: Captions of each, at least one.
        latents: z_Ξ, (B, C, T', H', W').
        tokens: z_Ω, (B, N, D).
        reencoded: z_Ξ→Ω, (B, N, D).
        condition: π_Ξ of all captions, clip by clip, (captions, L, D_c).
    """

    ids: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    latents: Tensor
    tokens: Tensor
    reencoded: Tensor
    condition: Tensor


@dataclass(frozen=True)
class Record:
    """What a shard's header says of one clip.

    Attributes:
        id: Its name.
        captions: Its captions.
        lengths: Rows of each caption's condition that are stored: those of padding, all zero, are not.
    """

    id: str
    captions: tuple[str, ...]
    lengths: tuple[int, ...]


class ShardWriter:
    """Gathers the clips of a shard and writes it whole, or not at all.

    Args:
        shapes: Shapes of one clip's encodings.
        storage: Type in which numbers are stored.
    """

    def __init__(self, shapes: Shapes, storage: Storage) -> None:
        self.storage = storage
        kind: torch.dtype = getattr(torch, storage)
        sizes = {"latents": shapes.latents, "tokens": shapes.tokens, "reencoded": shapes.tokens}
        sizes["condition"] = shapes.condition[1:]
        self._parts = {name: [torch.empty(0, *size, dtype=kind)] for name, size in sizes.items()}
        if kind == torch.float8_e4m3fn:
            self._parts |= {name + SCALE: [torch.empty(0)] for name in TENSORS}
        self._records: list[Record] = []
        self._broken: list[BrokenClip] = []
        self._errors = dict.fromkeys(TENSORS, (0.0, 0.0))

    def add(self, clips: EncodedClips) -> None:
        """Take clips that were encoded."""
        lengths = _lengths(clips.condition)
        at = 0
        for name, captions in zip(clips.ids, clips.captions, strict=True):
            self._records.append(Record(name, captions, tuple(lengths[at : at + len(captions)])))
            at += len(captions)
        for name in VISUAL:
            self._keep(name, getattr(clips, name))
        self._keep("condition", clips.condition, lengths)

    def leave_out(self, clips: Sequence[BrokenClip]) -> None:
        """Take note of clips that could not be encoded."""
        self._broken += clips

    def write(self, folder: Path, number: int) -> None:
        """Write the shard's file.

        Raises:
            TransporterError: If it can't be written; there is no file then.
        """
        tensors = {name: torch.cat(parts) for name, parts in self._parts.items()}
        about = {
            "clips": [asdict(record) for record in self._records],
            "broken": [asdict(clip) for clip in self._broken],
            "errors": self._errors,
            "sha256": {name: hashlib.sha256(_bytes(x)).hexdigest() for name, x in tensors.items()},
        }
        try:
            replace_file(folder / shard_name(number), lambda aside: _save(tensors, about, aside))
        except (OSError, SafetensorError) as error:
            msg = f"out: {shard_name(number)} can't be written to {str(folder)!r} ({error}); make room there, and run "
            msg += "the same command again: it goes on behind the last finished shard"
            raise TransporterError(msg) from error

    def _keep(self, name: str, x: Tensor, lengths: Sequence[int] | None = None) -> None:
        stored = store(x, self.storage)
        before, more = self._errors[name], squared_error(x, stored)
        self._errors[name] = before[0] + more[0], before[1] + more[1]
        values = stored.values.cpu()
        if lengths is not None:
            values = torch.cat([row[:length] for row, length in zip(values, lengths, strict=True)])
        self._parts[name].append(values)
        if stored.scale is not None:
            self._parts[name + SCALE].append(stored.scale.cpu())


class Shard:
    """A shard that is there, opened to be read; only its header is.

    Args:
        place: Where the cache lies.
        number: The shard's.
        header: Length of its header, where it is known, which saves a bucket a question.
        digest: Checksum that its header must have.

    Raises:
        TransporterError: If it is missing, cut short, or its header is damaged.
    """

    def __init__(self, place: Place, number: int, header: int | None = None, digest: bytes | None = None) -> None:
        self.place, self.file = place, shard_name(number)
        try:
            length = int.from_bytes(self._read((0, 8)), "little") if header is None else header
            text = bytes(self._read((8, 8 + length)))
            about = json.loads(text)
            noted = json.loads(about.pop("__metadata__")["transporter"])
            self.records = tuple(Record(c["id"], tuple(c["captions"]), tuple(c["lengths"])) for c in noted["clips"])
            self.broken = tuple(BrokenClip(**clip) for clip in noted["broken"])
            self.errors: dict[str, tuple[float, float]] = {n: tuple(sums) for n, sums in noted["errors"].items()}  # type: ignore[misc]
            self._sums: dict[str, str] = noted["sha256"]
            self._tensors: dict[str, dict[str, Any]] = about
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(f"it can't be read: {error!r}", error)
        self.header, self.digest, self._data = length, hashlib.sha256(text).digest(), 8 + length
        if digest is not None and digest != self.digest:
            self._refuse("its header has another checksum")
        self.bytes = self._data + max(x["data_offsets"][1] for x in about.values())
        if not place.remote and place.size(self.file) != self.bytes:  # a bucket gives what is missing away when read
            self._refuse(f"it has {place.size(self.file)} bytes, not {self.bytes}")
        lengths = [length for record in self.records for length in record.lengths]
        self._condition = [0]
        for length in lengths:
            self._condition.append(self._condition[-1] + length)
        self._first = [0]
        for record in self.records:
            self._first.append(self._first[-1] + len(record.captions))

    def spans(self, name: str, row: int, caption: int = 0) -> list[Span]:
        """Where one of ``TENSORS`` of a clip lies (the condition is a caption's), and its scale, if it has one."""
        if name == "condition":
            at = self._first[row] + caption
            found = [self._span(name, self._condition[at], self._condition[at + 1])]
        else:
            at = row
            found = [self._span(name, row, row + 1)]
        return [*found, self._span(name + SCALE, at, at + 1)] if name + SCALE in self._tensors else found

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor."""
        return DTYPES[self._tensors[name]["dtype"]]

    def check(self) -> None:
        """Compare every byte with its checksum.

        Raises:
            TransporterError: If one differs.
        """
        for name, tensor in self._tensors.items():
            start, stop = tensor["data_offsets"]
            if hashlib.sha256(self._read((self._data + start, self._data + stop))).hexdigest() != self._sums[name]:
                self._refuse(f"its {name} have another checksum")

    def _span(self, name: str, first: int, last: int) -> Span:
        """Bytes of some rows of a tensor."""
        (start, stop), count = self._tensors[name]["data_offsets"], self._tensors[name]["shape"][0]
        width = (stop - start) // count if count else 0
        return self.file, self._data + start + first * width, self._data + start + last * width

    def _read(self, span: tuple[int, int]) -> memoryview:
        (found,) = self.place.read([(self.file, *span)])
        if len(found) != span[1] - span[0]:
            self._refuse("it is cut short")
        return found

    def _refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        msg = f"path: {self.file} in {str(self.place)!r} is damaged or missing ({why}); `transporter cache prune "
        msg += "--damaged` takes away what is, and `transporter encode` makes that again"
        raise TransporterError(msg) from error


def _save(tensors: dict[str, Tensor], about: dict[str, Any], file: Path) -> None:
    save_file(tensors, file, {"transporter": json.dumps(about)})
    with file.open("rb") as written:
        os.fsync(written.fileno())  # or the name might outlast a power cut, and the content not


def _lengths(condition: Tensor) -> list[int]:
    """Rows of each caption's condition up to the last that is not all zero."""
    filled = condition.ne(0).any(2)
    places = torch.arange(1, filled.shape[1] + 1, device=filled.device)
    lengths: list[int] = (filled * places).amax(1).tolist()
    return lengths


def _bytes(x: Tensor) -> Any:  # noqa: ANN401  (numpy's array, a buffer)
    return x.contiguous().view(torch.uint8).numpy() if x.numel() else b""
