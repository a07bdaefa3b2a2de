"""What the frozen models say about every pair, before any vector is learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from transporter_pl.concepts.divergences import Divergence
from transporter_pl.concepts.objectives import Points, token_divergence
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.concepts.trajectories import (
    Setting,
    generated_latents,
    noised_latents,
    points_at,
)
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.errors import TransporterError


class Teacher:
    """The frozen side of stage 2: conditions, contrasts, trajectories, v−, Δv and Δϑ.

    Args:
        bridge: Generator, Φ and VLM.
        pairs: The pairs.
        settings: E contexts, each of one pair.

    Attributes:
        ends: ε− and ε+ of every context, (E, 2, L, D_c).
        pair_of: Index of every context's pair, (E,).

    Raises:
        TransporterError: If a pair is no contrast to the VLM, or none to the generator.
    """

    def __init__(self, bridge: Bridge, pairs: Sequence[Pair], settings: Sequence[Setting]) -> None:
        self.bridge, self.settings, self.count = bridge, settings, len(pairs)
        self.contrasts = [Contrast.of(bridge.vlm, pairs[s.pair], s.context) for s in settings]
        with torch.no_grad():
            self.ends = torch.stack(
                [bridge.generator.encode_text(list(pairs[s.pair].captions(s.context))) for s in settings]
            )
        self.pair_of = torch.tensor([s.pair for s in settings])
        for (negative, positive), setting in zip(self.ends, settings, strict=True):
            if torch.allclose(negative, positive):  # a batch's rows may differ in their last bits
                msg = f"pair: the generator sees no contrast in {pairs[setting.pair].name!r} in {setting.context!r}; "
                msg += "choose words that its text encoder tells apart, in a caption that is not cut off before them"
                raise TransporterError(msg)

    def to(self, device: torch.device) -> None:
        """Move models and conditions."""
        self.bridge.to(device)
        self.ends = self.ends.to(device)

    def difference(self) -> Tensor:
        """Mean over each pair's contexts of ε+ − ε−, (pairs, L, D_c)."""
        change = (self.ends[:, 1] - self.ends[:, 0]).float()
        mine = self.pair_of.to(change.device)
        return torch.stack([change[mine == index].mean(0) for index in range(self.count)])

    def condition_rms(self) -> float:
        """Root mean square of ε− over the rows that the captions fill."""
        negative = self.ends[:, 0].float()
        return float(negative[negative.any(-1)].square().mean().sqrt())

    def points(
        self,
        rows: Iterable[int],
        draws: torch.Generator,
        seeds: int = 1,
        noise_seeds: int = 1,
        steps: int = 20,
        guidance: float | None = None,
    ) -> Points:
        """The points of some contexts, on the CPU.

        Args:
            rows: Contexts.
            draws: Source of the noise.
            seeds: Trajectories for each context and end where the generator draws them.
            noise_seeds: Noises of each trajectory; consecutive points, to be averaged with ``mean_over_groups``.
            steps: Times on each trajectory.
            guidance: Guidance scale of the trajectories.
        """
        generator, parts = self.bridge.generator, []
        for row in rows:
            clean, ends = self.settings[row].clean, self.ends[row]
            count = noise_seeds * (seeds if clean is None else 1)
            noise = torch.randn(count, *generator.latent_shape, generator=draws).to(ends.device)
            if clean is None:
                latents, times = generated_latents(generator, ends, noise, steps, guidance)
            else:
                latents, times = noised_latents(generator, clean.to(noise), noise, steps)
            parts.append(points_at(generator, latents, times, ends, row).to(torch.device("cpu")))
        return Points(*(torch.cat(fields) for fields in zip(*(vars(p).values() for p in parts), strict=True)))

    def divergence(self, points: Points, prompt: str | None, measure: Divergence, at_once: int = 16) -> Tensor:
        """Δϑ at every point, (M,), on the CPU; the clean estimates of so many points are decoded and read at once."""
        result = torch.empty(len(points))
        for row in sorted(set(points.context.tolist())):
            for rows in (points.context == row).nonzero()[:, 0].split(at_once):
                chunk = points[rows].to(self.ends.device)
                ends, contrast = self.ends[row], self.contrasts[row]
                result[rows] = token_divergence(self.bridge, chunk, ends, contrast, prompt, measure).float().cpu()
        return result
