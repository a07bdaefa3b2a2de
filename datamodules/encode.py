"""``transporter encode``: captioned videos → latent cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from transporter_pl.datamodules.cache.encoder import ClipEncoder, Uncaptioned
from transporter_pl.datamodules.cache.index import (
    LEFT_OUT,
    Summary,
    cache_files,
    index_of,
    stray_files,
    write_index,
    write_left_out,
)
from transporter_pl.datamodules.cache.key import CacheKey, Manifest, check_key, write_manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.storage import check_storage
from transporter_pl.datamodules.cache.writing import launched, write_shards
from transporter_pl.datamodules.clips import BrokenClip, CaptionedClips
from transporter_pl.errors import TransporterError, check_counts, check_not_negative
from transporter_pl.files import check_folder, delete
from transporter_pl.loading import BackboneSpec, load_pair, pair_shapes
from transporter_pl.origin import origin_of
from transporter_pl.planning.totals import clip_bytes
from transporter_pl.precision import Storage
from transporter_pl.samples import Shapes

SHARD_BYTES = 2**30  # large for the sake of buckets, and of folders of many; each process that is killed loses one
SHARD_CLIPS = 64  # of small clips, too, a killed run loses only so many
LISTED = 10  # names printed before "and … more"


@dataclass(frozen=True)
class EncodeReport:
    """What became of a data set's clips.

    Attributes:
        encoded: Clips in the cache, those of an earlier, interrupted run included.
        missing: Ids of annotated clips without a file.
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
    storage: Storage = "bfloat16",
    shard_clips: int | None = None,
    uncaptioned: Uncaptioned = "empty",
    prompt: str | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    num_workers: int = 0,
) -> EncodeReport | None:
    """Write z_Ξ, z_Ω, z_Ξ→Ω of every clip and π_Ξ of its captions to a cache; an interrupted run goes on where it was.

    Shards of some clips each are spread over the processes. Each is written whole or not at all, so that a run may be
    killed at any moment: the same command makes the shards that are not there yet.

    Args:
        data: The captioned clips, read in the geometry that they are encoded in.
        generator: The generator Ξ.
        vlm: The VLM Ω.
        out: Folder of the cache.
        batch_size: Clips encoded at once.
        storage: Type in which numbers are stored; float8 has a scale for each clip.
        shard_clips: Clips that make a shard, fixed once a cache is begun; left out, as many as 1 GiB holds, but at
            most 64.
        uncaptioned: What stands for the caption of a clip that has none: an ``empty`` one, or what the ``vlm`` says.
        prompt: The question that the VLM answers then; left out, its own.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.
        devices: Processes on each node, a GPU each where there are GPUs.
        nodes: Machines; torchrun or SLURM start the processes there.
        num_workers: Processes that read videos, for each process that encodes.

    Returns:
        What was encoded, and what could not be, which is printed too and listed in ``left_out.csv``; ``None`` in
        processes beside the first.

    Raises:
        TransporterError: Before any clip is read, if an argument is wrong, the backbones don't suit the geometry, or
            ``out`` holds a cache made with other settings; when a shard can't be written; at the end, if not a single
            clip could be encoded.
    """
    check_counts(batch_size=batch_size, shard_clips=shard_clips, devices=devices, nodes=nodes)
    check_storage(storage)
    check_not_negative(num_workers=num_workers)
    if prompt is not None and uncaptioned != "vlm":
        msg = f"prompt: {prompt!r}, but no VLM is asked for captions; leave it out, or give uncaptioned: vlm"
        raise TransporterError(msg)
    check_folder("out", out)
    # how a backward pass would go changes nothing in a cache
    kept = replace(generator, checkpointing=False), replace(vlm, checkpointing=False)
    key = CacheKey(*kept, video=data.video, clips=data.fingerprint, storage=storage)
    check_key(out, key)
    shapes = pair_shapes(generator, vlm, data.video)
    fabric = launched(device, devices, nodes)
    xi, omega = load_pair(generator, vlm, data.video, device=str(fabric.device))
    encoder, made = ClipEncoder(xi, omega, uncaptioned, prompt, batch_size), origin_of(xi, omega)
    key = replace(key, generator_weights=made.generator_weights, vlm_weights=made.vlm_weights)
    if not all(clip.captions for clip in data.clips):
        key = replace(key, uncaptioned=encoder.rule)
    manifest = check_key(out, key)
    if manifest is not None and shard_clips not in (None, manifest.shard_clips):
        msg = f"shard_clips: {shard_clips}, but the cache in {str(out)!r} was begun with {manifest.shard_clips}; "
        raise TransporterError(msg + "leave it out")
    if manifest is None:
        captions = max(1, *(len(clip.captions) for clip in data.clips))
        size = shard_clips or fitting_clips(shapes, storage, batch_size, captions)
        manifest = Manifest(key, shapes, len(data), size)
        if fabric.is_global_zero:
            write_manifest(out, manifest)
    fabric.barrier()
    write_shards(out, manifest, data, encoder, fabric, num_workers)
    fabric.barrier()
    return _finish(out, manifest, data) if fabric.is_global_zero else None


def _finish(out: Path, manifest: Manifest, data: CaptionedClips) -> EncodeReport:
    """Write the index, and tell what is in the cache and what is not.

    Raises:
        TransporterError: If not a single clip could be encoded; nothing is left of the cache then.
    """
    index, broken = index_of(Place(out), manifest)
    for file in stray_files(out, manifest):
        delete(file)
    if not len(index):
        for file in cache_files(out):
            delete(file)
        msg = f"data: none of the {len(data)} clips could be encoded; the first: {broken[0].reason}"
        raise TransporterError(msg)
    report = EncodeReport(len(index), data.missing, (*data.broken, *broken))
    write_left_out(out, report.missing, report.broken)
    write_index(out, index)
    _print(report, index.summary, out, manifest.key.storage)
    return report


def fitting_clips(shapes: Shapes, storage: Storage, batch_size: int, captions: int = 1) -> int:
    """How many clips make a shard of at most ``SHARD_BYTES``, in whole batches where one fits."""
    fitting = min(SHARD_CLIPS, SHARD_BYTES // clip_bytes(shapes, storage, captions))
    return max(1, fitting - fitting % batch_size if fitting > batch_size else fitting)


def _print(report: EncodeReport, summary: Summary, out: Path, storage: Storage) -> None:
    """Say what is in the cache, how exactly, and list what is not."""
    console = Console(highlight=False, markup=False)
    errors = ", ".join(f"{name} {error:.2%}" for name, error in summary.errors.items())
    console.print(f"{summary.clips} clips with {summary.captions} captions in {out}", soft_wrap=True)
    console.print(f"stored as {storage}, which changes them by: {errors}", soft_wrap=True)
    missing = [BrokenClip(name, "no file") for name in report.missing]
    for title, clips in (("missing", missing), ("broken", list(report.broken))):
        if clips:
            console.print(f"{len(clips)} {title}:")
        for clip in clips[:LISTED]:
            console.print(f"  {clip.id}: {clip.reason}", soft_wrap=True)
        if len(clips) > LISTED:
            console.print(f"  and {len(clips) - LISTED} more, all in {out / LEFT_OUT}", soft_wrap=True)
