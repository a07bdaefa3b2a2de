"""The paper's ablation: Φ and a concept bank of the row's own, trained before they draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import lightning as L  # noqa: N812
import torch

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError, check_counts, check_not_negative
from transporter_pl.evaluation.cells import content_of, held
from transporter_pl.evaluation.methods.base import WORK, Method, Need
from transporter_pl.evaluation.methods.transporter import transport
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.evaluation.studio import Studio
from transporter_pl.files import delete
from transporter_pl.options import resolved
from transporter_pl.registry import datamodules
from transporter_pl.stages.alone import digest_of, forget, train_alone
from transporter_pl.stages.concept import ConceptStage
from transporter_pl.stages.coupling import CouplingStage

TRAINED = "trained"  # folder of the networks, which rows that differ in their concepts alone share


class Trained(Method):
    """Trains Φ on the VLM's cache and a bank with it, all by the row's seed, then draws as ours does.

    Args:
        network: Options of Φ, the transport among them.
        steps: Optimiser steps of Φ.
        batch_size: Clips at once.
        accumulate: Batches a step.
        lr: Peak learning rate.
        warmup: Steps of linear warm-up; cosine decay to 0 follows.
        concepts: Options of ``ConceptStage``, the divergence among them; pairs, models and seed are the table's.
        phi: φ.

    Raises:
        TransporterError: If an option is unknown or out of its range.
    """

    needs: ClassVar[tuple[Need, ...]] = ("cache",)

    def __init__(
        self,
        network: Mapping[str, Any] | None = None,
        steps: int = 1000,
        batch_size: int = 16,
        accumulate: int = 1,
        lr: float = 1e-3,
        warmup: int = 100,
        concepts: Mapping[str, Any] | None = None,
        phi: float = 1.0,
    ) -> None:
        check_counts(steps=steps, batch_size=batch_size, accumulate=accumulate)
        check_not_negative(lr=lr, warmup=warmup)
        try:
            self.network = CouplingOptions(**(network or {}))
        except TypeError as error:
            msg = f"options.network: {error}; give options of Φ"
            raise TransporterError(msg) from error
        self.steps, self.batch_size, self.accumulate = steps, batch_size, accumulate
        self.lr, self.warmup, self.phi = lr, warmup, phi
        self.concepts: dict[str, Any] = {"calibration_seeds": 0, **(concepts or {})}

    def check(self, explained: Explained, setup: Setup) -> None:
        """Refuse a network that can't be built, and concepts that can't be learned.

        Raises:
            TransporterError: If so, or if the cache can't be read.
        """
        super().check(explained, setup)
        with torch.device("meta"):  # what can't be built is refused, and nothing is drawn
            CouplingNetwork(CouplingConfig.of(self._data(explained).shapes, self.network))
        self._concepts(explained, setup, "", 0)
        bare = next((pair for pair in setup.pairs if not pair.contexts), None)
        if bare is not None and self.concepts.get("trajectory", "generated") == "generated":
            msg = f"pairs: {bare.name!r} has no scene in which its concept is learned; give templates, such as "
            raise TransporterError(msg + "an oval moves {left|right}, or contexts")

    def settings(self, setup: Setup) -> dict[str, Any]:
        """All options of Φ and of its concepts, those that were not given too, and the scenes it learns them in."""
        concepts = {**resolved(ConceptStage, self.concepts), "pairs": [asdict(pair) for pair in setup.pairs]}
        return {"network": asdict(self.network), "concepts": concepts}

    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """The videos, (K, T, 3, H, W)."""
        coupling = self._coupling(studio, seed)
        bridge = Bridge(studio.generator, studio.vlm, CouplingNetwork.from_pretrained(coupling).to(studio.device))
        stage = self._concepts(studio.explained, studio.setup, str(coupling), seed)
        draws = digest_of(stage.drawn_by())
        stage.ask(bridge, studio.trajectories.get(draws))
        work = folder / WORK / digest_of(dict(stage.hparams))
        train_alone(stage, work, studio.device)
        studio.trajectories = {draws: stage.fitted().trajectories}  # for the seed's other rows
        drawn = transport(studio, bridge, ConceptBank.from_pretrained(work / "concepts"), self.phi, cases, seed)
        delete(folder / WORK)
        return drawn

    def _coupling(self, studio: Studio, seed: int) -> Path:
        """Folder of the trained Φ; the first row that asks for it trains it, the others wait."""
        folder = studio.out / TRAINED / self._name(studio.explained) / f"seed{seed}"
        with held(folder, wait=True):
            if not (folder / "coupling" / "config.json").is_file():  # written last
                L.seed_everything(seed, verbose=False)  # the clips' order is the seed's too, the same for all variants
                data, export = self._data(studio.explained), str(folder / "coupling")
                stage = CouplingStage(data.shapes, self.network, lr=self.lr, warmup=self.warmup, export=export)
                train_alone(stage, folder, studio.device, data, self.steps, self.accumulate, 1.0)
                forget(folder)
        return folder / "coupling"

    def _name(self, explained: Explained) -> str:
        """A name that stands for everything that Φ depends on besides its seed."""
        schedule = self.steps, self.batch_size, self.accumulate, self.lr, self.warmup
        cache = content_of("cache", str(explained.cache))
        made_from: dict[str, Any] = {"network": asdict(self.network), "vlm": asdict(explained.vlm), "cache": cache}
        settings = {**made_from, "schedule": schedule}
        return f"{self.network.transport.rpartition('.')[2]}-{digest_of(settings)}"

    def _data(self, explained: Explained) -> Any:  # noqa: ANN401  (the core knows no data module)
        return datamodules.get("cache")(explained.cache, self.batch_size)

    def _concepts(self, explained: Explained, setup: Setup, coupling: str, seed: int) -> ConceptStage:
        """The stage that learns the table's pairs."""
        models = setup.generator, explained.vlm, setup.video
        try:
            return ConceptStage(*models, coupling, [*setup.pairs], seed=seed, **self.concepts)
        except TypeError as error:
            msg = f"options.concepts: {error}; give options of ConceptStage"
            raise TransporterError(msg) from error
