"""From a caption and a pair of words to videos, and to what the VLM says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.divergences import divergences
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.explain.modulation import Modulation, check_frames, modulate
from transporter_pl.explain.sampler import draw_noise, sample
from transporter_pl.loading import BackboneSpec, load_generator, load_vlm
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
        caption: The caption of ε−, with the negative word.
        seed: Seed of the noise, the same for every φ.
        phi: The φ values, (P,).
        video: D_Ξ(z), (P, T, 3, H, W) in [0, 1].
        coupled: The VLM's reading through Φ.
        reencoded: Its reading of the decoded videos, encoded again.
    """

    pair: Pair
    caption: str
    seed: int
    phi: Tensor
    video: Tensor
    coupled: Reading
    reencoded: Reading


class Explainer:
    """Draws videos that a concept moves, and asks the VLM about them.

    Args:
        bridge: Generator, Φ and VLM.
        bank: The concepts.
        divergence: Registered name of Δϑ's measure.

    Raises:
        TransporterError: If a vector does not fit the generator's condition, or the divergence is unknown.
    """

    def __init__(self, bridge: Bridge, bank: ConceptBank, divergence: str = "hellinger") -> None:
        self.bridge, self.bank, self.measure = bridge, bank, divergences.get(divergence)
        shape = bridge.generator.condition_shape
        for concept in bank.entries:
            if tuple(concept.vector.shape) not in {shape, shape[1:]}:
                msg = f"concepts: the vector of {concept.pair.name!r} is {tuple(concept.vector.shape)}, but the "
                msg += f"generator's condition is {shape}; load the generator that the bank was made with"
                raise TransporterError(msg)

    @classmethod
    def from_pretrained(
        cls, generator: BackboneSpec, vlm: BackboneSpec, coupling: str | Path, concepts: str | Path, video: VideoSpec
    ) -> Self:
        """Load everything from its folders; the bank first, which is quick and tells whether all fits.

        Raises:
            TransporterError: If the bank was made with other backbones (names both), or anything can't be loaded.
        """
        bank = ConceptBank.from_pretrained(concepts, generator.path, vlm.path)
        network = CouplingNetwork.from_pretrained(coupling)
        return cls(Bridge(load_generator(generator, video), load_vlm(vlm, video), network).eval(), bank)

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
    ) -> Explanation:
        """Sweep φ with the noise held, all values in one sampling run.

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

        Raises:
            TransporterError: Before any sampling, if the bank has no such pair, the caption lacks the word, there is no
                φ or one is not finite, or window or frames are wrong.
        """
        concept = self.bank[pair]
        negative, _ = concept.pair.captions(context := concept.pair.context(caption))
        if not phi:
            msg = "phi: no value; give at least one, 0 for ε− and 1 for ε+"
            raise TransporterError(msg)
        values = [*phi] if 0 in phi else [*phi, 0.0]
        moved = [*also, self.modulation(pair, torch.tensor(values), window, frames)]
        check_frames(moved, self.bridge.generator.latent_shape[1])
        contrast = Contrast.of(self.bridge.vlm, concept.pair, context)
        latents, condition = self.latents([negative] * len(values), [seed] * len(values), moved, steps, guidance)
        video = self.bridge.generator.decode(latents)
        routes = self.bridge.tokens(latents, condition), self.bridge.vlm.encode(video)
        coupled, reencoded = (self._read(z, values.index(0), len(phi), contrast, prompt) for z in routes)
        return Explanation(concept.pair, negative, seed, torch.tensor([*phi]), video[: len(phi)], coupled, reencoded)

    @torch.no_grad()
    def latents(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        modulations: Sequence[Modulation] = (),
        steps: int = 20,
        guidance: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample B latents in one run: one caption, seed and φ a row.

        Args:
            captions: B captions.
            seeds: B seeds of the noise.
            modulations: The concepts; φ is a number for all rows, or (B,).
            steps: Denoising steps.
            guidance: Guidance scale; ``None`` takes the generator's own.

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
        return sample(generator, condition, noise, steps, guidance, modulations), modulate(condition, modulations)

    def _read(self, tokens: Tensor, origin: int, count: int, contrast: Contrast, prompt: str | None) -> Reading:
        """The reading of the first ``count`` rows; Δϑ is measured from row ``origin``."""
        vlm = self.bridge.vlm
        probs = vlm.logits(tokens, prompt, contrast.prefix).float().softmax(-1)
        moved = probs[:count]
        return Reading(
            captions=tuple(vlm.caption(tokens[:count], prompt)),
            negative=moved[:, contrast.negative].cpu(),
            positive=moved[:, contrast.positive].cpu(),
            divergence=self.measure(probs[origin].expand_as(moved), moved).cpu(),
        )
