"""Where sampling begins when it begins with a real clip."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.errors import TransporterError

Start = Literal["noised", "inverted"]


def begin(
    generator: GeneratorAdapter,
    start: Start,
    clean: Tensor,
    noise: Tensor,
    condition: Tensor,
    steps: int,
    depth: float,
) -> tuple[Tensor, int]:
    """Latents to begin with, and the index of the first step; see ``noised`` and ``inverted``.

    Raises:
        TransporterError: As ``check_start`` and ``first_step``.
    """
    check_start(start, depth)
    if start == "noised":
        return noised(generator, clean, noise, steps, depth)
    return inverted(generator, clean, condition, steps, depth)


def first_step(times: Tensor, depth: float) -> int:
    """Index of the first step whose t is at most ``depth``.

    Args:
        times: t of every step, descending, (steps,).
        depth: In (0, 1]: how far the clip goes back towards noise; 1 is noise alone.

    Raises:
        TransporterError: If the depth leaves (0, 1], or lies below the last step's t.
    """
    check_depth(depth)
    below = (times <= depth + 1e-6).nonzero()
    if not len(below):
        msg = f"depth: {depth:g} lies below the last of {len(times)} steps, at t = {times[-1]:.3g}; go deeper, or "
        raise TransporterError(msg + "raise steps")
    return int(below[0])


def check_start(start: str, depth: float) -> None:
    """Refuse a way to begin that is unknown, and a depth outside (0, 1].

    Raises:
        TransporterError: If so.
    """
    if start not in get_args(Start):
        msg = f"start: {start!r} is unknown; use {' or '.join(get_args(Start))}"
        raise TransporterError(msg)
    check_depth(depth)


def check_depth(depth: float) -> None:
    """Refuse a depth outside (0, 1].

    Raises:
        TransporterError: If so.
    """
    if not 0 < depth <= 1:
        msg = f"depth: {depth:g} is not in (0, 1]; give the share of the way back to noise, such as 0.8"
        raise TransporterError(msg)


def noised(generator: GeneratorAdapter, clean: Tensor, noise: Tensor, steps: int, depth: float) -> tuple[Tensor, int]:
    """z_t = (1 − t) z + t ω at the first of the schedule's times that is at most ``depth``.

    Args:
        generator: The generator.
        clean: z of the clip, (B, C, T', H', W').
        noise: ω, the same shape.
        steps: Denoising steps of the whole way.
        depth: How far back towards noise.

    Returns:
        z_t, and the index of the step that goes on from there.

    Raises:
        TransporterError: As ``first_step``.
    """
    times = generator.schedule(steps).times
    start = first_step(times, depth)
    t = times[start].to(clean)
    return (1 - t) * clean + t * noise, start


@torch.no_grad()
def inverted(
    generator: GeneratorAdapter, clean: Tensor, condition: Tensor, steps: int, depth: float
) -> tuple[Tensor, int]:
    """The z_t from which the generator itself draws the clip: its flow run backwards, dz/dt = G(z_t, ε−, t).

    Backwards over the schedule's own times, without guidance, by the midpoint rule. It needs two evaluations a step; on
    ShapeMotion clips the latents then come back with about 0.6 of the error that Euler's rule leaves in as many steps.

    Args:
        generator: The generator.
        clean: z of the clip, (B, C, T', H', W').
        condition: ε− of its caption, (B, L, D_c).
        steps: Denoising steps of the whole way.
        depth: How far back towards noise.

    Returns:
        z_t, and the index of the step that goes on from there.

    Raises:
        TransporterError: As ``first_step``.
    """
    times = generator.schedule(steps).times
    start = first_step(times, depth)
    way = [0.0, *times[start:].flip(0).tolist()]
    latents = clean
    for low, high in pairwise(way):
        middle = latents + (high - low) / 2 * _velocity(generator, latents, condition, low)
        latents = latents + (high - low) * _velocity(generator, middle, condition, (low + high) / 2)
    return latents, start


def _velocity(generator: GeneratorAdapter, latents: Tensor, condition: Tensor, t: float) -> Tensor:
    return generator.velocity(latents, condition, torch.full((len(latents),), t, device=latents.device))
