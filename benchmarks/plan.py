"""One real step of everything at full size with random weights, beside what ``transporter plan`` says of it.

    python benchmarks/plan.py --config pairs/wan2.2-5b_videollama3.yaml --device cuda

Writes a row for each part: predicted and measured peak of memory, the difference, and seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from transporter_pl.commands.arguments import call, find_configs
from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.encoding import encode
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.planning.gpus import GIB
from transporter_pl.planning.plan import Cost, make_plan
from transporter_pl.planning.steps import (
    CAPTION,
    Batches,
    ConceptSteps,
    CouplingSteps,
    Part,
    Precision,
    encode_parts,
    new_network,
)
from transporter_pl.samples import Clips, Shapes, VideoSpec

OPTIONS, ONE = CouplingOptions(), Batches(encode=1, coupling=1, concept=1, explain=1)


def measure(parts: Iterable[Part], device: torch.device) -> list[tuple[str, int, float]]:
    """Name, peak of allocated bytes and seconds of each part; the second of two runs is timed."""
    found = []
    for part in parts:
        torch.cuda.reset_peak_memory_stats(device)
        part.run()
        torch.cuda.synchronize(device)
        peak, start = torch.cuda.max_memory_allocated(device), time.perf_counter()
        if part.name != "decode, Φ, encode":  # it uses up what the part before it made
            part.run()
        torch.cuda.synchronize(device)
        found.append((part.name, peak, time.perf_counter() - start))
    return found


def measured(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingOptions,
    batches: Batches,
    precision: Precision,
    device: str,
) -> list[tuple[str, int, float]]:
    """Every part of the plan, with weights and tensors on a GPU; stage 1 with nothing else there."""
    xi, omega = load_pair(replace(generator, weights="random"), replace(vlm, weights="random"), video, device=device)
    place, count = xi.device, batches.coupling
    config = CouplingConfig.of(Shapes(xi.latent_shape, xi.condition_shape, omega.token_shape), network)
    found = measure(encode_parts(xi, omega, batches.encode), place)
    clips = Clips(("",), torch.rand(1, video.frames, 3, video.height, video.width, device=place), (CAPTION,))
    clip = encode(xi, omega, clips)
    tensors = {n: getattr(clip, n).repeat_interleave(count, 0) for n in ("latents", "condition", "tokens", "reencoded")}
    batch = replace(clip, ids=("",) * count, captions=(CAPTION,) * count, **tensors)
    steps = ConceptSteps(xi, omega, new_network(config, "32-true", place), batches, precision)
    late = [*measure(steps.parts(), place), *measure(steps.explain_parts(), place)]
    del steps, xi, omega, clip, clips
    torch.cuda.empty_cache()
    phi = new_network(config, precision, place)
    return [*found, *measure(CouplingSteps(phi, batch, precision).parts(), place), *late]


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
    for cost, (name, peak, seconds) in zip(plan.costs, rows, strict=True):
        table.add_row(*row(cost, name, peak, seconds))
    Console().print(table)


def row(cost: Cost, name: str, peak: int, seconds: float) -> list[str]:
    assert cost.part == name
    memory = [f"{cost.memory / GIB:.1f}", f"{peak / GIB:.1f}", f"{cost.memory / peak - 1:+.0%}"]
    return [cost.stage, name, *memory, f"{seconds:.2f}", f"{cost.flops / 1e12 / seconds:.0f}"]


if __name__ == "__main__":
    call(bench, "benchmarks/plan.py", find_configs(sys.argv[1:]))
