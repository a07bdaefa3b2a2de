"""The generator's own denoising loop, with concepts in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.modulation import Layers, Modulation, check_frames, check_rows

Step = tuple[float, Tensor]  # t and z_t
Watch = Callable[[Iterable[Step]], Iterable[Step]]  # sees the steps pass by, as a progress bar does


def sample(
    generator: GeneratorAdapter,
    condition: Tensor,
    noise: Tensor,
    steps: int,
    guidance: float | None = None,
    modulations: Sequence[Modulation] = (),
    watch: Watch = iter,
    start: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Denoise as the generator's own pipeline does: v = v_u + g (v_c − v_u), v_u the velocity of an empty caption.

    Rows that are still alike are asked of the generator once: of a sweep of φ with one noise, all steps before the
    concept's window cost one row.

    Args:
        generator: The generator Ξ.
        condition: ε−, (B, L, D_c).
        noise: z_1, (B, C, T', H', W'); with a ``start``, the latents there.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale g, the same in all steps, 1 is without guidance; ``None`` takes the
            generator's own, which may depend on t.
        modulations: Concepts that move the condition.
        watch: Is given the steps, as ``denoise`` yields them, and hands them on.
        start: Index of the first step.
        batch_size: Rows that the generator is asked about at once; ``None`` is all.

    Returns:
        Latents z_0, (B, C, T', H', W').

    Raises:
        TransporterError: Before any forward, if there is no step or no such ``start``, the guidance is below 1, or what
            a concept has for each clip or latent frame does not fit the latents.
    """
    path = denoise(generator, condition, noise, steps, guidance, modulations, start, batch_size)
    ((_, latents),) = deque(watch(path), maxlen=1)
    return latents


@torch.no_grad()
def denoise(
    generator: GeneratorAdapter,
    condition: Tensor,
    noise: Tensor,
    steps: int,
    guidance: float | None = None,
    modulations: Sequence[Modulation] = (),
    start: int = 0,
    batch_size: int | None = None,
) -> Iterator[Step]:
    """The steps of ``sample``: yields (t, z_t) before every step, and (0, z_0) last."""
    check_counts(steps=steps, guidance=guidance, batch_size=batch_size)
    check_frames(modulations, noise.shape[2])
    check_rows(modulations, len(noise))
    if not 0 <= start < steps:
        msg = f"start: {start} is none of the {steps} steps; give 0 to {steps - 1}"
        raise TransporterError(msg)
    schedule = generator.schedule(steps)
    times = schedule.times.tolist()[start:]
    scales = [generator.guidance_at(t) if guidance is None else guidance for t in times]
    unconditional = generator.encode_text([""]) if max(scales, default=1.0) > 1 else None
    latents, alike = noise, _alike(condition, noise)
    for index, (t, scale) in enumerate(zip(times, scales, strict=True), start):
        yield t, latents
        alike = _parted(alike, [m for m in modulations if m.acts(t)])
        asked, parts = sorted(set(alike)), []
        for rows in torch.split(torch.tensor(asked), batch_size or len(asked)):
            layers = Layers.at(t, condition[rows], [m.of(rows) for m in modulations])
            fields = velocities(generator, latents[rows], layers, schedule.times[index], unconditional)
            velocity = layers.blend(fields[: len(layers.conditions)])
            parts.append(velocity if unconditional is None else fields[-1] + scale * (velocity - fields[-1]))
        velocity = torch.cat(parts)[[asked.index(row) for row in alike]]
        latents = schedule.step(velocity, index, latents)
    yield 0.0, latents


def _alike(condition: Tensor, latents: Tensor) -> list[int]:
    """For every row, the first that has the same condition and latents."""
    first: list[int] = []
    for row in range(len(latents)):
        same = (
            other
            for other in dict.fromkeys(first)
            if torch.equal(latents[other], latents[row]) and torch.equal(condition[other], condition[row])
        )
        first.append(next(same, row))
    return first


def _parted(alike: list[int], active: Sequence[Modulation]) -> list[int]:
    """``alike``, after concepts have acted that are not the same for all rows."""
    keys = [(first, *(m.key(row) for m in active)) for row, first in enumerate(alike)]
    return [keys.index(key) for key in keys]


def velocities(
    generator: GeneratorAdapter, latents: Tensor, layers: Layers, t: Tensor, unconditional: Tensor | None
) -> tuple[Tensor, ...]:
    """The field of every layer, and of the empty caption last, in one forward; (B, C, T', H', W') each."""
    empty = [] if unconditional is None else [unconditional.expand_as(layers.conditions[0])]
    conditions = [*layers.conditions, *empty]
    times = t.to(latents).expand(len(conditions) * len(latents))
    fields = generator.velocity(torch.cat([latents] * len(conditions)), torch.cat(conditions), times)
    return fields.chunk(len(conditions))


def draw_noise(generator: GeneratorAdapter, seeds: Sequence[int]) -> Tensor:
    """One noise z_1 ~ N(0, I) a seed, (B, C, T', H', W'), the same on every device."""
    noise = [torch.randn(generator.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(generator.device)
