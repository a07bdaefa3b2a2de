"""The loaded models of one VLM, and what all methods ask of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.chance import draws_of
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Contrast
from transporter_pl.concepts.trajectories import Trajectories
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.cases import ReferenceClips
from transporter_pl.evaluation.cells import held, quantised, store, stored, stored_video
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.explain.modulation import Modulation
from transporter_pl.explain.sampler import sample
from transporter_pl.loading import BackboneSpec, load_vlm

STARTS, ENDS = "starts", "ends"  # folders of the clips of ε− and of ε+


class Studio:
    """One VLM, its generator, Φ and bank; each is loaded when it is first asked for.

    Args:
        setup: What all rows share.
        explained: The VLM, and what was trained for it.
        generator: Gives the loaded generator, which studios share.
        references: The reference clips, which they share too.
        out: Folder of the evaluation.
        device: Where the models are.
    """

    def __init__(
        self,
        setup: Setup,
        explained: Explained,
        generator: Callable[[], GeneratorAdapter],
        references: ReferenceClips,
        out: Path,
        device: torch.device,
    ) -> None:
        self.setup, self.explained, self.device, self.out = setup, explained, device, out
        self.generator_spec, self.video = setup.generator, setup.video
        self.steps, self.batch_size = setup.steps, setup.batch_size
        self.references, self._generator = references, generator
        self.trajectories: dict[str, Trajectories] = {}  # that a method has drawn to learn from, by what they depend on
        self._started: dict[int, Tensor] = {}  # P(token+) of the clips of ε−, by seed

    @property
    def generator(self) -> GeneratorAdapter:
        """Ξ."""
        return self._generator()

    @cached_property
    def vlm(self) -> VLMAdapter:
        """Ω."""
        return load_vlm(self.explained.vlm, self.video, self.device)

    @cached_property
    def bridge(self) -> Bridge:
        """Φ of ``explained`` between both.

        Raises:
            TransporterError: If Φ was trained for others.
        """
        network = CouplingNetwork.from_pretrained(str(self.explained.coupling))
        return Bridge(self.generator, self.vlm, network.to(self.device))

    @cached_property
    def bank(self) -> ConceptBank:
        """The concepts of ``explained``.

        Raises:
            TransporterError: If they were learned with other weights.
        """
        bank = ConceptBank.from_pretrained(str(self.explained.concepts))
        bank.check_weights(self.bridge.origin)
        return bank

    def natural(self, count: int) -> Tensor:
        """At most so many real clips that are none of the cases', (M, T, 3, H, W) in [0, 1].

        Raises:
            TransporterError: If none can be read.
        """
        return self.references.first(count)

    # -- the generator ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def conditions(self, captions: Sequence[str]) -> Tensor:
        """π_Ξ of K captions, (K, L, D_c)."""
        return self.generator.encode_text(list(captions))

    def sample(self, condition: Tensor, seed: int, modulations: Sequence[Modulation] = ()) -> Tensor:
        """Latents of all K cases, (K, C, T', H', W'), from the noise that a case has with a seed, whoever draws it.

        Args:
            condition: One a case, (K, L, D_c).
            seed: Seed of the noise.
            modulations: Concepts that move the condition.

        Raises:
            TransporterError: If what is drawn is not finite.
        """
        shape = self.generator.latent_shape
        noise = [torch.randn(shape, generator=draws_of(f"noise-{seed}-{case}")) for case in range(len(condition))]
        start = torch.stack(noise).to(condition.device)
        latents = sample(self.generator, condition, start, self.steps, None, modulations, batch_size=self.batch_size)
        if not latents.isfinite().all():
            msg = "drawn: the generator draws nothing finite; give a smaller phi, or dtype: bfloat16 or float32"
            raise TransporterError(msg)
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (K, C, T', H', W') → videos (K, T, 3, H, W) in [0, 1] on the CPU."""
        return torch.cat([self.generator.decode(z).float().cpu() for z in torch.split(latents, self.batch_size)])

    def starts(self, cases: tuple[Case, ...], seed: int) -> Tensor:
        """The clips of ε− that the generator draws, (K, T, 3, H, W), the same for all rows and VLMs; kept in a file."""
        return self._clips(STARTS, [case.captions[0] for case in cases], cases, seed)

    def ends(self, cases: tuple[Case, ...], seed: int) -> Tensor:
        """The same of ε+, from the same noise."""
        return self._clips(ENDS, [case.captions[1] for case in cases], cases, seed)

    def _clips(self, place: str, captions: Sequence[str], cases: tuple[Case, ...], seed: int) -> Tensor:
        folder, settings = clips_folder(self.out, place, seed), shared_settings(self.setup, cases, seed)
        with held(folder, wait=True):
            if stored(folder, settings) is None:
                store(folder, settings, self.decode(self.sample(self.conditions(captions), seed)), {})
            return stored_video(folder)

    # -- the VLM ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def probabilities(self, video: Tensor, cases: tuple[Case, ...]) -> Tensor:
        """P(token+) of videos (K, T, 3, H, W) as they are kept, each at its case's contrast; (K,) on the CPU.

        Raises:
            TransporterError: If the VLM's tokenizer can't tell a case's captions apart.
        """
        contrasts = [Contrast.of(self.vlm, case.pair, case.context) for case in cases]
        found = []
        for rows in torch.split(torch.arange(len(cases)), self.batch_size):
            some = [contrasts[row] for row in rows.tolist()]
            tokens = self.vlm.encode(quantised(video[rows]).to(self.vlm.device))
            probs = self.vlm.logits(tokens, None, [contrast.prefix for contrast in some]).float().softmax(-1).cpu()
            found.append(probs.gather(1, torch.tensor([[contrast.positive] for contrast in some]))[:, 0])
        return torch.cat(found)

    @torch.no_grad()
    def captions(self, video: Tensor) -> tuple[str, ...]:
        """What the VLM says of videos (K, T, 3, H, W) as they are kept."""
        parts = torch.split(quantised(video), self.batch_size)
        return tuple(said for part in parts for said in self.vlm.caption(self.vlm.encode(part.to(self.vlm.device))))

    def drawn(
        self,
        video: Tensor,
        cases: tuple[Case, ...],
        seed: int,
        seconds: float,
        forwards: int = 0,
        captions: tuple[str, ...] | None = None,
    ) -> Drawn:
        """What a method drew, and what the VLM says of it.

        Args:
            video: (K, T, 3, H, W) in [0, 1].
            cases: The K cases.
            seed: The seed that it was drawn with.
            seconds: See ``Drawn``.
            forwards: See ``Drawn``.
            captions: Through Φ where the method has one; by default the VLM's of the pixels.
        """
        clips = self.starts(cases, seed)
        if seed not in self._started:  # the same clips for all rows
            self._started[seed] = self.probabilities(clips, cases)
        positive, start = self.probabilities(video, cases), self._started[seed]
        said = self.captions(video) if captions is None else captions
        return Drawn(quantised(video), said, positive, start, seconds, forwards)


def clips_folder(out: Path, place: str, seed: int) -> Path:
    """Where the clips of a seed are kept, those of ``STARTS`` or of ``ENDS``."""
    return out / place / f"seed{seed}"


def shared_settings(setup: Setup, cases: tuple[Case, ...], seed: int) -> dict[str, Any]:
    """What a drawing depends on besides its VLM and method, as JSON holds it."""
    made_with = {"generator": plain_spec(setup.generator), "video": asdict(setup.video), "steps": setup.steps}
    return {**made_with, "cases": told_cases(cases), "seed": seed}


def told_cases(cases: tuple[Case, ...]) -> list[dict[str, str]]:
    """The cases, as JSON holds them."""
    return [{"id": case.id, "pair": case.pair.name, "context": case.context} for case in cases]


def plain_spec(spec: BackboneSpec) -> dict[str, Any]:
    """A backbone, as far as what it computes depends on its spec."""
    return {name: value for name, value in asdict(spec).items() if name != "checkpointing"}
