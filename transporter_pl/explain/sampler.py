"""The generator's own denoising loop, with concepts in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.errors import check_counts
from transporter_pl.explain.modulation import Layers, Modulation, check_frames

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
) -> Tensor:
    """Denoise as the generator's own pipeline does: v = v_u + g (v_c − v_u), v_u the velocity of an empty caption.

    Args:
        generator: The generator Ξ.
        condition: ε−, (B, L, D_c).
        noise: z_1, (B, C, T', H', W').
        steps: Denoising steps.
        guidance: Classifier-free guidance scale g, the same in all steps, 1 is without guidance; ``None`` takes the
            generator's own, which may depend on t.
        modulations: Concepts that move the condition.
        watch: Is given the steps, as ``denoise`` yields them, and hands them on.

    Returns:
        Latents z_0, (B, C, T', H', W').

    Raises:
        TransporterError: If there is no step, the guidance is below 1, or frame weights don't fit the latents.
    """
    ((_, latents),) = deque(watch(denoise(generator, condition, noise, steps, guidance, modulations)), maxlen=1)
    return latents


@torch.no_grad()
def denoise(
    generator: GeneratorAdapter,
    condition: Tensor,
    noise: Tensor,
    steps: int,
    guidance: float | None = None,
    modulations: Sequence[Modulation] = (),
) -> Iterator[Step]:
    """The steps of ``sample``: yields (t, z_t) before every step, and (0, z_0) last."""
    check_counts(steps=steps, guidance=guidance)
    check_frames(modulations, noise.shape[2])
    schedule = generator.schedule(steps)
    times = schedule.times.tolist()
    scales = [generator.guidance_at(t) if guidance is None else guidance for t in times]
    unconditional = generator.encode_text([""]).expand_as(condition) if max(scales) > 1 else None
    latents = noise
    for index, (t, scale) in enumerate(zip(times, scales, strict=True)):
        yield t, latents
        layers = Layers.at(t, condition, modulations)
        fields = velocities(generator, latents, layers, schedule.times[index], unconditional)
        velocity = layers.blend(fields[: len(layers.conditions)])
        if unconditional is not None:
            velocity = fields[-1] + scale * (velocity - fields[-1])
        latents = schedule.step(velocity, index, latents)
    yield 0.0, latents


def velocities(
    generator: GeneratorAdapter, latents: Tensor, layers: Layers, t: Tensor, unconditional: Tensor | None
) -> tuple[Tensor, ...]:
    """The field of every layer, and of the empty caption last, in one forward; (B, C, T', H', W') each."""
    conditions = [*layers.conditions, *([] if unconditional is None else [unconditional])]
    times = t.to(latents).expand(len(conditions) * len(latents))
    fields = generator.velocity(torch.cat([latents] * len(conditions)), torch.cat(conditions), times)
    return fields.chunk(len(conditions))


def draw_noise(generator: GeneratorAdapter, seeds: Sequence[int]) -> Tensor:
    """One noise z_1 ~ N(0, I) a seed, (B, C, T', H', W'), the same on every device."""
    noise = [torch.randn(generator.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(generator.device)
