"""One real step of everything at full size with random weights, beside what ``transporter plan`` says of it.

    python benchmarks/plan.py --config backbones/wan2.2-5b_videollama3.yaml --device cuda

Writes a row for each part: predicted and measured peak of memory, the difference, and seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from transporter_pl.commands.arguments import call, find_configs
from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.loading import BackboneSpec, load_pair, pair_shapes
from transporter_pl.planning.gpus import GIB
from transporter_pl.planning.plan import Cost, make_plan
from transporter_pl.planning.stages import stages
from transporter_pl.planning.steps import Batches, Part, Precision
from transporter_pl.samples import VideoSpec

OPTIONS, ONE = CouplingOptions(), Batches(encode=1, coupling=1, concept=1, explain=1)


def measure(
    parts: Iterable[Part], peak_of: Callable[[Callable[[], object]], int], clock: Callable[[], float]
) -> list[tuple[str, int, float]]:
    """Name, peak of memory and seconds of each part; the first of two runs is weighed, the second timed."""
    found = []
    for part in parts:
        peak, start = peak_of(part.run), clock()
        part.run()
        found.append((part.name, peak, clock() - start))
    return found


def gpu_peak(device: torch.device, run: Callable[[], object]) -> int:
    """Most bytes that were allocated while it ran."""
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device)


def gpu_clock(device: torch.device) -> float:
    """Seconds, once all work is done."""
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measured(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingOptions,
    batches: Batches,
    precision: Precision,
    device: str,
) -> dict[tuple[str, str], tuple[int, float]]:
    """Peak and seconds of every part, with weights and tensors on a GPU, by the names of stage and part."""
    config = CouplingConfig.of(pair_shapes(generator, vlm, video), network)
    pair = load_pair(replace(generator, weights="random"), replace(vlm, weights="random"), video, device=device)
    place, run = pair[0].device, stages(*pair, config, batches, precision)
    del pair  # stage 1 has the GPU to itself
    found = {}
    for stage in run:
        for name, peak, seconds in measure(stage.parts, partial(gpu_peak, place), partial(gpu_clock, place)):
            found[stage.name, name] = peak, seconds
    return found


def bench(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingOptions = OPTIONS,
    batches: Batches = ONE,
    precision: Precision = "bf16-mixed",
    device: str = "cuda",
) -> None:
    """Predicted beside measured.

    Args:
        generator: The generator.
        vlm: The VLM.
        video: Geometry of the videos.
        network: Options of Φ.
        batches: How much is done at once.
        precision: Lightning's, in both stages.
        device: A GPU.
    """
    plan = make_plan(generator, vlm, video, network, batches, precision)
    rows = measured(generator, vlm, video, network, batches, precision, device)
    table = Table(
        "stage", "part", "plan GiB", "measured GiB", "off by", "s", "TFLOP/s", title=torch.cuda.get_device_name()
    )
    for cost in plan.costs:
        table.add_row(*row(cost, *rows[cost.stage, cost.part]))
    Console().print(table)


def row(cost: Cost, peak: int, seconds: float) -> list[str]:
    memory = [f"{cost.memory / GIB:.1f}", f"{peak / GIB:.1f}", f"{cost.memory / peak - 1:+.0%}"]
    return [cost.stage, cost.part, *memory, f"{seconds:.2f}", f"{cost.flops / 1e12 / seconds:.0f}"]


if __name__ == "__main__":
    call(bench, "benchmarks/plan.py", find_configs(sys.argv[1:]))
