"""``transporter plan``: what a run costs, before anything is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import filesize
from rich.console import Console
from rich.table import Table

from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.errors import TransporterError
from transporter_pl.files import check_folder, replace_file
from transporter_pl.loading import BackboneSpec
from transporter_pl.planning.gpus import GIB, GPU, find_gpu
from transporter_pl.planning.plan import Cost, Plan, Spread, make_plan
from transporter_pl.planning.steps import Batches, Precision
from transporter_pl.planning.totals import Speed, Total, Work, clip_bytes, totals
from transporter_pl.precision import Storage
from transporter_pl.samples import VideoSpec

# a rule of thumb for what is on a GPU beside tensors: CUDA's context, the workspaces of its libraries
BESIDE = round(1.5 * GIB)


def plan(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingOptions = CouplingOptions(),  # noqa: B008  (frozen)
    batches: Batches = Batches(),  # noqa: B008  (frozen)
    work: Work = Work(),  # noqa: B008  (frozen)
    storage: Storage = "bfloat16",
    precision: Precision = "32-true",
    spread: Spread = Spread(),  # noqa: B008  (frozen)
    gpu: str = "H100 80GB",
    speed: Speed = Speed(),  # noqa: B008  (frozen)
    out: Path | None = None,
) -> Plan:
    """Shapes, parameters, disk, memory, arithmetic and hours of a run, from configurations alone.

    Args:
        generator: The generator.
        vlm: The VLM.
        video: Geometry of the videos.
        network: Options of Φ.
        batches: How much is done at once, on each GPU.
        work: How much is done in all.
        storage: Type that the latent cache is stored in.
        precision: Lightning's, in both stages.
        spread: How stage 1 is spread over GPUs.
        gpu: Name of a GPU, or its GiB.
        speed: What of the GPU's speed is reached, and the disk's bandwidth.
        out: JSON file to write.

    Returns:
        The plan.

    Raises:
        TransporterError: If the GPU is unknown, a count is below 1, ``out`` is a folder, a configuration can't be read,
            or the geometry or Φ's options don't suit.
    """
    card = find_gpu(gpu)
    if out is not None and out.is_dir():
        msg = f"out: {str(out)!r} is a folder; give a JSON file"
        raise TransporterError(msg)
    if out is not None:
        check_folder("out", out.parent)
    console = Console()
    with console.status("running a step of everything, without data"):
        made = make_plan(generator, vlm, video, network, batches, precision, spread, storage)
    clip = clip_bytes(made.shapes, storage, work.captions)
    whole = () if card.flops is None else totals(made, work, batches, storage, spread, card.flops, speed)
    tables = [_models(made), _data(made, clip, work, storage), _run(made, card)]
    for table in tables + ([_whole(whole, card, speed), _disk(whole)] if whole else []):
        console.print(table)
    if out is not None:
        text = json.dumps(_plain(made, clip, work, card, whole), indent=1, ensure_ascii=False)
        replace_file(out, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))
    return made


def fits(cost: Cost, gpu: GPU) -> bool:
    """Whether a part's peak, and what is there beside tensors, is within the GPU's memory."""
    return cost.memory + BESIDE <= gpu.memory


def _models(made: Plan) -> Table:
    table = Table("part", "parameters", "GiB", title="Models", title_justify="left")
    for size in made.sizes:
        table.add_row(size.name, f"{size.parameters / 1e6:,.1f} M", f"{size.bytes / GIB:.2f}")
    return table


def _data(made: Plan, clip: int, work: Work, storage: Storage) -> Table:
    table = Table("", "", title="Data", title_justify="left", show_header=False)
    (count, width), shapes = made.shapes.tokens, made.shapes
    table.add_row("latents z_Ξ (C, T', H', W')", " × ".join(map(str, shapes.latents)))
    table.add_row("condition (L, D_c)", " × ".join(map(str, shapes.condition)))
    table.add_row("tokens z_Ω (N, D)", f"{count} × {width}")
    for count, said in ((1, "one clip"), (work.clips, f"{work.clips} clips")):
        table.add_row(f"cache in {storage}, {said}", filesize.decimal(count * clip))  # as `cache info` says it
    return table


def _run(made: Plan, gpu: GPU) -> Table:
    table = Table("stage", "part", "GiB", "fits", "TFLOP", "at least s", title=f"On {gpu.name}", title_justify="left")
    for cost in made.costs:
        least = "" if gpu.flops is None else f"{cost.flops / gpu.flops:.2g}"
        verdict = "yes" if fits(cost, gpu) else "[red]no[/red]"
        table.add_row(cost.stage, cost.part, f"{cost.memory / GIB:.1f}", verdict, f"{cost.flops / 1e12:.2f}", least)
    return table


def _whole(whole: Sequence[Total], gpu: GPU, speed: Speed) -> Table:
    title = f"In all, at {speed.utilisation:.0%} of the peak of {gpu.name}"
    heads = "stage", "work", "GPUs", "hours", "GPU hours", "bound by"
    table = Table(*heads, title=title, title_justify="left")
    for total in whole:
        hours = total.seconds / 3600
        table.add_row(
            total.stage, total.amount, str(total.gpus), _short(hours), _short(hours * total.gpus), total.bound
        )
    return table


def _disk(whole: Sequence[Total]) -> Table:
    heads = "stage", "TB", "GB/s a GPU", "GB/s in all"
    table = Table(*heads, title="The cache's disk, so that no GPU waits", title_justify="left")
    for total in (total for total in whole if total.moved):
        rates = total.moved / 1e12, total.demand / total.gpus / 1e9, total.demand / 1e9
        table.add_row(total.stage, *map(_short, rates))
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _plain(made: Plan, clip: int, work: Work, gpu: GPU, whole: Sequence[Total]) -> dict[str, Any]:
    costs = [{**asdict(cost), "fits": fits(cost, gpu)} for cost in made.costs]
    cache = {"clips": work.clips, "clip_bytes": clip, "cache_bytes": work.clips * clip}
    derived = [{**asdict(total), "seconds": total.seconds, "bound": total.bound} for total in whole]
    return {**asdict(made), **cache, "gpu": asdict(gpu), "costs": costs, "totals": derived}
