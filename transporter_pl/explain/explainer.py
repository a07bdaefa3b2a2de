"""From a caption and a pair of words to videos, and to what the VLM says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.divergences import divergences
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.modulation import Modulation, check_frames, modulate
from transporter_pl.explain.sampler import Watch, draw_noise, sample
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.samples import VideoSpec

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Reading:
    """What the VLM says about the P videos of a sweep.

    Attributes:
        captions: Its captions.
        negative: P(token−), the probability of the negative word's token at the contrast, (P,).
        positive: P(token+), (P,).
        divergence: Δϑ from the video of φ = 0, (P,).
    """

    captions: tuple[str, ...]
    negative: Tensor
    positive: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class Explanation:
    """A sweep of φ for one pair, caption and seed.

    Attributes:
        pair: The words.
        context: The caption, with a slot where the pair's words belong.
        seed: Seed of the noise, the same for every φ.
        phi: The φ values, (P,).
        video: D_Ξ(z), (P, T, 3, H, W) in [0, 1].
        coupled: The VLM's reading through Φ.
        reencoded: Its reading of the decoded videos, encoded again.
    """

    pair: Pair
    context: str
    seed: int
    phi: Tensor
    video: Tensor
    coupled: Reading
    reencoded: Reading

    @property
    def caption(self) -> str:
        """The caption of ε−, with the negative word."""
        return self.pair.captions(self.context)[0]


class Explainer:
    """Draws videos that a concept moves, and asks the VLM about them.

    Args:
        bridge: Generator, Φ and VLM.
        bank: The concepts.
        divergence: Registered name of Δϑ's measure.

    Raises:
        TransporterError: If a vector does not fit the generator's condition, the bank was learned with other weights,
            or the divergence is unknown.
    """

    def __init__(self, bridge: Bridge, bank: ConceptBank, divergence: str = "hellinger") -> None:
        self.bridge, self.bank, self.measure = bridge, bank, divergences.get(divergence)
        check_vectors(bank, bridge.generator.condition_shape)
        bank.check_weights(bridge.origin)

    @classmethod
    def from_pretrained(
        cls,
        generator: BackboneSpec,
        vlm: BackboneSpec,
        coupling: str | Path,
        concepts: str | Path,
        video: VideoSpec,
        device: str = "cpu",
    ) -> Self:
        """Load everything from its folders; bank and Φ first, which are quick and tell whether all fits.

        Args:
            generator: The generator Ξ.
            vlm: The VLM Ω.
            coupling: Folder of Φ.
            concepts: Folder of the concept bank.
            video: Geometry of the videos.
            device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.

        Raises:
            TransporterError: Before a backbone is loaded, if bank or Φ was made for other ones (names both), or
                ``load_pair`` refuses them.
        """
        bank = ConceptBank.from_pretrained(concepts, generator.path, vlm.path)
        network = CouplingNetwork.from_pretrained(coupling)
        check_vectors(bank, network.config.condition_shape)
        xi, omega = load_pair(generator, vlm, video, network, device)
        return cls(Bridge(xi, omega, network.to(xi.device)), bank)

    def modulation(
        self,
        pair: str,
        phi: float | Tensor,
        window: tuple[float, float] = (0.0, 1.0),
        frames: tuple[float, ...] | None = None,
    ) -> Modulation:
        """A pair's concept at a strength, from the bank; see ``Modulation``."""
        return Modulation(self.bank[pair].vector, phi, window, frames)

    @torch.no_grad()
    def explain(
        self,
        caption: str,
        pair: str,
        phi: Sequence[float] = SWEEP,
        seed: int = 0,
        steps: int = 20,
        guidance: float | None = None,
        prompt: str | None = None,
        window: tuple[float, float] = (0.0, 1.0),
        frames: tuple[float, ...] | None = None,
        also: Sequence[Modulation] = (),
        batch_size: int = 8,
        watch: Watch = iter,
    ) -> Explanation:
        """Sweep φ with the noise held.

        Args:
            caption: A caption with the pair's negative word, or with the slot {} in its place.
            pair: "left:right", a pair of the bank.
            phi: The φ values; 0 is drawn besides where it is not among them, as Δϑ is measured from it.
            seed: Seed of the noise.
            steps: Denoising steps.
            guidance: Guidance scale; ``None`` takes the generator's own.
            prompt: The question; ``None`` takes the VLM's own.
            window: Times in which the concept acts, see ``Modulation``.
            frames: Weight of every latent frame, see ``Modulation``.
            also: Other concepts, the same in every video; ``modulation`` makes them.
            batch_size: Values of φ drawn at once; fewer need less memory.
            watch: Sees every batch's denoising steps pass by, see ``sample``.

        Raises:
            TransporterError: Before any sampling, if the bank has no such pair, the caption lacks the word, there is no
                φ or one is not finite, a count is below 1, or window or frames are wrong.
        """
        check_counts(steps=steps, guidance=guidance, batch_size=batch_size)
        concept = self.bank[pair]
        context = concept.pair.context(caption)
        if not phi:
            msg = "phi: no value; give at least one, 0 for ε− and 1 for ε+"
            raise TransporterError(msg)
        values = torch.tensor([*phi] if 0 in phi else [*phi, 0.0])
        sweep = self.modulation(pair, values, window, frames)
        check_frames([*also, sweep], self.bridge.generator.latent_shape[1])
        contrast, negative = Contrast.of(self.bridge.vlm, concept.pair, context), concept.pair.captions(context)[0]
        videos, answers = [], []
        for part in torch.split(values, batch_size):
            rows = [negative] * len(part), [seed] * len(part), [*also, replace(sweep, phi=part)]
            video, *routes = self._draw(*self.latents(*rows, steps, guidance, watch))
            videos.append(video.cpu())
            answers.append([self._ask(tokens, contrast, prompt) for tokens in routes])
        drawn = torch.cat(videos)
        if not drawn.isfinite().all():
            msg = f"phi: {' '.join(f'{value:g}' for value in phi)} draws nothing finite; give smaller values"
            raise TransporterError(msg)
        origin, count = values.tolist().index(0), len(phi)
        coupled, reencoded = (self._read(r, origin, count, contrast) for r in zip(*answers, strict=True))
        return Explanation(concept.pair, context, seed, values[:count], drawn[:count], coupled, reencoded)

    @torch.no_grad()
    def latents(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        modulations: Sequence[Modulation] = (),
        steps: int = 20,
        guidance: float | None = None,
        watch: Watch = iter,
    ) -> tuple[Tensor, Tensor]:
        """Sample B latents in one run: one caption, seed and φ a row.

        Args:
            captions: B captions.
            seeds: B seeds of the noise.
            modulations: The concepts; φ is a number for all rows, or (B,).
            steps: Denoising steps.
            guidance: Guidance scale; ``None`` takes the generator's own.
            watch: Sees the denoising steps pass by, see ``sample``.

        Returns:
            Latents (B, C, T', H', W') and the moved condition that Φ is given with them, (B, L, D_c).

        Raises:
            TransporterError: If there is not one seed a caption.
        """
        if len(seeds) != len(captions):
            msg = f"seeds: {len(seeds)} for {len(captions)} captions; give one a caption"
            raise TransporterError(msg)
        generator = self.bridge.generator
        condition = generator.encode_text(list(captions))
        noise = draw_noise(generator, seeds)
        latents = sample(generator, condition, noise, steps, guidance, modulations, watch)
        return latents, modulate(condition, modulations)

    def _draw(self, latents: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Videos (B, T, 3, H, W), and their tokens through Φ and through the decoded pixels, (B, N, D)."""
        video = self.bridge.generator.decode(latents)
        return video, self.bridge.tokens(latents, condition), self.bridge.vlm.encode(video)

    def _ask(self, tokens: Tensor, contrast: Contrast, prompt: str | None) -> tuple[list[str], Tensor]:
        """Captions of some rows, and the probabilities at the contrast, (B, V)."""
        vlm = self.bridge.vlm
        return vlm.caption(tokens, prompt), vlm.logits(tokens, prompt, contrast.prefix).float().softmax(-1)

    def _read(
        self, answers: Sequence[tuple[list[str], Tensor]], origin: int, count: int, contrast: Contrast
    ) -> Reading:
        """The reading of the first ``count`` rows of all batches; Δϑ is measured from row ``origin``."""
        probs = torch.cat([probs for _, probs in answers])
        moved = probs[:count]
        return Reading(
            captions=tuple(caption for captions, _ in answers for caption in captions)[:count],
            negative=moved[:, contrast.negative].cpu(),
            positive=moved[:, contrast.positive].cpu(),
            divergence=self.measure(probs[origin].expand_as(moved), moved).cpu(),
        )


def check_vectors(bank: ConceptBank, shape: tuple[int, int]) -> None:
    """Compare the vectors of a bank with a generator's condition (L, D_c).

    Raises:
        TransporterError: If one does not fit.
    """
    for concept in bank.entries:
        if tuple(concept.vector.shape) not in {tuple(shape), tuple(shape[1:])}:
            msg = f"concepts: the vector of {concept.pair.name!r} is {tuple(concept.vector.shape)}, but the "
            msg += f"generator's condition is {tuple(shape)}; load the generator that the bank was made with"
            raise TransporterError(msg)
