"""What every data set of video files gives: one clip at an index, and an account of what it can't give."""

from __future__ import annotations

import hashlib
import json
import random
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset

from transporter_pl.datamodules.annotations import check_choice
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.samples import VideoSpec
from transporter_pl.video import read_video

Captions = Literal["first", "random", "all", "none"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of an annotation file.

    Attributes:
        id: Its name; no other clip of the data set has it.
        file: Its video file, relative to the root of the videos, with ``/`` between folders.
        captions: What is said of it.
        start: Beginning of its window, in seconds after the file's first frame.
        end: End of its window; ``None`` for that of the file.
    """

    id: str
    file: str
    captions: tuple[str, ...] = ()
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True, slots=True)
class BrokenClip:
    """A clip that is there but can't be used.

    Attributes:
        id: Its name.
        reason: Why, in one sentence.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class ReadClip:
    """One clip, read.

    Attributes:
        id: Its name.
        video: Pixels x in [0, 1], (T, 3, H, W).
        captions: What is said of it, as many as were asked for.
    """

    id: str
    video: Tensor
    captions: tuple[str, ...]


class CaptionedClips(Dataset[ReadClip]):
    """Clips in video files under a folder, and what is said of them; readers of annotation files derive from it.

    A clip is one item, however many captions it has. Captions of blanks alone count as none.

    Args:
        root: Folder of the videos.
        rows: The annotated clips in order, and those that an annotation file itself shows to be of no use. They are
            asked for once, after the other arguments are checked.
        video: Geometry that the clips are read in.
        captions: Of each clip's captions the ``first``, one at ``random`` (the same at every reading, by ``seed`` and
            the clip's id), ``all``, or ``none``, where a clip needs none.
        limit: At most so many clips, spread evenly over those that can be used; all by default.
        seed: Seed of ``random``.

    Attributes:
        root: Folder of the videos.
        video: Geometry that the clips are read in.
        clips: The clips that have a file, with the captions that were asked for.
        missing: Ids of annotated clips whose files are not there.
        broken: Clips that are known to be of no use before any file is read.

    Raises:
        TransporterError: If an argument is out of its range, two clips have one id, a file's path leads out of the
            root, or there is no clip to read.
    """

    def __init__(
        self,
        root: str | Path,
        rows: Iterable[Clip | BrokenClip],
        video: VideoSpec,
        captions: Captions = "first",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        check_choice("captions", captions, Captions)
        check_counts(limit=limit)
        self.root, self.video = Path(root), video
        if not self.root.is_dir():
            msg = f"root: no folder {str(root)!r}; give the folder of the videos"
            raise TransporterError(msg)
        self._sizes: dict[str, int | str | None] = {}
        clips, missing, broken = self._sorted(rows, captions, seed)
        if not clips:
            msg = (
                f"root: of {len(missing) + len(broken)} annotated clips, {len(missing)} have no file in {str(root)!r} "
                f"and {len(broken)} are of no use{f' ({broken[0].reason})' if broken else ''}; give the folder of the "
                "videos and annotations of theirs, or captions: none if they have no captions"
            )
            raise TransporterError(msg)
        count = min(limit or len(clips), len(clips))
        self.clips = tuple(clips[i * len(clips) // count] for i in range(count))
        self.missing, self.broken = tuple(missing), tuple(broken)

    @property
    def ids(self) -> tuple[str, ...]:
        """Name of the clip at every index."""
        return tuple(clip.id for clip in self.clips)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> ReadClip:
        """One clip.

        Raises:
            TransporterError: If its file can't be read; the message names it.
        """
        clip = self.clips[index]
        return ReadClip(clip.id, read_video(self.root / clip.file, self.video, clip.start, clip.end), clip.captions)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of ids, files, windows, captions and file sizes, in order; not of where the root is."""
        digest = hashlib.sha256()
        for clip in self.clips:
            row = (clip.id, clip.file, clip.start, clip.end, clip.captions, self._sizes[clip.file])
            digest.update(f"{json.dumps(row)}\n".encode())
        return digest.hexdigest()

    def _sorted(
        self, rows: Iterable[Clip | BrokenClip], captions: Captions, seed: int
    ) -> tuple[list[Clip], list[str], list[BrokenClip]]:
        """Clips to read, ids of missing ones, and broken ones."""
        clips: list[Clip] = []
        missing: list[str] = []
        broken: list[BrokenClip] = []
        known: set[str] = set()
        for row in rows:
            if row.id in known:
                msg = f"id: {row.id!r} names two clips of the annotations; rename or remove one"
                raise TransporterError(msg)
            known.add(row.id)
            size = self._size(row) if isinstance(row, Clip) else None
            if isinstance(row, BrokenClip):
                broken.append(row)
            elif size is None:
                missing.append(row.id)
            elif isinstance(size, str):
                broken.append(BrokenClip(row.id, size))
            elif captions != "none" and not all(map(_is_text, row.captions)):
                broken.append(BrokenClip(row.id, "a caption of it holds half a character"))
            elif captions != "none" and not any(map(str.strip, row.captions)):
                broken.append(BrokenClip(row.id, "it has no caption"))
            else:
                clips.append(_captioned(row, captions, seed))
        return clips, missing, broken

    def _size(self, clip: Clip) -> int | str | None:
        """Bytes of a clip's file, ``None`` if it is missing, or why it can't be opened; asked once a file."""
        if clip.file not in self._sizes:
            check_inside(clip.file, f"clip {clip.id!r}")
            self._sizes[clip.file] = _file_size(self.root / clip.file)
        return self._sizes[clip.file]


def check_inside(file: str, place: str) -> None:
    """Refuse a path that leads out of the folder it is relative to, on any platform; links are the user's own affair.

    Args:
        file: The path, as an annotation file has it.
        place: Where it stands there, for the error.

    Raises:
        TransporterError: If it is absolute, on a drive, or has ``..`` in it.
    """
    path = PureWindowsPath(file)  # takes both kinds of slashes
    if path.anchor or ".." in path.parts or "\0" in file:
        msg = f"{place}: {file!r} leads out of the folder of the videos; give a path below it, without .."
        raise TransporterError(msg)


def window_around(centre: float, video: VideoSpec, duration: float) -> tuple[float, float]:
    """Window of T / fps seconds round a time, moved inside [0, duration]; the whole of what is shorter."""
    length = video.frames / video.fps
    start = max(0.0, min(centre - length / 2, duration - length))
    return start, min(start + length, duration)


def _file_size(path: Path) -> int | str | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: not every text can be a file's name
        return f"its file can't be opened ({error})"
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _is_text(caption: str) -> bool:
    try:
        caption.encode()
    except UnicodeEncodeError:
        return False
    return True


def _captioned(clip: Clip, captions: Captions, seed: int) -> Clip:
    """The clip with the captions that were asked for."""
    said = tuple(caption for caption in clip.captions if caption.strip())
    if captions == "none":
        said = ()
    elif captions == "first":
        said = said[:1]
    elif captions == "random":
        said = (random.Random(f"{seed}/{clip.id}").choice(said),)
    return clip if said == clip.captions else replace(clip, captions=said)
