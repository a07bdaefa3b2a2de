"""What a whole run takes, from one step of everything: disk, hours of GPUs, and bytes a second of the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.explainer import CALIBRATED
from transporter_pl.planning.plan import Plan, Spread
from transporter_pl.planning.steps import Batches
from transporter_pl.precision import Storage
from transporter_pl.samples import Shapes

SCALE = {"float8_e4m3fn": 4}  # bytes of what a clip's numbers are multiplied by, of each tensor
ROWS = 32  # of a condition that are stored: a caption of some twenty words; padding is not stored
JUDGED = 16  # points of each pair at which its loss and Δϑ are measured after stage 2
SEEDS = 2  # with which each pair's dial is calibrated, at every φ of CALIBRATED


@dataclass(frozen=True)
class Work:
    """How much a run does; names in brackets are those of its commands.

    Attributes:
        clips: Clips of the data set.
        captions: Captions of each clip; a clip without any has the empty one.
        steps: Optimiser steps of stage 1 (``--trainer.max_steps``).
        accumulate: Batches of each step, on each GPU (``--trainer.accumulate_grad_batches``).
        pairs: Pairs of words of stage 2.
        contexts: Captions that each pair is learned in.
        concept_steps: Optimiser steps of stage 2 (``--model.steps``).
        sampling_steps: Denoising steps of every video (``--model.sampling_steps``).
    """

    clips: int = 1000
    captions: int = 1
    steps: int = 100_000
    accumulate: int = 8
    pairs: int = 4
    contexts: int = 12
    concept_steps: int = 100
    sampling_steps: int = 20

    def __post_init__(self) -> None:
        """Refuse what is no number of things.

        Raises:
            TransporterError: If a number is below 1.
        """
        check_counts(**{f"work.{name}": value for name, value in vars(self).items()})


@dataclass(frozen=True)
class Speed:
    """How fast GPUs and disk are.

    Attributes:
        utilisation: Share of the data sheet's operations a second that is reached. The default is an assumption.
        bandwidth: Gigabytes (10⁹) a second that each node reads or writes; ``None`` leaves the disk out.

    Raises:
        TransporterError: If the share is not in (0, 1], or the bandwidth not above 0.
    """

    utilisation: float = 0.3
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            msg = (
                f"speed.utilisation: {self.utilisation:g} is not in (0, 1]; give a share of the GPU's peak, such as 0.3"
            )
            raise TransporterError(msg)
        if self.bandwidth is not None and not 0 < self.bandwidth < math.inf:
            msg = f"speed.bandwidth: {self.bandwidth:g} is not above 0; give gigabytes a second, such as 5"
            raise TransporterError(msg)


@dataclass(frozen=True)
class Total:
    """What one stage takes in all.

    Attributes:
        stage: Its name.
        amount: What it does, in words.
        gpus: GPUs that share it.
        arithmetic: Seconds of its operations on these.
        moved: Bytes of the cache that it writes or reads, all GPUs together.
        disk: Seconds that these take; 0 where the disk's bandwidth is not known.
    """

    stage: str
    amount: str
    gpus: int
    arithmetic: float
    moved: int = 0
    disk: float = 0.0

    @property
    def seconds(self) -> float:
        """The longer of the two: the disk works while the GPU does."""
        return max(self.arithmetic, self.disk)

    @property
    def bound(self) -> str:
        """Which of the two that is."""
        return "disk" if self.disk > self.arithmetic else "arithmetic"

    @property
    def demand(self) -> float:
        """Bytes a second of the cache, all GPUs together, with which the disk would not hold up the arithmetic."""
        return self.moved / self.arithmetic


def clip_bytes(shapes: Shapes, storage: Storage, captions: int = 1) -> int:
    """What a clip takes in the latent cache: z_Ξ, z_Ω and z_Ξ→Ω once, and ``ROWS`` rows of π_Ξ for each caption.

    Args:
        shapes: Of one clip's encodings.
        storage: Type of what is stored.
        captions: Captions of the clip.
    """
    length, width = shapes.condition
    kind: torch.dtype = getattr(torch, storage)
    numbers = math.prod(shapes.latents) + 2 * math.prod(shapes.tokens) + captions * min(ROWS, length) * width
    return kind.itemsize * numbers + SCALE.get(storage, 0) * (3 + captions)


def totals(
    plan: Plan, work: Work, batches: Batches, storage: Storage, spread: Spread, flops: float, speed: Speed
) -> tuple[Total, ...]:
    """What each stage takes in all.

    Args:
        plan: One step of everything.
        work: How much is done.
        batches: How much each of the plan's parts does at once.
        storage: Type of the cache.
        spread: The GPUs of stage 1, which encode too. Stage 2 has one.
        flops: Operations a second of a GPU, at most.
        speed: What of that is reached, and the disk's.
    """
    at_once = {"encode": batches.encode, "stage 1": batches.coupling, "stage 2": batches.concept}
    each = {(c.stage, c.part): c.flops / at_once.get(c.stage, batches.explain) for c in plan.costs}
    rate = flops * speed.utilisation
    wire = math.inf if speed.bandwidth is None else speed.bandwidth * 1e9 * spread.nodes

    def shared(stage: str, amount: str, operations: float, moved: int) -> Total:
        return Total(stage, amount, spread.total, operations / (rate * spread.total), moved, moved / wire)

    seen = work.steps * work.accumulate * batches.coupling * spread.total
    said = f"{work.steps} steps of {seen // work.steps} clips, {seen / work.clips:.3g} epochs"
    encoded, read = (clip_bytes(plan.shapes, storage, captions) for captions in (work.captions, 1))
    return (
        shared("encode", f"{work.clips} clips", work.clips * _encoding(each, work), work.clips * encoded),
        shared("stage 1", said, seen * each["stage 1", "step"], seen * read),
        Total("stage 2", f"{work.pairs} pairs", 1, _learning(each, work, batches.concept) / rate),
    )


def _encoding(each: Mapping[tuple[str, str], float], work: Work) -> float:
    """Operations of one clip and its captions."""
    return each["encode", "clips → cache"] + (work.captions - 1) * each["encode", "captions → cache"]


def _learning(each: Mapping[tuple[str, str], float], work: Work, points: int) -> float:
    """Operations of stage 2: trajectories to both ends of every context, steps, what they led to, and calibration.

    v⁻ and v⁺ of a point, two forwards, are counted as another step, a forward and a backward pass.
    """
    point = 2 * each["stage 2", "step"]
    drawn = 2 * work.pairs * work.contexts * work.sampling_steps * each["stage 2", "trajectory step"]
    judged = work.pairs * JUDGED * (point + each["stage 2", "divergence"])
    video = work.sampling_steps * each["explain", "sampling step"]
    video += each["explain", "decode, Φ, encode"] + each["explain", "answers"]
    calibrated = work.pairs * SEEDS * len(CALIBRATED) * video
    return drawn + work.concept_steps * points * point + judged + calibrated
