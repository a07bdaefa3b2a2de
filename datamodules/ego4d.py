"""Clips of Ego4D (Grauman et al. 2022) round its narrations, in the folder that its own command line fills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transporter_pl.datamodules.annotations import check_choice, read_json
from transporter_pl.datamodules.clips import BrokenClip, CaptionedClips, Captions, Clip, window_around
from transporter_pl.datamodules.narrations import Narration, Passes, Tags, read_narrations, without_tags
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

METADATA = ("ego4d.json", "v2/ego4d.json")  # its code and its documentation differ
NARRATIONS = ("v2/annotations/narration.json", "v2/annotations/all_narrations_redacted.json")
LATE = 1.0  # seconds after a video's end at which a narration may still be of it
SPLITS = ("split_em", "split_av", "split_fho")  # of the benchmarks

Split = Literal["train", "val", "test", "all"]
Videos = Literal["full_scale", "video_540ss"]


class Ego4DClips(CaptionedClips):
    """Clips of T / fps seconds, one round each narrated moment of Ego4D.

    A narration is a point in time t. Its clip is centred on t, and moved inside the video where it would begin before
    or end after it. Narrations of a video within the same millisecond are captions of one clip, whose id is
    ``<video_uid>_<milliseconds>``.

    Ego4D has a split for each benchmark. A video is of ``train`` if none of them says otherwise; it is of ``val`` or
    of ``test`` if any of them says so, and may be of both. One that has several in a benchmark (``multi``) is never of
    ``train``. Narrations of videos that ``ego4d.json`` does not know are left out, and these videos listed in
    ``broken``.

    Args:
        root: The output folder of Ego4D's command line, which holds ``v2``.
        video: Geometry that the clips are read in.
        annotations: File of narrations, of either schema; by default ``narration.json`` or else
            ``all_narrations_redacted.json`` in ``v2/annotations``.
        videos: The videos' folder in ``v2``: ``full_scale`` or ``video_540ss``.
        passes: Narrations of ``both`` passes, of 1 or of 2; the second schema does not tell them apart.
        tags: ``clean`` turns ``#C C`` into "the camera wearer" and ``#unsure`` into "something", and leaves out
            ``#O``; ``keep`` leaves the text as it is written.
        split: ``train``, ``val``, ``test`` or ``all``.
        captions: Of each clip's narrations the ``first``, one at ``random`` (the same at every reading, by ``seed``),
            ``all``, or ``none``.
        limit: At most so many clips, spread evenly over those that can be used.
        seed: Seed of ``random``.

    Raises:
        TransporterError: If the folder or the files can't be read, or there is no clip to read.
    """

    def __init__(
        self,
        root: str | Path,
        video: VideoSpec,
        annotations: str | Path | None = None,
        videos: Videos = "full_scale",
        passes: Passes = "both",
        tags: Tags = "clean",
        split: Split = "train",
        captions: Captions = "first",
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        for field, value, choices in (("videos", videos, Videos), ("passes", passes, Passes), ("tags", tags, Tags)):
            check_choice(field, value, choices)
        check_choice("split", split, Split)
        file = None if annotations is None else Path(annotations)
        source = _Source(Path(root), video, file, videos, passes, tags, split)
        super().__init__(root, source.clips(), video, captions, limit, seed)


@dataclass(frozen=True)
class _Source:
    """What decides which clips there are."""

    root: Path
    video: VideoSpec
    annotations: Path | None
    videos: Videos
    passes: Passes
    tags: Tags
    split: Split

    def clips(self) -> Iterator[Clip | BrokenClip]:
        """Clips of the split, video by video in the file's order, moments in theirs."""
        file = self.annotations or _find(self.root, NARRATIONS, "annotations")
        known = _videos(_find(self.root, METADATA, "root"))
        for uid, narrations in read_narrations(file, self.passes):
            if uid not in known:
                yield BrokenClip(uid, "ego4d.json does not know this video")
            elif _is_of(known[uid], self.split):
                yield from self._round(uid, narrations, known[uid].get("duration_sec"))

    def _round(self, uid: str, narrations: Iterator[Narration], duration: object) -> Iterator[Clip | BrokenClip]:
        """The clips of one video."""
        if not isinstance(duration, int | float) or not duration > 0:
            yield BrokenClip(uid, f"duration_sec {duration!r} in ego4d.json is no length")
            return
        moments: dict[int, list[str]] = {}
        for number, (time, text) in enumerate(narrations):
            if not isinstance(time, int | float) or not abs(time) < 1e9:  # also NaN
                yield BrokenClip(f"{uid}#{number}", f"its time {time!r} is no number of seconds")
            elif time > duration + LATE:
                yield BrokenClip(f"{uid}#{number}", f"its time {time:g} s is after the video's end, {duration:g} s")
            else:
                moments.setdefault(max(0, round(1000 * time)), []).append(text)
        file = f"v2/{self.videos}/{uid}.mp4"
        for moment in sorted(moments):
            said = dict.fromkeys(map(without_tags, moments[moment]) if self.tags == "clean" else moments[moment])
            window = window_around(moment / 1000, self.video, duration)
            yield Clip(f"{uid}_{moment:09d}", file, tuple(said), *window)


def _find(root: Path, places: tuple[str, ...], field: str) -> Path:
    found = next((root / place for place in places if (root / place).is_file()), None)
    if found is None:
        msg = f"{field}: neither {places[0]} nor {places[1]} in {str(root)!r}; give the output folder of `ego4d`"
        raise TransporterError(msg)
    return found


def _videos(file: Path) -> dict[str, dict[str, Any]]:
    """Entries of ``ego4d.json`` by video_uid."""
    content = read_json("root", file)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, list) or not all(isinstance(_uid(v), str) for v in videos):
        msg = f"root: {str(file)!r} has no list `videos` with a video_uid each; give Ego4D's own file"
        raise TransporterError(msg)
    return {video["video_uid"]: video for video in videos}


def _uid(video: object) -> object:
    return video.get("video_uid") if isinstance(video, dict) else None


def _is_of(video: dict[str, Any], split: Split) -> bool:
    said = [video.get(name) for name in SPLITS]
    if split == "train":
        return all(part in (None, "train") for part in said)
    return split == "all" or split in said
