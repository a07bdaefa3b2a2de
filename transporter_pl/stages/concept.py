"""Stage 2: learn a concept vector for each of many pairs in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from transporter_pl.chance import draws_of
from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.divergences import divergences
from transporter_pl.concepts.objectives import Loss, check_objective, new_objective, velocity_objective
from transporter_pl.concepts.pairs import Pair, pairs_of
from transporter_pl.concepts.teacher import Teacher, spread
from transporter_pl.concepts.trajectories import settings_in, settings_of
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.explainer import Explainer
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.origin import checkpoint_name
from transporter_pl.samples import Encoded, Origin, VideoSpec
from transporter_pl.stages.hyperparameters import built, check_choices, export_folder, plain

COUNTS = ("seeds", "noise_seeds", "sampling_steps", "guidance", "steps", "batch_size")
SAMPLE = 16  # places of each pair at which the loss and the Δϑ that the bank tells are measured


class ConceptStage(L.LightningModule):
    """Learns the vectors q of all pairs in one run; everything else is frozen.

    L = ‖ sg[G(z_t, ε−, t) + φ Δv] − G(z_t, ε− + φ q, t) ‖², or another objective. The latents z_t, v−, Δv and Δϑ belong
    to frozen models, so they are computed once, for all pairs that share them. It needs no data module unless
    ``trajectory`` is ``data``.

    φ is Δϑ (``divergence``, the paper's) or uniform in [0, 1]. Δϑ is measured at the same z_t for both ends: it is
    large at large t and nears 0 with t, so q hardly learns the late steps from it. Where Δϑ is near 1, the target is
    G(z_t, ε+, t) itself and q = ε+ − ε− solves it; the interpolated targets of a uniform φ make the dial continuous.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        video: Geometry of the videos.
        coupling: Folder of Φ.
        pairs: The pairs, with their contexts, or templates with both words, "a player {hits|misses} the ball".
        export: Folder of the finished bank, by default ``concepts`` in the trainer's ``default_root_dir``.
        shape: ``sequence`` learns (L, D_c), bound to the place of the words in the caption; ``vector`` one (D_c,) for
            all rows.
        init: ``difference``: the mean over contexts of ε+ − ε−; or ``zeros``, presumably the paper's.
        objective: Registered name of what is minimised: ``velocity``, the paper's, or ``vlm_guided``.
        objective_options: Its options.
        phi: How φ is chosen at every point.
        divergence: Registered name of Δϑ's measure.
        trajectory: ``generated``: z_t from the generator's denoising towards both ends; ``data``: from noised latents
            of the data module's clips whose captions hold one of the words.
        seeds: Trajectories for each context and end; with ``data``, clips for each pair and end.
        noise_seeds: Noises of each of these, over which Δv and Δϑ are averaged; 1 leaves each z_t its own Δv.
        sampling_steps: Times on each trajectory.
        guidance: Guidance scale of the trajectories; ``None`` takes the generator's own. The loss has none.
        steps: Optimiser steps (the paper: 1000, from zeros).
        batch_size: Points a step, of the pairs in turn, and latents that a model is asked about at once; fewer need
            less memory.
        lr: Learning rate, decayed linearly to a twentieth.
        lr_unit: ``rms``: lr counts in units of the conditions' root mean square; ``absolute``: the paper's.
        prompt: The question under which Δϑ is read; ``None`` takes the VLM's own.
        calibration_seeds: Seeds with which each concept is drawn and measured after the training; 0 leaves it out.
        seed: Seed of trajectories and batches.

    Raises:
        TransporterError: If there is no pair, an option is unknown, or a count is below 1.
    """

    vectors: nn.Parameter  # None before ``configure_model``

    def __init__(
        self,
        generator: BackboneSpec,
        vlm: BackboneSpec,
        video: VideoSpec,
        coupling: str,
        pairs: list[Pair | str],
        export: str | None = None,
        shape: Literal["sequence", "vector"] = "sequence",
        init: Literal["zeros", "difference"] = "difference",
        objective: str = "velocity",
        objective_options: dict[str, Any] | None = None,
        phi: Literal["divergence", "uniform"] = "uniform",
        divergence: str = "hellinger",
        trajectory: Literal["generated", "data"] = "generated",
        seeds: int = 1,
        noise_seeds: int = 1,
        sampling_steps: int = 20,
        guidance: float | None = None,
        steps: int = 100,
        batch_size: int = 8,
        lr: float = 0.06,
        lr_unit: Literal["rms", "absolute"] = "rms",
        prompt: str | None = None,
        calibration_seeds: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.pairs = pairs_of(pairs)
        self.backbones = built(BackboneSpec, generator), built(BackboneSpec, vlm)
        self.video, self.coupling = built(VideoSpec, video), coupling
        if not self.pairs:
            msg = "pairs: none; give at least one"
            raise TransporterError(msg)
        check_counts(**{name: self.hparams[name] for name in COUNTS})
        check_choices(ConceptStage, self.hparams)
        self.measure, self.options = divergences.get(divergence), objective_options or {}
        check_objective(objective, self.options)
        _check_turns(len(self.pairs), steps * batch_size)
        self.teacher: Teacher | None = None
        self.register_parameter("vectors", None)

    # -- what is frozen -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the backbones and Φ, and see that every pair is a contrast to the VLM."""
        if self.teacher is not None:
            return
        options = self.hparams
        export_folder(self, "concepts")
        clips = self._data() if options["trajectory"] == "data" else None
        settings = settings_of(self.pairs) if clips is None else settings_in(clips, self.pairs, options["seeds"])
        network, place = CouplingNetwork.from_pretrained(self.coupling), str(self.trainer.strategy.root_device)
        bridge = Bridge(*load_pair(*self.backbones, self.video, network, place), network)
        # no submodule of ours: checkpoints hold q alone
        self.teacher = Teacher(bridge, self.pairs, settings, options["batch_size"])
        self.objective = new_objective(options["objective"], self.teacher, options["prompt"], self.options)

    def on_fit_start(self) -> None:
        """Draw the trajectories, once."""
        options, teacher = self.hparams, self._fitted()
        teacher.to(self.device)
        teacher.draw(
            torch.Generator().manual_seed(options["seed"]),
            seeds=options["seeds"],
            noise_seeds=options["noise_seeds"],
            steps=options["sampling_steps"],
            guidance=options["guidance"],
            watch=self._watch("Trajectories"),
        )
        self.places = [teacher.places(index) for index in range(len(self.pairs))]
        self.objective.prepare(self.places)

    def _watch(self, what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return partial(track, description=what, transient=True, disable=not self.trainer.is_global_zero)

    def _data(self) -> Iterable[Encoded]:
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            msg = "trajectory: 'data' needs clips; give a data module of cached latents, or trajectory: generated"
            raise TransporterError(msg)
        origin = getattr(datamodule, "origin", None)
        if not isinstance(origin, Origin):
            msg = f"data: {type(datamodule).__name__} does not say which generator made its latents; use a latent cache"
            raise TransporterError(msg)
        _check_origin(origin, self.backbones[0], self.video)
        batches: Iterable[Encoded] = datamodule.train_dataloader()
        return batches

    def _fitted(self) -> Teacher:
        if self.teacher is None:
            msg = "ConceptStage: no backbone is loaded; run the Trainer's fit first"
            raise TransporterError(msg)
        return self.teacher

    # -- what is learned ----------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Make the vectors, (pairs, L, D_c) or (pairs, 1, D_c)."""
        if self.vectors is not None or self.teacher is None:
            return
        start = self.teacher.difference()
        if self.hparams["shape"] == "vector":
            start = start.mean(1, keepdim=True)
        self.vectors = nn.Parameter(start if self.hparams["init"] == "difference" else torch.zeros_like(start))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's vectors; no backbone is needed for that, unless the training goes on.

        Where an objective adds to them, the vectors alone are not yet q: that is in the bank.
        """
        state = checkpoint["state_dict"]
        if self.vectors is None:
            self.vectors = nn.Parameter(torch.empty_like(state["vectors"]))
        if self.teacher is None:
            checkpoint["state_dict"] = {"vectors": state["vectors"]}

    def train_dataloader(self) -> DataLoader[int]:
        """One item a step; the points are drawn in the step."""
        return DataLoader(range(self.hparams["steps"]), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with linear decay, for the vectors and for what the objective learns."""
        unit = self._fitted().condition_rms() if self.hparams["lr_unit"] == "rms" else 1.0
        own = {"params": list(self.objective.parameters()), "lr": self.objective.lr}
        groups: list[dict[str, Any]] = [{"params": [self.vectors]}, own]
        optimizer = torch.optim.Adam(groups, self.hparams["lr"] * unit)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, self.hparams["steps"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def training_step(self, batch: int, index: int) -> Tensor:
        """The objective at points of the pairs in turn, as each pair has a vector of its own."""
        count, teacher = self.hparams["batch_size"], self._fitted()
        self.draws = self.objective.draws = self._chance()
        owner = (self.global_step * count + torch.arange(count)) % len(self.pairs)
        places = torch.stack([self._place(pair) for pair in owner.tolist()])
        points = teacher.points(places).to(self.device)
        phi = self._dial(places).to(self.device)
        loss = self.objective(points, self.concepts()[owner.to(self.device)], phi)
        self._log(loss)
        # the mean over each pair's points, summed over pairs
        total: Tensor = (loss.total / owner.bincount()[owner].to(loss.total)).sum()
        return total

    def concepts(self) -> Tensor:
        """All vectors q, (pairs, L, D_c) or (pairs, 1, D_c): the vectors, and what the objective adds to them."""
        shift = self.objective.shift()
        if shift is None:
            return self.vectors
        return self.vectors + (shift.mean(1, keepdim=True) if self.hparams["shape"] == "vector" else shift)

    def _chance(self) -> torch.Generator:
        """The draws of this batch, the same whether a training was interrupted or not."""
        batch = self.trainer.fit_loop.epoch_loop.total_batch_idx
        return draws_of(f"{self.hparams['seed']}-{self.global_rank}-{batch}")

    def _place(self, pair: int) -> Tensor:
        places = self.places[pair]
        return places[torch.randint(len(places), (), generator=self.draws)]

    def _dial(self, places: Tensor) -> Tensor:
        """φ of places (B, 2)."""
        if self.hparams["phi"] == "uniform":
            return torch.rand(len(places), generator=self.draws)
        return self._fitted().divergence(places, self.hparams["prompt"], self.measure)

    def _log(self, loss: Loss) -> None:
        with torch.no_grad():
            self.log("loss", loss.total.mean(), prog_bar=True, batch_size=1)
            self.log("explained", 1 - loss.velocity.sum() / loss.start.sum(), prog_bar=True, batch_size=1)
            for name, values in loss.parts.items():
                self.log(name, values.mean(), prog_bar=True, batch_size=1)

    def on_train_batch_end(self, *_: object) -> None:
        """Stop after ``steps``, whatever loader runs."""
        if self.global_step >= self.hparams["steps"]:
            self.trainer.should_stop = True

    # -- what is handed on --------------------------------------------------------------------------------------------

    def on_fit_end(self) -> None:
        """Write the bank's folder, if there was a step; then measure what the concepts do, and write that too."""
        if not (self.trainer.is_global_zero and self.global_step):
            return
        folder, bank = export_folder(self, "concepts"), self.bank()
        bank.save(folder)
        if self.hparams["calibration_seeds"]:
            calibrated = self._calibrated(bank)
            calibrated.save(folder)
            for concept in calibrated.entries:
                if concept.calibration is not None:
                    Console(markup=False, highlight=False).print(
                        concept.calibration.sentence(concept.pair), soft_wrap=True
                    )

    def _calibrated(self, bank: ConceptBank) -> ConceptBank:
        explainer = Explainer(self._fitted().bridge, bank)
        entries = self._watch("Calibration")(enumerate(bank.entries))
        return replace(bank, entries=tuple(self._measured(explainer, index, concept) for index, concept in entries))

    def _measured(self, explainer: Explainer, index: int, concept: Concept) -> Concept:
        options = self.hparams
        contexts = [setting.context for setting in self._fitted().settings if setting.pair == index]
        calibration = explainer.calibrate(
            concept.pair,
            options["calibration_seeds"],
            contexts=contexts,
            steps=options["sampling_steps"],
            guidance=options["guidance"],
            prompt=options["prompt"],
            batch_size=options["batch_size"],
        )
        return replace(concept, calibration=calibration)

    def bank(self) -> ConceptBank:
        """The bank as it stands; after or during a training."""
        teacher, options = self._fitted(), self.hparams
        vectors, prompt = self.concepts().detach(), options["prompt"] or teacher.bridge.vlm.default_prompt
        entries = []
        for index, pair in enumerate(self.pairs):
            divergence, loss, explained = self._outcome(index, vectors[[index]])
            entries.append(
                Concept(
                    pair=pair,
                    vector=(vectors[index, 0] if options["shape"] == "vector" else vectors[index]).clone(),
                    divergence=divergence,
                    steps=self.global_step,
                    loss=loss,
                    explained=explained,
                    prompt=prompt,
                    objective=self._story(index),
                )
            )
        made = teacher.bridge.origin
        notes = self.coupling, tuple(entries), made.generator_weights, made.vlm_weights
        return ConceptBank(made.generator, made.vlm, *notes)

    def _story(self, pair: int) -> str:
        """What was minimised, how φ was chosen, and what the objective has learned."""
        parts = self.hparams["objective"], f"φ {self.hparams['phi']}", self.objective.story(pair)
        return ", ".join(part for part in parts if part)

    @torch.no_grad()
    def _outcome(self, pair: int, vector: Tensor) -> tuple[float, float, float]:
        """Δϑ, the velocity objective, and what of it is explained, at some places of a pair and φ from 0 to 1."""
        places, teacher = self.places[pair], self._fitted()
        some = spread(places, SAMPLE)
        dials = torch.linspace(0.1, 1, len(some))[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))]
        losses = []
        for rows, phi in zip(torch.split(some, teacher.at_once), torch.split(dials, teacher.at_once), strict=True):
            points, device = teacher.points(rows).to(teacher.device), teacher.device
            q, condition = vector.to(device).expand(len(rows), -1, -1), teacher.condition(points.context, 0)
            losses.append(velocity_objective(teacher.bridge.generator, points, condition, q, phi.to(device)))
        loss, start = (torch.cat(column).mean().item() for column in zip(*losses, strict=True))
        divergence = teacher.divergence(some, self.hparams["prompt"], self.measure).mean().item()
        return divergence, loss, 1 - loss / start


def _check_turns(pairs: int, points: int) -> None:
    if points < pairs:
        msg = f"steps: {points} points in all for {pairs} pairs; raise steps or batch_size, so that each has its turn"
        raise TransporterError(msg)


def _check_origin(origin: Origin, generator: BackboneSpec, video: VideoSpec) -> None:
    """Refuse latents of another generator, or of another geometry."""
    names = checkpoint_name(origin.generator), checkpoint_name(generator.path)
    for field, made, given in (("generator", *names), ("video", str(origin.video), str(video))):
        if made != given:
            msg = f"{field}: the data's latents were made with {made}, not {given}; use that, or encode the clips anew"
            raise TransporterError(msg)
