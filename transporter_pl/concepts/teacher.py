"""What the frozen models say about every pair; each thing is asked once, however many pairs share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from transporter_pl.concepts.divergences import Divergence
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.reading import token_divergence
from transporter_pl.concepts.trajectories import (
    Setting,
    Trajectories,
    generated_trajectories,
    noised_trajectories,
)
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.errors import TransporterError
from transporter_pl.explain.memory import free_memory

Key = tuple[int, int]


class Teacher:
    """The frozen side of stage 2: conditions, contrasts, trajectories, v−, Δv and Δϑ.

    Captions are told apart by their words: of pairs that share an ε−, its condition, its trajectories and
    G(z_t, ε−, t) are computed once. Velocities and divergences are computed where they are first asked for, and kept.

    Args:
        bridge: Generator, Φ and VLM.
        pairs: The pairs.
        settings: E contexts, each of one pair.
        at_once: Latents that a model is asked about at once.

    Attributes:
        conditions: Conditions of the K captions, (K, L, D_c).
        ends: Which captions are ε− and ε+ of every context, (E, 2).
        pair_of: Index of every context's pair, (E,).

    Raises:
        TransporterError: If a pair is no contrast to the VLM, or none to the generator.
    """

    def __init__(self, bridge: Bridge, pairs: Sequence[Pair], settings: Sequence[Setting], at_once: int = 16) -> None:
        self.bridge, self.pairs, self.settings, self.at_once = bridge, pairs, settings, at_once
        self.contrasts = [Contrast.of(bridge.vlm, pairs[s.pair], s.context) for s in settings]
        ends = [pairs[s.pair].captions(s.context) for s in settings]
        self._captions: dict[str, int] = {}
        self.conditions = torch.empty(0, *bridge.generator.condition_shape, device=bridge.generator.device)
        self.ends = self.learn([caption for both in ends for caption in both]).view(-1, 2)
        self.pair_of = torch.tensor([s.pair for s in settings])
        self._velocities: dict[Key, Tensor] = {}
        self._divergences: dict[Key, float] = {}
        self._check()

    def _check(self) -> None:
        for both, setting in zip(self.ends, self.settings, strict=True):
            if torch.allclose(*self.conditions[both]):  # a batch's rows may differ in their last bits
                name = self.pairs[setting.pair].name
                msg = f"pair: the generator sees no contrast in {name!r} in {setting.context!r}; "
                msg += "choose words that its text encoder tells apart, in a caption that is not cut off before them"
                raise TransporterError(msg)

    @property
    def captions(self) -> list[str]:
        """The K different captions, of all ends and what was learned later."""
        return list(self._captions)

    @property
    def device(self) -> torch.device:
        """Where models and conditions are."""
        return self.conditions.device

    def to(self, device: torch.device) -> None:
        """Move models and conditions."""
        self.bridge.to(device)
        self.conditions = self.conditions.to(device)

    @torch.no_grad()
    def learn(self, captions: Sequence[str]) -> Tensor:
        """Indices of captions among all, (len(captions),); those that are new are encoded."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._captions]
        encode = self.bridge.generator.encode_text
        parts = [encode(new[i : i + self.at_once]) for i in range(0, len(new), self.at_once)]
        self._captions.update(zip(new, range(len(self._captions), len(self._captions) + len(new)), strict=True))
        self.conditions = torch.cat([self.conditions.to(parts[0]), *parts]) if parts else self.conditions
        return torch.tensor([self._captions[caption] for caption in captions])

    def condition(self, context: Tensor, end: int) -> Tensor:
        """ε− (end 0) or ε+ (end 1) of contexts (B,), (B, L, D_c)."""
        return self.conditions[self.ends[context.cpu(), end]]

    def difference(self) -> Tensor:
        """Mean over each pair's contexts of ε+ − ε−, (pairs, L, D_c)."""
        every = torch.arange(len(self.ends))
        change = (self.condition(every, 1) - self.condition(every, 0)).float()
        return torch.stack([change[self.pair_of == index].mean(0) for index in range(len(self.pairs))])

    def condition_rms(self) -> float:
        """Root mean square of ε− over the rows that the captions fill."""
        negative = self.conditions[sorted(set(self.ends[:, 0].tolist()))].float()
        return float(negative[negative.any(-1)].square().mean().sqrt())

    # -- where q is trained -------------------------------------------------------------------------------------------

    def draw(
        self,
        draws: torch.Generator,
        seeds: int = 1,
        noise_seeds: int = 1,
        steps: int = 20,
        guidance: float | None = None,
        watch: Callable[[Iterable[int]], Iterable[int]] = iter,
        drawn: Trajectories | None = None,
    ) -> None:
        """Draw the trajectories: of every caption where the generator draws them, otherwise of every clip.

        Args:
            draws: Source of the noise.
            seeds: Trajectories of each caption, where the generator draws them.
            noise_seeds: Noises of each of these or of each clip, over which Δv and Δϑ are averaged.
            steps: Times on each trajectory.
            guidance: Guidance scale of the trajectories.
            watch: Sees the batches pass by.
            drawn: The generator's trajectories that another teacher has drawn of the same captions and noise.

        Raises:
            TransporterError: If the trajectories don't fit into the memory that is free.
        """
        generator, self.noise_seeds = self.bridge.generator, noise_seeds
        clean = [s.clean for s in self.settings if s.clean is not None]
        count, noises = (len(clean), noise_seeds) if clean else (len(self.captions), seeds * noise_seeds)
        _check_memory(count * noises * steps * math.prod(generator.latent_shape) * 4)
        noise = torch.randn(count, noises, *generator.latent_shape, generator=draws)
        if clean:
            self.trajectories = noised_trajectories(generator, torch.stack(clean).cpu(), noise, steps)
        else:
            options = steps, guidance, self.at_once, watch
            self.trajectories = drawn or generated_trajectories(generator, self.conditions, noise, *options)
        self._rows = self._rows_of_contexts(self.trajectories, bool(clean))

    def _rows_of_contexts(self, trajectories: Trajectories, clips: bool) -> list[Tensor]:
        if clips:
            return [trajectories.rows(index) for index in range(len(self.settings))]
        return [torch.cat([trajectories.rows(end) for end in both]) for both in self.ends.tolist()]

    def places(self, pair: int) -> Tensor:
        """Where a pair may be trained: (M, 2) rows of the trajectories and contexts."""
        mine = [(rows, index) for index, rows in enumerate(self._rows) if self.settings[index].pair == pair]
        return torch.cat([torch.stack([rows, torch.full_like(rows, index)], 1) for rows, index in mine])

    # -- what the models say there ------------------------------------------------------------------------------------

    def points(self, places: Tensor) -> Points:
        """What the generator says at places (B, 2), on the CPU."""
        mates, ends = self._mates(places[:, 0]), self.ends[places[:, 1]]
        group = mates.shape[1]
        keys = [(row, caption) for both in ends.T.tolist() for row, caption in _product(mates, both)]
        negative, positive = self.velocity(keys).reshape(2, len(places), group, *self.bridge.generator.latent_shape)
        own = (places[:, 0] % group)[:, None] == torch.arange(group)
        latents, t = self.trajectories.latents[places[:, 0]], self.trajectories.t[places[:, 0]]
        return Points(latents, t, places[:, 0], places[:, 1], negative[own], (positive - negative).mean(1))

    def _mates(self, rows: Tensor) -> Tensor:
        """Rows over which Δv and Δϑ are averaged, (B, noise_seeds): the noises of one trajectory at one time."""
        return rows[:, None] // self.noise_seeds * self.noise_seeds + torch.arange(self.noise_seeds)

    @torch.no_grad()
    def velocity(self, keys: list[Key]) -> Tensor:
        """G(z_t, ε, t) of pairs (row of the trajectories, caption), on the CPU, (len(keys), C, T', H', W')."""
        new = [key for key in dict.fromkeys(keys) if key not in self._velocities]
        for start in range(0, len(new), self.at_once):
            part = new[start : start + self.at_once]
            rows, captions = torch.tensor(part).T
            latents, t = (field[rows].to(self.device) for field in (self.trajectories.latents, self.trajectories.t))
            fields = self.bridge.generator.velocity(latents, self.conditions[captions], t).cpu()
            self._velocities.update(zip(part, fields, strict=True))
        return torch.stack([self._velocities[key] for key in keys])

    def divergence(self, places: Tensor, prompt: str | None, measure: Divergence) -> Tensor:
        """Δϑ at places (B, 2), mean over the noises, on the CPU, (B,)."""
        mates = self._mates(places[:, 0])
        keys = list(_product(mates, places[:, 1].tolist()))
        new = [key for key in dict.fromkeys(keys) if key not in self._divergences]
        for start in range(0, len(new), self.at_once):
            part = new[start : start + self.at_once]
            found = self._token_divergence(torch.tensor(part), prompt, measure)
            self._divergences.update(zip(part, found.tolist(), strict=True))
        return torch.tensor([self._divergences[key] for key in keys]).view(mates.shape).mean(1)

    def _token_divergence(self, places: Tensor, prompt: str | None, measure: Divergence) -> Tensor:
        """Δϑ at places (B, 2) from the velocities of each place alone, without a mean."""
        rows, context = places.T
        ends = self.ends[context]
        negative, positive = (self.velocity(list(zip(rows.tolist(), e, strict=True))) for e in ends.T.tolist())
        latents, t = self.trajectories.latents[rows], self.trajectories.t[rows]
        points = Points(latents, t, rows, context, negative, positive - negative).to(self.device)
        contrasts = [self.contrasts[index] for index in context.tolist()]
        return token_divergence(self.bridge, points, self.conditions[ends], contrasts, prompt, measure)


def spread(places: Tensor, count: int) -> Tensor:
    """At most so many of the places (M, 2), at even distances."""
    return places[torch.linspace(0, len(places) - 1, min(count, len(places))).round().long()]


def _check_memory(need: int) -> None:
    free = free_memory(torch.device("cpu"))
    if need > free:
        msg = f"memory: the trajectories take {need / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free; give fewer "
        raise TransporterError(
            msg + "contexts, seeds, noise_seeds or sampling_steps, or train the pairs in several runs"
        )


def _product(mates: Tensor, others: Sequence[int]) -> Iterable[Key]:
    """Each row of the mates (B, G) with the B-th of the others."""
    return ((row, other) for group, other in zip(mates.tolist(), others, strict=True) for row in group)
