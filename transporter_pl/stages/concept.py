"""Stage 2: learn one concept vector a pair."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.divergences import divergences
from transporter_pl.concepts.objectives import Points, velocity_objective
from transporter_pl.concepts.pairs import Pair
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.concepts.trajectories import mean_over_groups, settings_in, settings_of
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.origin import checkpoint_name
from transporter_pl.samples import Encoded, Origin, VideoSpec
from transporter_pl.stages.hyperparameters import built, check_choices, export_folder, plain

COUNTS = ("seeds", "noise_seeds", "sampling_steps", "guidance", "steps", "batch_size")
RECENT = 50  # steps over which the reported loss is averaged
SAMPLE = 16  # points of each pair at which Δϑ is measured where φ does not need it everywhere


class ConceptStage(L.LightningModule):
    """Learns the vectors q of all pairs in one run; everything else is frozen.

    L = ‖ sg[G(z_t, ε−, t) + φ Δv] − G(z_t, ε− + φ q, t) ‖². The latents z_t, v−, Δv and Δϑ belong to frozen models, so
    they are computed once, when the training starts. It needs no data module unless ``trajectory`` is ``data``.

    φ is Δϑ (``divergence``, the paper's) or uniform in [0, 1]. Δϑ is measured at the same z_t for both ends: it is
    large at large t and nears 0 with t, so q hardly learns the late steps from it. Where Δϑ is near 1, the target is
    G(z_t, ε+, t) itself and q = ε+ − ε− solves it; the interpolated targets of a uniform φ make the dial continuous.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        video: Geometry of the videos.
        coupling: Folder of Φ.
        pairs: The pairs, with their contexts.
        export: Folder of the finished bank, by default ``concepts`` in the trainer's ``default_root_dir``.
        shape: ``sequence`` learns (L, D_c), bound to the place of the words in the caption; ``vector`` one (D_c,) for
            all rows.
        init: ``zeros`` (presumably the paper's) or ``difference``: the mean over contexts of ε+ − ε−.
        phi: How φ is chosen at every point.
        divergence: Registered name of Δϑ's measure.
        trajectory: ``generated``: z_t from the generator's denoising towards both ends; ``data``: from noised latents
            of the data module's clips whose captions hold one of the words.
        seeds: Trajectories for each context and end; with ``data``, clips for each pair and end.
        noise_seeds: Noises of each of these, over which Δv and Δϑ are averaged; 1 leaves each z_t its own Δv.
        sampling_steps: Times on each trajectory.
        guidance: Guidance scale of the trajectories; ``None`` takes the generator's own. The loss has none.
        steps: Optimiser steps (the paper: 1000).
        batch_size: Points of each pair a step, and points at which the VLM is read at once; fewer need less memory.
        lr: Learning rate, decayed linearly to a twentieth.
        lr_unit: ``rms``: lr counts in units of the conditions' root mean square; ``absolute``: the paper's.
        prompt: The question under which Δϑ is read; ``None`` takes the VLM's own.
        seed: Seed of trajectories and batches.

    Raises:
        TransporterError: If there is no pair or one twice, an option is unknown, or a count is below 1.
    """

    vectors: nn.Parameter  # None before ``configure_model``

    def __init__(
        self,
        generator: BackboneSpec,
        vlm: BackboneSpec,
        video: VideoSpec,
        coupling: str,
        pairs: list[Pair],
        export: str | None = None,
        shape: Literal["sequence", "vector"] = "sequence",
        init: Literal["zeros", "difference"] = "zeros",
        phi: Literal["divergence", "uniform"] = "uniform",
        divergence: str = "hellinger",
        trajectory: Literal["generated", "data"] = "generated",
        seeds: int = 1,
        noise_seeds: int = 1,
        sampling_steps: int = 20,
        guidance: float | None = None,
        steps: int = 1000,
        batch_size: int = 8,
        lr: float = 0.01,
        lr_unit: Literal["rms", "absolute"] = "rms",
        prompt: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.pairs = [built(Pair, pair) for pair in pairs]
        self.backbones = built(BackboneSpec, generator), built(BackboneSpec, vlm)
        self.video, self.coupling = built(VideoSpec, video), coupling
        _check_pairs(self.pairs)
        check_counts(**{name: self.hparams[name] for name in COUNTS})
        check_choices(ConceptStage, self.hparams)
        self.measure = divergences.get(divergence)
        self.teacher: Teacher | None = None
        self.register_parameter("vectors", None)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=RECENT)

    # -- what is frozen -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the backbones and Φ, and see that every pair is a contrast to the VLM."""
        if self.teacher is not None:
            return
        export_folder(self, "concepts")
        clips = self._data() if self.hparams["trajectory"] == "data" else None
        settings = settings_of(self.pairs) if clips is None else settings_in(clips, self.pairs, self.hparams["seeds"])
        network, place = CouplingNetwork.from_pretrained(self.coupling), str(self.trainer.strategy.root_device)
        bridge = Bridge(*load_pair(*self.backbones, self.video, network, place), network)
        self.teacher = Teacher(bridge, self.pairs, settings)  # no submodule of ours: checkpoints hold q alone

    def on_fit_start(self) -> None:
        """Compute what the frozen models say at every point, once."""
        options, teacher = self.hparams, self._fitted()
        teacher.to(self.device)
        draws = torch.Generator().manual_seed(options["seed"])
        contexts = range(len(teacher.settings))
        points = teacher.points(
            track(contexts, "Trajectories", transient=True, disable=not self.trainer.is_global_zero),
            draws,
            seeds=options["seeds"],
            noise_seeds=options["noise_seeds"],
            steps=options["sampling_steps"],
            guidance=options["guidance"],
        )
        owner = teacher.pair_of[points.context]
        self.rows = [(owner == index).nonzero()[:, 0] for index in range(len(self.pairs))]
        self.dials, self.divergence = self._dials(points, draws)
        self.points = replace(points, change=mean_over_groups(points.change, options["noise_seeds"]))
        self.draws = torch.Generator().manual_seed(options["seed"] + self.global_rank)

    def _dials(self, points: Points, draws: torch.Generator) -> tuple[Tensor | None, Tensor]:
        """φ = Δϑ of every point (or none, if φ is uniform), and Δϑ of every pair, for which a sample of points does."""
        read = partial(
            self._fitted().divergence,
            prompt=self.hparams["prompt"],
            measure=self.measure,
            at_once=self.hparams["batch_size"],
        )
        if self.hparams["phi"] == "divergence":
            dials = mean_over_groups(read(points), self.hparams["noise_seeds"])
            return dials, torch.stack([dials[rows].mean() for rows in self.rows])
        some = [rows[torch.randperm(len(rows), generator=draws)[:SAMPLE]] for rows in self.rows]
        return None, torch.stack([read(points[rows]).mean() for rows in some])

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
        """Make room for the checkpoint's vectors; no backbone is needed for that."""
        if self.vectors is None:
            self.vectors = nn.Parameter(torch.empty_like(checkpoint["state_dict"]["vectors"]))

    def train_dataloader(self) -> DataLoader[int]:
        """One item a step; the points are drawn in the step."""
        return DataLoader(range(self.hparams["steps"]), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with linear decay."""
        unit = self._fitted().condition_rms() if self.hparams["lr_unit"] == "rms" else 1.0
        optimizer = torch.optim.Adam([self.vectors], self.hparams["lr"] * unit)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, self.hparams["steps"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def training_step(self, batch: object, index: int) -> Tensor:
        """The objective at points of every pair, summed over pairs, as each pair has a vector of its own."""
        count, teacher = self.hparams["batch_size"], self._fitted()
        rows = torch.cat([r[torch.randint(len(r), (count,), generator=self.draws)] for r in self.rows])
        points = self.points[rows].to(self.device)
        phi = torch.rand(len(rows), generator=self.draws) if self.dials is None else self.dials[rows]
        vectors = self.vectors.repeat_interleave(count, 0)
        condition = teacher.ends[points.context, 0]
        results = velocity_objective(teacher.bridge.generator, points, condition, vectors, phi.to(self.device))
        loss, start = (r.reshape(-1, count).mean(1) for r in results)
        self.recent.append((loss.detach(), start))
        self._log(loss.detach(), start)
        total: Tensor = loss.sum()
        return total

    def _log(self, loss: Tensor, start: Tensor) -> None:
        self.log("loss", loss.mean(), prog_bar=True, batch_size=1)
        self.log("explained", 1 - loss.sum() / start.sum(), prog_bar=True, batch_size=1)
        for index, pair in enumerate(self.pairs):
            self.log(f"loss/{pair.name}", loss[index], batch_size=1)
            self.log(f"explained/{pair.name}", 1 - loss[index] / start[index], batch_size=1)
            self.log(f"divergence/{pair.name}", self.divergence[index], batch_size=1)

    def on_train_batch_end(self, *_: object) -> None:
        """Stop after ``steps``, whatever loader runs."""
        if self.global_step >= self.hparams["steps"]:
            self.trainer.should_stop = True

    # -- what is handed on --------------------------------------------------------------------------------------------

    def on_fit_end(self) -> None:
        """Write the bank's folder, if there was a step."""
        if self.trainer.is_global_zero and self.recent:
            self.bank().save(export_folder(self, "concepts"))

    def bank(self) -> ConceptBank:
        """The bank as it stands; after or during a training."""
        bridge = self._fitted().bridge
        loss, start = (torch.stack(column).mean(0) for column in zip(*self.recent, strict=True))
        entries = tuple(
            Concept(
                pair=pair,
                vector=(self.vectors[i, 0] if self.hparams["shape"] == "vector" else self.vectors[i]).detach().clone(),
                divergence=self.divergence[i].item(),
                steps=self.global_step,
                loss=loss[i].item(),
                explained=(1 - loss[i] / start[i]).item(),
                prompt=self.hparams["prompt"] or bridge.vlm.default_prompt,
                objective=f"velocity, φ {self.hparams['phi']}",
            )
            for i, pair in enumerate(self.pairs)
        )
        made = bridge.origin
        return ConceptBank(made.generator, made.vlm, self.coupling, entries, made.generator_weights, made.vlm_weights)


def _check_pairs(pairs: list[Pair]) -> None:
    names = [pair.name for pair in pairs]
    if not names or len(set(names)) < len(names):
        msg = f"pairs: {', '.join(names) or 'none'}; give at least one, and each once"
        raise TransporterError(msg)


def _check_origin(origin: Origin, generator: BackboneSpec, video: VideoSpec) -> None:
    """Refuse latents of another generator, or of another geometry."""
    names = checkpoint_name(origin.generator), checkpoint_name(generator.path)
    for field, made, given in (("generator", *names), ("video", str(origin.video), str(video))):
        if made != given:
            msg = f"{field}: the data's latents were made with {made}, not {given}; use that, or encode the clips anew"
            raise TransporterError(msg)
