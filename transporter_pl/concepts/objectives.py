"""What a concept vector minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.explain.modulation import Modulation, modulate
from transporter_pl.options import check_options, plugin_class
from transporter_pl.registry import Registry


@dataclass(frozen=True)
class Loss:
    """What an objective says about B points.

    Attributes:
        total: What is minimised, (B,).
        velocity: The velocity objective in it, (B,).
        start: What the velocity objective is at q = 0, (B,).
        parts: Other parts of the total, by name, (B,) each; they are logged.
    """

    total: Tensor
    velocity: Tensor
    start: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """What concept vectors minimise; it may learn something itself, which is then in its parameters.

    Args:
        teacher: The frozen models and what they say; a subclass may take options after it and the prompt.
        prompt: The question under which the VLM is read; ``None`` takes its own.

    Attributes:
        lr: Learning rate of its own parameters.
        draws: Source of its chance, set anew before every step.
    """

    lr = 0.0
    draws: torch.Generator

    def __init__(self, teacher: Teacher, prompt: str | None = None) -> None:
        super().__init__()
        self.teacher, self.prompt = teacher, prompt

    def prepare(self, places: Sequence[Tensor]) -> None:
        """Look about, once the trajectories are drawn and before the first step; nothing by default.

        Args:
            places: Where each pair may be trained, (M, 2) each, as ``Teacher.places`` gives them.
        """

    def recall(self, points: Points) -> None:
        """Ask the teacher what ``forward`` asks it at points, where a training goes on from a checkpoint."""

    def shift(self) -> Tensor | None:
        """What it adds to the vectors of all pairs, (pairs, L, D_c); ``None``, the default, is nothing."""
        return None

    def story(self, pair: int) -> str:
        """What it has learned about a pair, for the bank; nothing by default."""
        return ""

    @abstractmethod
    def forward(self, points: Points, vector: Tensor, phi: Tensor) -> Loss:
        """The loss of B points, differentiable down to the vectors.

        Args:
            points: Latents, v− and Δv.
            vector: q of each point, (B, L, D_c) or (B, 1, D_c).
            phi: φ of each point, (B,).
        """


objectives: Registry[type[Objective]] = Registry("objectives")


def new_objective(name: str, teacher: Teacher, prompt: str | None, options: Mapping[str, Any]) -> Objective:
    """The objective of a registered name or class path.

    Raises:
        TransporterError: As ``check_objective``.
    """
    return check_objective(name, options)(teacher, prompt, **options)


def check_objective(name: str, options: Mapping[str, Any]) -> type[Objective]:
    """The class of a registered name or class path.

    Raises:
        TransporterError: If the name is unknown or another kind of thing, or it has no such option (lists those that
            it has), or one is of another type than it takes.
    """
    kind = plugin_class(objectives, Objective, "objective", name)
    check_options("objective", name, kind, options, ("teacher", "prompt"))
    return kind


class Velocity(Objective):
    """The paper's objective: the VLM gives the length of the step by φ = Δϑ, its direction is the generator's own."""

    def forward(self, points: Points, vector: Tensor, phi: Tensor) -> Loss:
        """L_q of each point, see ``velocity_objective``."""
        condition = self.teacher.condition(points.context, 0)
        loss, start = velocity_objective(self.teacher.bridge.generator, points, condition, vector, phi)
        return Loss(loss, loss, start)


def velocity_objective(
    generator: GeneratorAdapter, points: Points, condition: Tensor, vector: Tensor, phi: Tensor
) -> tuple[Tensor, Tensor]:
    """L = ‖ sg[G(z_t, ε−, t) + φ Δv] − G(z_t, ε− + φ q, t) ‖² (the paper's L_q), mean over elements, no guidance.

    At φ = 1 it is 0 for q = ε+ − ε−. Between 0 and 1 the target is the interpolated velocity: that is what makes the
    dial continuous, and what the plain difference need not do.

    Args:
        generator: The frozen generator G.
        points: B points, with v− and Δv.
        condition: ε− of each point, (B, L, D_c).
        vector: q of each point, (B, L, D_c) or (B, 1, D_c).
        phi: φ of each point, (B,).

    Returns:
        The loss of each point, (B,), and what it is at q = 0, ‖φ Δv‖², (B,).
    """
    step = phi[:, None, None, None, None] * points.change
    moved = generator.velocity(points.latents, modulate(condition, [Modulation(vector, phi)]), points.t)
    loss = (points.velocity + step - moved).square().flatten(1).mean(1)
    return loss, step.square().flatten(1).mean(1)
