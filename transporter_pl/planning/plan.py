"""What a run costs: shapes, parameters, disk, and memory and arithmetic of every part of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch

from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.loading import BackboneSpec, load_pair, pair_shapes
from transporter_pl.planning.meter import Meter, without_data
from transporter_pl.planning.sizes import Size, sizes_of
from transporter_pl.planning.stages import Stage, stages
from transporter_pl.planning.steps import Batches, Precision, new_network
from transporter_pl.precision import Storage
from transporter_pl.samples import Shapes, VideoSpec

Strategy = Literal["single", "ddp", "fsdp"]


@dataclass(frozen=True)
class Cost:
    """What one part of a run takes on one GPU.

    Attributes:
        stage: ``encode``, ``stage 1``, ``stage 2`` or ``explain``.
        part: Which part of it.
        memory: Bytes at the peak: all weights that the stage holds, and everything that lives with them.
        flops: Floating-point operations of matrix products, convolutions and attention.
    """

    stage: str
    part: str
    memory: int
    flops: int


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it is started.

    Attributes:
        shapes: Of one clip's encodings.
        sizes: Parameters of the models, part by part.
        costs: The parts of a run.
    """

    shapes: Shapes
    sizes: tuple[Size, ...]
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class Spread:
    """How stage 1 is spread over GPUs; the frozen models of the others stand whole on each.

    Attributes:
        strategy: ``single``, ``ddp`` (each GPU holds all) or ``fsdp`` (weights and optimizer are shared out).
        gpus: Their number in each node (``--trainer.devices``).
        nodes: Number of nodes (``--trainer.num_nodes``).

    Raises:
        TransporterError: If the number is below 1, or does not suit the strategy.
    """

    strategy: Strategy = "single"
    gpus: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        check_counts(**{"spread.gpus": self.gpus, "spread.nodes": self.nodes})
        if (self.strategy == "single") != (self.total == 1):
            msg = f"spread.gpus: {self.total} with strategy {self.strategy!r}; use 1 with single, more with ddp or fsdp"
            raise TransporterError(msg)

    @property
    def total(self) -> int:
        """GPUs of all nodes."""
        return self.gpus * self.nodes

    def memory(self, single: int, weights: int) -> int:
        """Bytes on each GPU, from those on a single one.

        DDP adds buckets as large as the gradients. FSDP shares out weights, gradients and AdamW's two moments, and
        gathers weights and gradients whole while a step runs, as Lightning wraps Φ in one piece.
        """
        if self.strategy == "ddp":
            return single + weights
        shared = 4 * weights
        return single if self.strategy == "single" else single - shared + shared // self.total + 2 * weights


def make_plan(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingOptions = CouplingOptions(),  # noqa: B008  (frozen)
    batches: Batches = Batches(),  # noqa: B008  (frozen)
    precision: Precision = "32-true",
    spread: Spread = Spread(),
    storage: Storage = "bfloat16",
) -> Plan:
    """Run one step of everything on tensors without data: no weight is read, and nothing is computed.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        video: Geometry of the clips.
        network: Options of Φ.
        batches: How much is done at once, on each GPU.
        precision: Lightning's, in both stages.
        spread: How stage 1 is spread over GPUs.
        storage: Type of the latent cache.

    Raises:
        TransporterError: If a configuration can't be read, or the geometry or Φ's options don't suit.
    """
    shapes = pair_shapes(generator, vlm, video)
    with without_data(), linear_attention():
        phi = new_network(CouplingConfig.of(shapes, network), precision)  # first, as a bad option is found at once
        own = tuple(sizes_of("Φ", phi))
        xi, omega = load_pair(replace(generator, weights="random"), replace(vlm, weights="random"), video)
        sizes = (*sizes_of("generator", xi), *sizes_of("vlm", omega), *own)
        encoding, concept, explaining, coupling = stages(xi, omega, phi.config, batches, precision, storage)
        weights = sum(size.bytes for size in own)
        spread_out = [replace(cost, memory=spread.memory(cost.memory, weights)) for cost in costs_of(coupling)]
        costs = (*costs_of(encoding), *spread_out, *costs_of(concept), *costs_of(explaining))
    return Plan(shapes, sizes, costs)


def costs_of(stage: Stage) -> Iterator[Cost]:
    """Run the parts of a stage, and count what they take together with what it holds."""
    meter = Meter()
    meter.hold(*stage.held)
    with meter:
        for part in stage.parts:
            meter.restart()
            part.run()
            yield Cost(stage.name, part.name, meter.peak, meter.flops)


@contextmanager
def linear_attention() -> Iterator[None]:
    """Without the fast path of frozen Transformer layers, which the CPU has in a form that keeps all N² weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
