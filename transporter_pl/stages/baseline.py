"""A baseline as a training: its videos are the weights."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.console import Console
from torch import Tensor

from transporter_pl.adapters import VLMAdapter
from transporter_pl.baselines.ascent import Ascent, targets_of
from transporter_pl.baselines.base import Baseline, Canvas, check_baseline, new_baseline
from transporter_pl.baselines.references import References
from transporter_pl.concepts.pairs import Pair, pairs_of
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.loading import BackboneSpec, load_vlm
from transporter_pl.report.drawn import write_drawn
from transporter_pl.samples import VideoSpec
from transporter_pl.stages.checkpoints import writing
from transporter_pl.stages.hyperparameters import built, check_choices, export_folder, plain
from transporter_pl.stages.stage import Stage
from transporter_pl.stages.turns import Steps


class BaselineStage(Stage):
    """Draws, by gradient ascent on pixels, videos that make a VLM say the second word of each pair in each context.

    Nothing is trained but the videos themselves. Of several restarts, each from noise of its own, the one whose
    objective ends highest is kept. A budget counts the VLM's forward passes a video, all restarts together, what is
    asked of clips before the first step and the last look at the result included, so that baselines with equal
    ``forwards`` have cost the VLM the same.

    Args:
        vlm: The VLM Ω.
        video: Geometry of the videos.
        pairs: The pairs, with their contexts, or templates with both words; each context makes a video.
        baseline: Registered name of a baseline, or class path.
        options: Its options.
        objective: ``positive``: max ϑ+; ``moved``: ϑ− + Δϑ, see ``baselines.targets.objective``.
        forwards: Budget of forward passes a video.
        restarts: How often each video is begun anew.
        clips: Caption → video file: of ε+ for a baseline that is primed, of ε− and ε+ for the objective ``moved``.
        natural: Folder of any clips of the kind that the VLM knows, for a baseline that measures them.
        prompt: The question; ``None`` takes the VLM's own.
        export: Folder of the drawn videos, by default ``drawn`` in the trainer's ``default_root_dir``.
        seed: Seed of the first video's start; the others count on from it.

    Raises:
        TransporterError: If a name, an option, a pair or a count is wrong, or the budget is too small for a step.
    """

    baseline: Baseline  # from ``setup`` on

    def __init__(
        self,
        vlm: BackboneSpec,
        video: VideoSpec,
        pairs: list[Pair | str],
        baseline: str = "leaps",
        options: dict[str, Any] | None = None,
        objective: Literal["positive", "moved"] = "positive",
        forwards: int = 512,
        restarts: int = 2,
        clips: dict[str, str] | None = None,
        natural: str | None = None,
        prompt: str | None = None,
        export: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.spec, self.video, self.options = built(BackboneSpec, vlm), built(VideoSpec, video), options or {}
        # one by one: pairs that are given twice are drawn twice
        self.asked = [(pair, context) for given in pairs for pair in pairs_of([given]) for context in pair.contexts]
        if not self.asked:
            msg = "pairs: none that has a context; give at least one template, such as an oval moves {left|right}"
            raise TransporterError(msg)
        self.captions = [pair.captions(context) for pair, context in self.asked]
        check_counts(forwards=forwards, restarts=restarts)
        check_choices(BaselineStage, self.hparams)
        kind = check_baseline(baseline, self.options)
        # clips that are looked at beforehand; and the last look is a forward pass of each restart
        looked_at = 2 * (objective == "moved") + kind.needs_stimulus * restarts
        self.steps = (forwards - looked_at) // restarts - 1
        self.forwards = looked_at + (self.steps + 1) * restarts
        if self.steps < 1:
            msg = f"forwards: {forwards} leave no step for {restarts} restart(s); give at least "
            raise TransporterError(msg + str(2 * restarts + looked_at))
        self.given: tuple[VLMAdapter, References] | None = None
        self.ascent: Ascent | None = None

    def ask(self, vlm: VLMAdapter, references: References) -> None:
        """Take a VLM and clips that are loaded already, in place of those that the options name."""
        self.given = vlm, references

    # -- what is frozen -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the VLM and the clips; begin the videos.

        Raises:
            TransporterError: If a clip is missing or can't be read, a pair is no contrast to the VLM, or there are
                several processes.
        """
        super().setup(stage)
        if self.ascent is not None:
            return
        if self.trainer.world_size > 1:
            msg = f"devices: {self.trainer.world_size} processes would draw the same videos; use one"
            raise TransporterError(msg)
        export_folder(self, "drawn")
        place = self.trainer.strategy.root_device
        vlm, references = self.given or (None, self._references())
        vlm = load_vlm(self.spec, self.video, place) if vlm is None else vlm
        options = self.hparams
        targets = targets_of(vlm, self.asked, options["objective"], references, options["prompt"])
        # the VLM is no submodule of ours: checkpoints hold the videos alone
        self.baseline = new_baseline(options["baseline"], self._canvas(references, vlm), self.options)
        self.ascent = Ascent(vlm, self.baseline, targets, options["objective"], options["prompt"])

    def _canvas(self, references: References, vlm: VLMAdapter) -> Canvas:
        """What is drawn on: every video with a seed of its own, restarts side by side."""
        restarts, first = self.hparams["restarts"], self.hparams["seed"]
        seeds = [(first + row) * restarts + again for row in range(len(self.asked)) for again in range(restarts)]
        stimulus = references.positive
        stimulus = None if stimulus is None else stimulus.repeat_interleave(restarts, 0)
        return Canvas(self.video, tuple(seeds), stimulus, references.natural, vlm.moments, vlm.patch_size)

    def _references(self) -> References:
        """The clips that the options name."""
        return References.read(self.captions, self.hparams["clips"] or {}, self.hparams["natural"], self.video)

    def climbing(self) -> Ascent:
        """What asks the VLM.

        Raises:
            TransporterError: If it is not loaded yet.
        """
        if self.ascent is None:
            msg = "BaselineStage: no VLM is loaded; run the Trainer's fit first"
            raise TransporterError(msg)
        return self.ascent

    # -- what is drawn ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Steps:
        """One item a step."""
        return Steps(self.steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The baseline's own."""
        optimiser, schedule = self.baseline.optimiser(self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: int, index: int) -> Tensor:
        """The loss of all videos, which do not know of each other."""
        climb = self.climbing().climb(self.global_step, self.steps)
        figures = {"objective": climb.objective, "probability": climb.probability}
        for name, values in figures.items():
            self.log(name, values.detach().mean(), prog_bar=True, batch_size=1)
        for name, values in climb.penalties.items():
            self.log(f"penalties/{name}", values.detach().mean(), batch_size=1)
        return climb.loss.sum()

    # -- what is handed on --------------------------------------------------------------------------------------------

    def on_fit_end(self) -> None:
        """Write the best restart of every video, if there was a step."""
        if not self.global_step:
            return
        self.reached = self.climbing().reached()
        with writing("export", folder := export_folder(self, "drawn")):
            write_drawn(folder, self.reached, [positive for _, positive in self.captions], self.video.fps)
        if self.given is None:  # a user's own run, and no part of a longer one
            said = ", ".join(f"{p:.2f}" for p in self.reached.probability.tolist())
            Console(markup=False, highlight=False).print(f"P(token+): {said}; written to {folder}", soft_wrap=True)
