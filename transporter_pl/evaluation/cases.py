"""Which clips of a data set an evaluation looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from transporter_pl.concepts.pairs import Pair, context_of
from transporter_pl.errors import TransporterError, did_you_mean
from transporter_pl.evaluation.samples import Case
from transporter_pl.samples import VideoSpec
from transporter_pl.video import to_bytes


class Described(Protocol):
    """What is known of a clip before its file is read.

    Attributes:
        id: Its name.
        captions: What is said of it.
    """

    id: str
    captions: tuple[str, ...]


class Source(Protocol):
    """Captioned clips, such as those that ``transporter encode`` reads.

    Attributes:
        video: Geometry that the clips are read in.
        clips: The clips, none of them read.
    """

    video: VideoSpec
    clips: Sequence[Described]

    def __len__(self) -> int:
        """Number of clips."""

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401  (jsonargparse holds a data set's own type against it)
        """One clip, read: its ``video`` is (T, 3, H, W) in [0, 1].

        Raises:
            TransporterError: If its file can't be read.
        """


@dataclass(frozen=True)
class Selection:
    """The clips that were chosen.

    Attributes:
        cases: The cases, pair by pair.
        references: Indices of clips that are none of the cases', see ``ReferenceClips``.
        skipped: What is wrong with clips that would have been chosen.
        doubts: What may be wrong with the pairs.
    """

    cases: tuple[Case, ...]
    references: tuple[int, ...]
    skipped: tuple[str, ...]
    doubts: tuple[str, ...]


def choose(data: Source, pairs: Sequence[Pair], scenes: int, references: int) -> Selection:
    """Cases of every pair, and reference clips; the same ones in every process.

    A case is a clip with a caption that holds the pair's positive word once. No clip serves twice, and both kinds are
    spread evenly over what fits. Only the cases' files are read; one that can't be is replaced by another.

    Args:
        data: The clips.
        pairs: The pairs; their own contexts are not looked at.
        scenes: Cases a pair.
        references: At most so many reference clips.

    Raises:
        TransporterError: If there are fewer cases of a pair (says how many), or no clip is left for a reference.
    """
    taken, cases, skipped, doubts = set[int](), list[Case](), list[str](), list[str]()
    for pair in pairs:
        contexts = _contexts(data.clips, pair, taken)
        if not _contexts(data.clips, pair, set()):
            msg = f"pairs: {_unheard(data.clips, pair.positive)}"
            raise TransporterError(msg)
        if not any(pair.negative in caption for clip in data.clips for caption in clip.captions):
            doubts.append(f"{pair.name}: {_unheard(data.clips, pair.negative)}, if this one is misspelt")
        rows = _evenly(list(contexts), scenes)
        order = [*rows, *(row for row in contexts if row not in rows)]
        videos = dict(islice(read_clips(data, order, skipped.append), scenes))
        if len(videos) < scenes:
            msg = f"scenes: {scenes} of each pair, but of {pair.name} there are {len(videos)}: clips that can be read, "
            msg += f"serve no earlier pair and have a caption with {pair.positive!r} once; ask for fewer scenes, or "
            raise TransporterError(msg + "give more clips")
        taken |= set(order[: order.index(list(videos)[-1]) + 1])
        cases += [Case(pair, contexts[row], data.clips[row].id, video) for row, video in videos.items()]
    left = [row for row in range(len(data.clips)) if row not in taken]
    if not left:
        msg = f"references: the {len(data.clips)} clips are all taken by the cases; ask for fewer scenes, or give more"
        raise TransporterError(msg)
    return Selection(tuple(cases), tuple(_evenly(left, references)), tuple(skipped), tuple(doubts))


def _unheard(clips: Sequence[Described], word: str) -> str:
    """What to say of a word that no caption holds."""
    words = sorted({word for clip in clips for caption in clip.captions for word in caption.split()})
    return f"no clip has a caption with {word!r} once.{did_you_mean(word, words)} Choose a word of the data's captions"


class ReferenceClips:
    """Real clips that are none of the cases', read when they are asked for: all of them may not fit into memory.

    Args:
        data: The clips.
        rows: Their indices.
        skipped: Is told once what is wrong with each that can't be read.
    """

    def __init__(self, data: Source, rows: Sequence[int], skipped: Callable[[str], object]) -> None:
        self._data, self._rows, self._skipped = data, rows, skipped
        self._told = set[str]()
        self._kept: dict[int, Tensor] = {}

    def batches(self, size: int) -> Iterator[Tensor]:
        """All that can be read, (B, T, 3, H, W) in [0, 1], at most ``size`` at once; read anew by every call.

        Raises:
            TransporterError: If none can.
        """
        clips = self._read()
        while some := list(islice(clips, size)):
            yield torch.stack(some)

    def first(self, count: int) -> Tensor:
        """The first that can be read, (M, T, 3, H, W) in [0, 1]; kept as bytes, as one row after the other asks.

        Raises:
            TransporterError: If none can.
        """
        if count not in self._kept:
            some = [to_bytes(clip) for clip in islice(self._read(), count)]
            self._kept[count] = torch.stack(some)
        return self._kept[count].float() / 255

    def _read(self) -> Iterator[Tensor]:
        count = 0
        for count, (_, clip) in enumerate(read_clips(self._data, self._rows, self._tell), 1):  # noqa: B007
            yield clip
        if not count:
            msg = f"references: none of the {len(self._rows)} clips can be read; replace the files"
            raise TransporterError(msg)

    def _tell(self, said: str) -> None:
        if said not in self._told:
            self._told.add(said)
            self._skipped(said)


def read_clips(data: Source, rows: Iterable[int], skipped: Callable[[str], object]) -> Iterator[tuple[int, Tensor]]:
    """The clips that can be read, one after the other: index and video (T, 3, H, W).

    Args:
        data: The clips.
        rows: Indices, in the order in which they are tried.
        skipped: Is told what is wrong with the others.
    """
    for row in rows:
        try:
            video = data[row].video
        except TransporterError as error:
            skipped(f"{data.clips[row].id}: {error}")
        else:
            yield row, video


def _contexts(clips: Sequence[Described], pair: Pair, taken: set[int]) -> dict[int, str]:
    """Of every clip that fits and is free, by its index, the first caption that fits, with a slot for the word."""
    found: dict[int, str] = {}
    for row, clip in enumerate(clips):
        context = None if row in taken else next(filter(None, (_context(c, pair) for c in clip.captions)), None)
        if context is not None:
            found[row] = context
    return found


def _context(caption: str, pair: Pair) -> str | None:
    if pair.positive not in caption:  # most captions, at a fraction of the cost
        return None
    try:
        return pair.context(context_of(caption, pair.positive))  # a caption with braces of its own is refused here
    except TransporterError:
        return None


def _evenly(rows: Sequence[int], count: int) -> list[int]:
    """At most so many of them, spread evenly."""
    count = min(count, len(rows))
    return [rows[k * len(rows) // count] for k in range(count)]
