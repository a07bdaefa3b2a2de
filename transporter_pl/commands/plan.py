"""``transporter plan``: what a run costs, before anything is downloaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.files import check_folder, replace_file
from transporter_pl.loading import BackboneSpec
from transporter_pl.planning.gpus import GIB, GPU, find_gpu
from transporter_pl.planning.plan import Cost, Plan, Spread, make_plan
from transporter_pl.planning.steps import Batches, Precision
from transporter_pl.samples import VideoSpec

# a rule of thumb for what is on a GPU beside tensors: CUDA's context, the workspaces of its libraries
BESIDE = round(1.5 * GIB)


def plan(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingOptions = CouplingOptions(),  # noqa: B008  (frozen)
    batches: Batches = Batches(),  # noqa: B008  (frozen)
    clips: int = 1000,
    precision: Precision = "32-true",
    spread: Spread = Spread(),  # noqa: B008  (frozen)
    gpu: str = "H100 80GB",
    out: Path | None = None,
) -> Plan:
    """Shapes, parameters, disk, memory and arithmetic of a run, from configurations alone.

    Args:
        generator: The generator.
        vlm: The VLM.
        video: Geometry of the videos.
        network: Options of Φ.
        batches: How much is done at once, on each GPU.
        clips: Clips of the data set.
        precision: Lightning's, in both stages.
        spread: How stage 1 is spread over GPUs.
        gpu: Name of a GPU, or its GiB.
        out: JSON file to write.

    Returns:
        The plan.

    Raises:
        TransporterError: If the GPU is unknown, a count is below 1, ``out`` is a folder, a configuration can't be read,
            or the geometry or Φ's options don't suit.
    """
    check_counts(clips=clips)
    card = find_gpu(gpu)
    if out is not None and out.is_dir():
        msg = f"out: {str(out)!r} is a folder; give a JSON file"
        raise TransporterError(msg)
    if out is not None:
        check_folder("out", out.parent)
    console = Console()
    with console.status("running a step of everything, without data"):
        made = make_plan(generator, vlm, video, network, batches, precision, spread)
    for table in (_models(made), _data(made, clips), _run(made, card)):
        console.print(table)
    if out is not None:
        text = json.dumps(_plain(made, clips, card), indent=1, ensure_ascii=False)
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


def _data(made: Plan, clips: int) -> Table:
    table = Table("", "", title="Data", title_justify="left", show_header=False)
    (count, width), shapes = made.shapes.tokens, made.shapes
    table.add_row("latents z_Ξ (C, T', H', W')", " × ".join(map(str, shapes.latents)))
    table.add_row("condition (L, D_c)", " × ".join(map(str, shapes.condition)))
    table.add_row("tokens z_Ω (N, D)", f"{count} × {width}")
    table.add_row("cache, one clip", f"{made.clip_bytes / 2**20:.1f} MiB")
    table.add_row(f"cache, {clips} clips", f"{clips * made.clip_bytes / GIB:.1f} GiB")
    return table


def _run(made: Plan, gpu: GPU) -> Table:
    table = Table("stage", "part", "GiB", "fits", "TFLOP", "at least s", title=f"On {gpu.name}", title_justify="left")
    for cost in made.costs:
        least = "" if gpu.flops is None else f"{cost.flops / gpu.flops:.2g}"
        verdict = "yes" if fits(cost, gpu) else "[red]no[/red]"
        table.add_row(cost.stage, cost.part, f"{cost.memory / GIB:.1f}", verdict, f"{cost.flops / 1e12:.2f}", least)
    return table


def _plain(made: Plan, clips: int, gpu: GPU) -> dict[str, Any]:
    costs = [{**asdict(cost), "fits": fits(cost, gpu)} for cost in made.costs]
    cache = {"clips": clips, "cache_bytes": clips * made.clip_bytes}
    return {**asdict(made), **cache, "gpu": asdict(gpu), "costs": costs}
