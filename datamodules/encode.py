"""``transporter encode``: captioned videos → latent cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch.utils.data import DataLoader, Dataset, Subset

from transporter_pl.datamodules.cache_files import CacheKey, CacheWriter, check_key
from transporter_pl.datamodules.clips import BrokenClip, CaptionedClips, join
from transporter_pl.encoding import encode
from transporter_pl.errors import TransporterError
from transporter_pl.files import check_folder
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.origin import origin_of
from transporter_pl.samples import Clips

LISTED = 10  # names printed before "and … more"


@dataclass(frozen=True)
class EncodeReport:
    """What became of a data set's clips.

    Attributes:
        encoded: Clips in the cache, those of an earlier, interrupted run included.
        missing: Names of annotated clips without a file.
        broken: Clips that could not be used.
    """

    encoded: int
    missing: tuple[str, ...]
    broken: tuple[BrokenClip, ...]


def encode_videos(
    data: CaptionedClips,
    generator: BackboneSpec,
    vlm: BackboneSpec,
    out: Path,
    batch_size: int = 8,
    device: str = "auto",
    num_workers: int = 0,
) -> EncodeReport:
    """Write z_Ξ, π_Ξ, z_Ω and z_Ξ→Ω of every clip to a cache; an interrupted run goes on where it stopped.

    Args:
        data: The captioned clips, read in the geometry that they are encoded in.
        generator: The generator Ξ.
        vlm: The VLM Ω.
        out: Folder of the cache.
        batch_size: Clips encoded at once.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.
        num_workers: Processes that read videos.

    Returns:
        What was encoded, and what could not be; the latter is printed too.

    Raises:
        TransporterError: Before any clip is read, if the backbones don't suit the geometry, or ``out`` holds a cache
            made with other settings; at the end, if not a single clip could be encoded.
    """
    if batch_size < 1:
        msg = f"batch_size: {batch_size} is below 1"
        raise TransporterError(msg)
    check_folder("out", out)
    # how a backward pass would go changes nothing in a cache
    kept = replace(generator, checkpointing=False), replace(vlm, checkpointing=False)
    key = CacheKey(*kept, video=data.video, clips=data.fingerprint)
    check_key(out, key)
    xi, omega = load_pair(generator, vlm, data.video, device=device)
    made = origin_of(xi, omega)
    key = replace(key, generator_weights=made.generator_weights, vlm_weights=made.vlm_weights)
    writer = CacheWriter(out, key)
    with _progress() as progress:
        task = progress.add_task("encoding", total=len(data), completed=writer.start)
        try:
            for clips, broken, end in _batches(data, writer, batch_size, num_workers):
                moved = None if clips is None else replace(clips, video=clips.video.to(xi.device))
                writer.add(None if moved is None else encode(xi, omega, moved), broken, end)
                progress.update(task, completed=end)
        except BaseException:  # Ctrl-C too
            writer.keep()
            raise
    index = writer.finish()
    if not index.shards:
        msg = f"data: none of the {len(data)} clips could be encoded; the first: {index.broken[0].reason}"
        raise TransporterError(msg)
    report = EncodeReport(sum(s.clips for s in index.shards), data.missing, (*data.broken, *index.broken))
    _print(report, out)
    return report


class _Tolerant(Dataset[Clips | BrokenClip]):
    """The clips, with a note in the place of each that can't be read."""

    def __init__(self, data: CaptionedClips) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Clips | BrokenClip:
        try:
            return self.data[index]
        except TransporterError as error:
            return BrokenClip(self.data.ids[index], str(error))


def _batches(
    data: CaptionedClips, writer: CacheWriter, batch_size: int, num_workers: int
) -> Iterator[tuple[Clips | None, list[BrokenClip], int]]:
    """What is not on disk yet: readable clips, broken ones, and how many of the data's clips are done with them."""
    if writer.index.complete:
        return
    rest = Subset(_Tolerant(data), range(writer.start, len(data)))
    end = writer.start
    for batch in DataLoader(rest, batch_size, collate_fn=list, num_workers=num_workers):
        end += len(batch)
        clips = [item for item in batch if isinstance(item, Clips)]
        yield join(clips) if clips else None, [item for item in batch if isinstance(item, BrokenClip)], end


class _Throughput(ProgressColumn):
    """Clips a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} clips/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Throughput(), TimeRemainingColumn()
    )


def _print(report: EncodeReport, out: Path) -> None:
    """Say what is in the cache, and list what is not."""
    console = Console()
    console.print(f"{report.encoded} clips in {out}", highlight=False)
    missing = [BrokenClip(name, "no file") for name in report.missing]
    for title, clips in (("missing", missing), ("broken", list(report.broken))):
        if clips:
            console.print(f"{len(clips)} {title}:", highlight=False)
        for clip in clips[:LISTED]:
            console.print(f"  {clip.id}: {clip.reason}", highlight=False, markup=False, soft_wrap=True)
        if len(clips) > LISTED:
            console.print(f"  and {len(clips) - LISTED} more", highlight=False)
