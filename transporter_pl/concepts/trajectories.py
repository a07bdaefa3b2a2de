"""Where concept vectors are trained: intermediate latents of both ends, ε− and ε+."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.concepts.objectives import Points
from transporter_pl.concepts.pairs import Pair, context_of
from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import denoise
from transporter_pl.samples import Encoded


@dataclass(frozen=True)
class Setting:
    """One context of one pair.

    Attributes:
        pair: Index of the pair.
        context: The caption with its slot.
        clean: Latents of a clip that shows one of the two ends, (C, T', H', W'); ``None`` where the generator
            draws both.
    """

    pair: int
    context: str
    clean: Tensor | None = None


def settings_of(pairs: Sequence[Pair]) -> list[Setting]:
    """A setting for every context of every pair.

    Raises:
        TransporterError: If a pair has no context.
    """
    for pair in pairs:
        if not pair.contexts:
            msg = f"contexts: the pair {pair.name!r} has none; give captions with a slot {{}}, or trajectory: data"
            raise TransporterError(msg)
    return [Setting(index, context) for index, pair in enumerate(pairs) for context in pair.contexts]


def settings_in(data: Iterable[Encoded], pairs: Sequence[Pair], clips: int) -> list[Setting]:
    """Settings from clips whose captions hold one of a pair's words, as many of either word.

    Args:
        data: Encoded clips.
        pairs: The pairs.
        clips: Clips wanted for each word of each pair.

    Raises:
        TransporterError: If no caption holds a word.
    """
    found: Counter[tuple[int, str]] = Counter()
    settings: list[Setting] = []
    words = [(index, word) for index, pair in enumerate(pairs) for word in (pair.negative, pair.positive)]
    for batch in data:
        for caption, latents in zip(batch.captions, batch.latents, strict=True):
            for index, word in (key for key in words if found[key] < clips):
                try:
                    setting = Setting(index, context_of(caption, word), latents)
                except TransporterError:
                    continue
                settings.append(setting)
                found[index, word] += 1
        if all(found[key] >= clips for key in words):
            break
    for index, word in words:
        if not found[index, word]:
            msg = f"pairs: no caption of the data holds {word!r} (of {pairs[index].name!r}) once; choose other words"
            raise TransporterError(msg)
    return settings


def generated_latents(
    generator: GeneratorAdapter, ends: Tensor, noise: Tensor, steps: int, guidance: float | None
) -> tuple[Tensor, Tensor]:
    """Every z_t on the way from noise to both ends' videos.

    Drawn from ε− alone, q would never be trained where sampling with it goes.

    Args:
        generator: The generator.
        ends: ε− and ε+, (2, L, D_c).
        noise: z_1 of S trajectories, the same for both ends, (S, C, T', H', W').
        steps: Denoising steps K.
        guidance: Guidance scale of the trajectories; ``None`` takes the generator's own.

    Returns:
        Latents (K, 2S, C, T', H', W') and their times (K,).
    """
    conditions = ends.repeat_interleave(len(noise), 0)
    path = list(denoise(generator, conditions, torch.cat([noise, noise]), steps, guidance))[:-1]
    return torch.stack([z for _, z in path]), torch.tensor([t for t, _ in path])


def noised_latents(generator: GeneratorAdapter, clean: Tensor, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """z_t = (1 − t) z + t ω of a clip.

    Args:
        generator: The generator, whose schedule gives the times.
        clean: z, (C, T', H', W').
        noise: ω, (S, C, T', H', W').
        steps: Number of times K.

    Returns:
        Latents (K, S, C, T', H', W') and their times (K,).
    """
    times = generator.schedule(steps).times.to(noise)
    share = times[:, None, None, None, None, None]
    return (1 - share) * clean + share * noise, times


@torch.no_grad()
def points_at(generator: GeneratorAdapter, latents: Tensor, times: Tensor, ends: Tensor, context: int) -> Points:
    """What the frozen generator says at the latents (K, S, ...) of one context: K·S points, S running fastest."""
    fields = []
    for z, t in zip(latents, times, strict=True):
        both = generator.velocity(torch.cat([z, z]), ends.repeat_interleave(len(z), 0), t.to(z).expand(2 * len(z)))
        fields.append(torch.stack(both.chunk(2)))
    negative, positive = torch.cat(fields, 1)
    count = latents.shape[1]
    return Points(
        latents=latents.flatten(0, 1),
        t=times.to(latents).repeat_interleave(count),
        context=torch.full((len(negative),), context, device=latents.device),
        velocity=negative,
        change=positive - negative,
    )


def mean_over_groups(values: Tensor, group: int) -> Tensor:
    """The mean of every ``group`` consecutive rows in place of each of them, (M, ...)."""
    means: Tensor = values.reshape(-1, group, *values.shape[1:]).mean(1)
    return means.repeat_interleave(group, 0)
