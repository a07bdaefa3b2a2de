"""What a shard's header says of its clips, kept small."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload


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


class Records(Sequence[Record]):
    """The records of a shard: names and captions as one text, of which a record is parsed when it is looked at.

    As Python's objects, the captions of a large cache would take several times the room.

    Args:
        clips: Fields of each record.
    """

    def __init__(self, clips: Sequence[dict[str, Any]]) -> None:
        texts = [json.dumps((clip["id"], clip["captions"])).encode() for clip in clips]
        self._text, self._ends = b"".join(texts), _sums(map(len, texts))
        self._captions = _sums(len(clip["captions"]) for clip in clips)
        self._conditions = _sums(length for clip in clips for length in clip["lengths"])

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Record]: ...
    def __getitem__(self, row: int | slice) -> Record | Sequence[Record]:
        """One clip's record, or several."""
        if isinstance(row, slice):
            return [self[one] for one in range(len(self))[row]]
        row = range(len(self))[row]
        name, captions = json.loads(self._text[self._ends[row] : self._ends[row + 1]])
        ends = self._conditions[self._captions[row] : self._captions[row + 1] + 1]
        return Record(name, tuple(captions), tuple(stop - start for start, stop in itertools.pairwise(ends)))

    def captions(self, row: int) -> range:
        """Numbers that a clip's captions have in the shard."""
        return range(self._captions[row], self._captions[row + 1])

    def condition(self, caption: int) -> tuple[int, int]:
        """The rows [first, last) that the condition of one of the shard's captions takes."""
        return self._conditions[caption], self._conditions[caption + 1]


def _sums(counts: Iterable[int]) -> array[int]:
    """0 and the running sums of some counts."""
    return array("q", itertools.accumulate(counts, initial=0))
