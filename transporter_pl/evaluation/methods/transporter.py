"""Ours: the generator, moved by what a concept bank has learned."""

from __future__ import annotations

import math
from pathlib import Path
from time import perf_counter
from typing import ClassVar

import torch
from torch import Tensor

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.coupling.bridge import Bridge, check_fit
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.methods.base import Method, Need
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.evaluation.studio import Studio
from transporter_pl.explain.explainer import check_vectors
from transporter_pl.explain.modulation import Modulation, modulate
from transporter_pl.loading import pair_shapes
from transporter_pl.samples import Origin


class Transporter(Method):
    """Samples ε− + φ q with the noise of the clip of ε−, and captions what comes of it through Φ.

    Args:
        phi: φ; 1 is the positive word.

    Raises:
        TransporterError: If φ is not finite.
    """

    needs: ClassVar[tuple[Need, ...]] = ("coupling", "concepts")

    def __init__(self, phi: float = 1.0) -> None:
        if not math.isfinite(phi):
            msg = f"options.phi: {phi} is not finite; give a number, 1 for ε+"
            raise TransporterError(msg)
        self.phi = phi

    def check(self, explained: Explained, setup: Setup) -> None:
        """Refuse a Φ or a bank that was made for other models, and a bank that lacks a pair.

        Raises:
            TransporterError: If so, or if one is not given or can't be read.
        """
        super().check(explained, setup)
        bank = ConceptBank.from_pretrained(str(explained.concepts), setup.generator.path, explained.vlm.path)
        bank.select(setup.pairs)
        shapes = pair_shapes(setup.generator, explained.vlm, setup.video)
        check_vectors(bank, shapes.condition)
        network = CouplingNetwork.from_pretrained(str(explained.coupling))
        check_fit(network, Origin(setup.generator.path, explained.vlm.path, setup.video), shapes)

    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """The videos, (K, T, 3, H, W)."""
        return transport(studio, studio.bridge, studio.bank, self.phi, cases, seed)


def transport(
    studio: Studio, bridge: Bridge, bank: ConceptBank, phi: float, cases: tuple[Case, ...], seed: int
) -> Drawn:
    """Draw with any Φ and bank that fit the studio's models.

    Args:
        studio: The models.
        bridge: Generator, Φ and VLM.
        bank: The concepts; it holds every case's pair.
        phi: φ.
        cases: The K cases.
        seed: Seed of the noise.

    Raises:
        TransporterError: If what is drawn is not finite.
    """
    begun = perf_counter()
    condition = studio.conditions([case.captions[0] for case in cases])
    vectors = [bank[case.pair].vector.expand(condition.shape[1:]) for case in cases]
    moved = Modulation(torch.stack(vectors).to(condition), phi)
    latents = studio.sample(condition, seed, [moved])
    video = studio.decode(latents)
    seconds = perf_counter() - begun
    captions = _captions(studio, bridge, latents, modulate(condition, [moved]))
    return studio.drawn(video, cases, seed, seconds=seconds, captions=captions)


@torch.no_grad()
def _captions(studio: Studio, bridge: Bridge, latents: Tensor, condition: Tensor) -> tuple[str, ...]:
    """What the VLM says through Φ, one caption a case."""
    parts = (torch.split(whole, studio.batch_size) for whole in (latents, condition))
    return tuple(said for z, moved in zip(*parts, strict=True) for said in bridge.vlm.caption(bridge.tokens(z, moved)))
