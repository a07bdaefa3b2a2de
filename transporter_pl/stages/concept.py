"""Stage 2: learn a concept vector for each of many pairs in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from transporter_pl.chance import draws_of
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.divergences import divergences
from transporter_pl.concepts.objectives import Loss, check_objective, new_objective
from transporter_pl.concepts.pairs import Pair, pairs_of
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.concepts.trajectories import Setting, Trajectories, settings_in, settings_of
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError, check_counts, check_not_negative
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.samples import VideoSpec
from transporter_pl.stages.banking import Learned, bank_of, calibrated_bank
from transporter_pl.stages.checkpoints import writing
from transporter_pl.stages.hyperparameters import built, check_choices, export_folder, plain
from transporter_pl.stages.latents import latents_for
from transporter_pl.stages.sharding import SHARDING
from transporter_pl.stages.stage import Stage
from transporter_pl.stages.turns import Steps, Turn, check_turns, take_turn

DRAWN_BY = "generator", "video", "pairs", "seeds", "noise_seeds", "sampling_steps", "guidance", "batch_size", "seed"
COUNTS = ("seeds", "noise_seeds", "sampling_steps", "guidance", "steps", "batch_size")


class ConceptStage(Stage):
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
        check_not_negative(lr=lr)
        check_choices(ConceptStage, self.hparams)
        self.measure, self.options = divergences.get(divergence), objective_options or {}
        check_objective(objective, self.options)
        check_turns(len(self.pairs), steps * batch_size)
        self.given: tuple[Bridge, Trajectories | None] | None = None
        self.teacher: Teacher | None = None
        self.register_parameter("vectors", None)

    def ask(self, bridge: Bridge, drawn: Trajectories | None = None) -> None:
        """Take models that are loaded already, in place of those that the options name.

        Args:
            bridge: The models.
            drawn: Trajectories of another stage that draws the same, which tells by ``drawn_by``.
        """
        self.given = bridge, drawn  # a tuple, as no submodule of ours: checkpoints hold q alone

    def drawn_by(self) -> dict[str, Any]:
        """The options that generated trajectories depend on."""
        return {name: self.hparams[name] for name in DRAWN_BY}

    # -- what is frozen -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the backbones and Φ, and see that every pair is a contrast to the VLM."""
        super().setup(stage)
        if self.teacher is not None:
            return
        if isinstance(self.trainer.strategy, SHARDING):
            msg = "strategy: the vectors are few, there is nothing to shard; use ddp"
            raise TransporterError(msg)
        options = self.hparams
        export_folder(self, "concepts")
        settings = settings_of(self.pairs) if options["trajectory"] == "generated" else self._settings_in_data()
        bridge, _ = self.given or (self._loaded(), None)
        self.teacher = Teacher(bridge, self.pairs, settings, options["batch_size"])
        self.objective = new_objective(options["objective"], self.teacher, options["prompt"], self.options)

    def _loaded(self) -> Bridge:
        """The models that the options name."""
        network, place = CouplingNetwork.from_pretrained(self.coupling), str(self.trainer.strategy.root_device)
        return Bridge(*load_pair(*self.backbones, self.video, network, place), network)

    def _settings_in_data(self) -> list[Setting]:
        """What the clips of the first process's data show; the others have other parts of them."""
        data = getattr(self.trainer, "datamodule", None)
        clips = latents_for(data, self.backbones[0], self.video)
        return self.trainer.strategy.broadcast(settings_in(clips, self.pairs, self.hparams["seeds"]))

    def on_fit_start(self) -> None:
        """Draw the trajectories, once; every process draws all of them."""
        options, teacher = self.hparams, self.fitted()
        teacher.to(self.device)
        teacher.draw(
            torch.Generator().manual_seed(options["seed"]),
            seeds=options["seeds"],
            noise_seeds=options["noise_seeds"],
            steps=options["sampling_steps"],
            guidance=options["guidance"],
            watch=self.watch("Trajectories"),
            drawn=self.given[1] if self.given else None,
        )
        self.places = [teacher.places(index) for index in range(len(self.pairs))]
        self.objective.prepare(self.places)
        # devices may differ in the last bits of what each has found
        self.objective.load_state_dict(self.trainer.strategy.broadcast(self.objective.state_dict()))

    def watch(self, what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
        """Shows how far something is, on the first process."""
        return partial(track, description=what, transient=True, disable=not self.trainer.is_global_zero)

    def fitted(self) -> Teacher:
        """The frozen models.

        Raises:
            TransporterError: If they are not loaded yet.
        """
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

        Raises:
            TransporterError: If it is another stage's checkpoint.
        """
        state = checkpoint["state_dict"]
        if "vectors" not in state:
            msg = "ckpt_path: no checkpoint of a training of concepts; give one that fit wrote for a ConceptStage"
            raise TransporterError(msg)
        if self.vectors is None:
            self.vectors = nn.Parameter(torch.empty_like(state["vectors"]))
        if self.teacher is None:
            checkpoint["state_dict"] = {"vectors": state["vectors"]}

    def train_dataloader(self) -> Steps:
        """One item a step; the points are drawn in the step."""
        return Steps(self.hparams["steps"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with linear decay, for the vectors and for what the objective learns."""
        unit = self.fitted().condition_rms() if self.hparams["lr_unit"] == "rms" else 1.0
        own = {"params": list(self.objective.parameters()), "lr": self.objective.lr}
        groups: list[dict[str, Any]] = [{"params": [self.vectors]}, own]
        optimizer = torch.optim.Adam(groups, self.hparams["lr"] * unit)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, self.hparams["steps"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def training_step(self, batch: int, index: int) -> Tensor:
        """The objective at points of the pairs in turn, as each pair has a vector of its own."""
        turn, points, phi = self._asked(self._batch)
        loss = self.objective(points, self.concepts()[turn.owner.to(self.device)], phi)
        self._log(loss)
        total: Tensor = (loss.total / turn.share.to(loss.total)).sum()
        return total

    @property
    def _batch(self) -> int:
        """Number of the batch that is under way, counted from the first of the training."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    def _asked(self, batch: int) -> tuple[Turn, Points, Tensor]:
        """A batch's turn, what the frozen models say at its points, and φ there, (B,)."""
        # the same draws in all processes, and whether the training was interrupted or not
        self.objective.draws = draws = draws_of(f"{self.hparams['seed']}-0-{batch}")
        processes = self.global_rank, self.trainer.world_size
        turn = take_turn(self.places, batch, self.hparams["batch_size"], *processes, draws)
        points = self.fitted().points(turn.places).to(self.device)
        if self.hparams["phi"] == "uniform":
            return turn, points, turn.chance.to(self.device)
        phi = self.fitted().divergence(turn.places, self.hparams["prompt"], self.measure)
        return turn, points, phi.to(self.device)

    def concepts(self) -> Tensor:
        """All vectors q, (pairs, L, D_c) or (pairs, 1, D_c): the vectors, and what the objective adds to them."""
        shift = self.objective.shift()
        if shift is None:
            return self.vectors
        return self.vectors + (shift.mean(1, keepdim=True) if self.hparams["shape"] == "vector" else shift)

    def _log(self, loss: Loss) -> None:
        with torch.no_grad():
            self.log("loss", loss.total.mean(), prog_bar=True, batch_size=1)
            self.log("explained", 1 - loss.velocity.sum() / loss.start.sum(), prog_bar=True, batch_size=1)
            for name, values in loss.parts.items():
                self.log(name, values.mean(), prog_bar=True, batch_size=1)

    def on_train_start(self) -> None:
        """Ask what was asked before a checkpoint; and take no step more where the training was finished.

        The last bits of what a model says of a point depend on what else is in the batch, and a batch is what was not
        yet known: without this, a training that is resumed would see other bits than one that was not interrupted.

        Raises:
            SystemExit: On SIGTERM; the checkpoint that it goes on from is as good as before.
        """
        for batch in self.watch("Recalling")(range(self._batch + 1)):
            self.look_for_signals()
            _, points, _ = self._asked(batch)
            self.objective.recall(points)
        self.on_train_batch_end()

    def on_train_batch_end(self, *_: object) -> None:
        """Stop after ``steps``, whatever loader runs."""
        if self.global_step >= self.hparams["steps"]:
            self.trainer.should_stop = True

    # -- what is handed on --------------------------------------------------------------------------------------------

    def bank(self) -> ConceptBank:
        """The bank as it stands; after or during a training."""
        return bank_of(self._learned())

    def _learned(self) -> Learned:
        stories = [self.objective.story(index) for index in range(len(self.pairs))]
        vectors, options = self.concepts().detach(), self.hparams
        return Learned(
            self.fitted(), self.coupling, vectors, self.places, stories, self.measure, self.global_step, options
        )

    def on_fit_end(self) -> None:
        """Write the bank's folder, if there was a step; then measure what the concepts do, and write that too."""
        if not (self.trainer.is_global_zero and self.global_step):
            return
        folder, bank = export_folder(self, "concepts"), self.bank()
        with writing("export", folder):
            bank.save(folder)
        if self.hparams["calibration_seeds"]:
            calibrated = calibrated_bank(self._learned(), bank, self.watch("Calibration"))
            with writing("export", folder):
                calibrated.save(folder)
            for concept in calibrated.entries:
                if concept.calibration is not None:
                    Console(markup=False, highlight=False).print(
                        concept.calibration.sentence(concept.pair), soft_wrap=True
                    )
