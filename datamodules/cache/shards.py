"""A shard: one safetensors file with everything about some clips.

safetensors holds no pickles, so that a stranger's cache can be opened; its header says where every tensor begins and
ends, so that one clip is one range of bytes, of a file that is mapped into memory or in a bucket, and a file cut short
is noticed; and every language reads it. All else about the clips stands in the header as one JSON text, because the
order of several is not always the same, and the same clips shall give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from transporter_pl.datamodules.cache.places import Place, Span
from transporter_pl.datamodules.cache.records import Record, Records
from transporter_pl.datamodules.cache.storage import squared_error, store
from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.precision import Storage
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
            note = {"transporter": json.dumps(about)}
            replace_file(folder / shard_name(number), lambda aside: save_file(tensors, aside, note))
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


class Part(NamedTuple):
    """Where a tensor lies in a shard's file.

    Attributes:
        dtype: Its type, as safetensors says it.
        start: Its first byte.
        stop: Behind its last.
        width: Bytes of one of its rows.
    """

    dtype: str
    start: int
    stop: int
    width: int

    @classmethod
    def read(cls, tensor: dict[str, Any], data: int) -> Part:
        """What a header says of it; ``data`` is where the header ends."""
        (start, stop), count = tensor["data_offsets"], tensor["shape"][0]
        return cls(sys.intern(tensor["dtype"]), data + start, data + stop, (stop - start) // count if count else 0)


class Shard:
    """A shard that is there, opened to be read; only its header is.

    Args:
        place: Where the cache lies.
        number: The shard's.
        header: Its header, where that has been read already.
        digest: Checksum that its header must have.

    Raises:
        TransporterError: If it is missing, cut short, or its header is damaged.
    """

    def __init__(self, place: Place, number: int, header: bytes | None = None, digest: bytes | None = None) -> None:
        self.place, self.file = place, shard_name(number)
        text = self._own_header() if header is None else header
        self.header, self.digest, data = len(text), hashlib.sha256(text).digest(), 8 + len(text)
        if digest is not None and digest != self.digest:
            self._refuse("its header has another checksum")
        try:
            about = json.loads(text)
            noted = json.loads(about.pop("__metadata__")["transporter"])
            self.records = Records(noted["clips"])
            self.broken = tuple(BrokenClip(**clip) for clip in noted["broken"])
            self.errors: dict[str, tuple[float, float]] = {n: tuple(sums) for n, sums in noted["errors"].items()}  # type: ignore[misc]
            self._sums: dict[str, bytes] = {name: bytes.fromhex(found) for name, found in noted["sha256"].items()}
            self._tensors = {sys.intern(name): Part.read(tensor, data) for name, tensor in about.items()}
            self.bytes = max(part.stop for part in self._tensors.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(f"its header can't be read: {error!r}", error)
        if not place.remote and place.size(self.file) != self.bytes:  # of a bucket, it is noticed when that is read
            self._refuse(f"it has {place.size(self.file)} bytes, not {self.bytes}")

    def spans(self, name: str, row: int, caption: int = 0) -> list[Span]:
        """Where one of ``TENSORS`` of a clip lies (the condition is a caption's), and its scale, if it has one."""
        if name == "condition":
            at = self.records.captions(row)[caption]
            rows = self.records.condition(at)
        else:
            at, rows = row, (row, row + 1)
        found, scale = [self._span(self._tensors[name], *rows)], self._tensors.get(name + SCALE)
        return found if scale is None else [*found, self._span(scale, at, at + 1)]

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor."""
        return DTYPES[self._tensors[name].dtype]

    def check(self) -> None:
        """Compare every byte with its checksum.

        Raises:
            TransporterError: If one differs.
        """
        for name, part in self._tensors.items():
            if hashlib.sha256(self._read(part.start, part.stop)).digest() != self._sums[name]:
                self._refuse(f"its {name} have another checksum")

    def _span(self, part: Part, first: int, last: int) -> Span:
        """Bytes of some rows of a tensor."""
        return self.file, part.start + first * part.width, part.start + last * part.width

    def _own_header(self) -> bytes:
        length = int.from_bytes(self._read(0, 8), "little")
        return bytes(self._read(8, 8 + length))

    def _read(self, start: int, stop: int) -> memoryview:
        try:
            (found,) = self.place.read([(self.file, start, stop)])
        except OSError as error:
            self._refuse(str(error), error)
        return found

    def _refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        msg = f"path: {self.file} in {str(self.place)!r} is damaged or missing ({why}); `transporter cache prune "
        msg += "--damaged` takes away what is, and `transporter encode` makes that again"
        raise TransporterError(msg) from error


def _lengths(condition: Tensor) -> list[int]:
    """Rows of each caption's condition up to the last that is not all zero."""
    filled = condition.ne(0).any(2)
    places = torch.arange(1, filled.shape[1] + 1, device=filled.device)
    lengths: list[int] = (filled * places).amax(1).tolist()
    return lengths


def _bytes(x: Tensor) -> Any:  # noqa: ANN401  (numpy's array, a buffer)
    return x.contiguous().view(torch.uint8).numpy() if x.numel() else b""
