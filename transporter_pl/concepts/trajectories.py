"""Where concept vectors are trained: intermediate latents of both ends, ε− and ε+.

Drawn from ε− alone, q would never be trained where sampling with it goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter
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


@dataclass(frozen=True)
class Trajectories:
    """Intermediate latents z_t of several captions or clips: R rows, the noise runs fastest, then time, then caption.

    Attributes:
        latents: z_t, (R, C, T', H', W').
        t: Their times, (R,).
        noises: Noises of each caption or clip at each time.
        each: Rows of each caption or clip.
    """

    latents: Tensor
    t: Tensor
    noises: int
    each: int

    def rows(self, index: int) -> Tensor:
        """Rows of one caption or clip."""
        return torch.arange(index * self.each, (index + 1) * self.each)


def generated_trajectories(
    generator: GeneratorAdapter,
    conditions: Tensor,
    noise: Tensor,
    steps: int,
    guidance: float | None,
    at_once: int,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Trajectories:
    """Every z_t on the way from noise to the videos of several captions, on the CPU.

    Args:
        generator: The generator.
        conditions: ε of K captions, (K, L, D_c).
        noise: z_1 of S trajectories of every caption, (K, S, C, T', H', W').
        steps: Denoising steps of each.
        guidance: Guidance scale; ``None`` takes the generator's own.
        at_once: Latents that are denoised at once.
        watch: Sees the batches pass by, as a progress bar does.
    """
    noises, clips = noise.shape[1], noise.flatten(0, 1)
    rows = range(0, len(clips), at_once)
    paths, times = [], []
    for start in watch(rows):
        chosen = slice(start, start + at_once)
        condition = conditions[torch.arange(len(clips))[chosen] // noises]
        path = list(denoise(generator, condition, clips[chosen].to(condition.device), steps, guidance))[:-1]
        paths.append(torch.stack([z.cpu() for _, z in path]))
        times = [t for t, _ in path]
    latents = torch.cat(paths, 1).reshape(steps, len(conditions), noises, *generator.latent_shape).movedim(0, 1)
    return _rows(latents, torch.tensor(times))


def noised_trajectories(generator: GeneratorAdapter, clean: Tensor, noise: Tensor, steps: int) -> Trajectories:
    """z_t = (1 − t) z + t ω of several clips, on the CPU.

    Args:
        generator: The generator, whose schedule gives the times.
        clean: z, (K, C, T', H', W').
        noise: ω, (K, S, C, T', H', W').
        steps: Number of times.
    """
    times = generator.schedule(steps).times.to(noise)
    share = times[:, None, None, None, None, None]
    return _rows((1 - share) * clean[:, None, None].to(noise) + share * noise[:, None], times)


def _rows(latents: Tensor, times: Tensor) -> Trajectories:
    """Latents (K, steps, S, C, T', H', W') as rows."""
    count, steps, noises = latents.shape[:3]
    t = times.repeat_interleave(noises).repeat(count)
    return Trajectories(latents.flatten(0, 2).contiguous(), t, noises, steps * noises)
