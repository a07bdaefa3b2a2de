"""Many concepts in one run against one run each, and how soon the default start is where zeros get to.

    python benchmarks/concepts.py --coupling demo/full/coupling

Sixteen pairs of ShapeMotion, both directions of eight, in twelve scenes each. Whole processes are timed,
with imports and loading: a run is a command. Then, the loss on places that no training sees, in one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import lightning as L  # noqa: N812
import torch
from rich.console import Console
from rich.table import Table

from transporter_pl.commands.arguments import call, find_configs
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.objectives import velocity_objective
from transporter_pl.concepts.pairs import SLOT, Pair
from transporter_pl.concepts.teacher import Teacher
from transporter_pl.datamodules.shapemotion.measure import Effect, concept_effects
from transporter_pl.datamodules.shapemotion.world import FACTORS, TEMPLATES, combinations, factor_of
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.samples import VideoSpec
from transporter_pl.stages.concept import ConceptStage

WORDS = (
    *("left:right", "up:down", "red:blue", "green:purple", "small:large", "tall:wide", "slowly:quickly"),
    "dark:bright",
)
GENERATOR, VLM = BackboneSpec("wan", "shapemotion-wan"), BackboneSpec("video_llama3", "shapemotion-videollama3")
VIDEO = VideoSpec(9, 64, 64)
SCENES = 12
HELD_OUT = 64  # places of each pair at which the loss is compared


@dataclass(frozen=True)
class Run:
    """What one way of training took, and what its concepts do.

    Attributes:
        way: ``one run`` or ``a run each``.
        seconds: Wall time of all its processes, a concept.
        loss: The velocity objective after the training, mean over concepts, as their banks tell.
        effects: What each concept does, as the factor reader sees it.
    """

    way: str
    seconds: float
    loss: float
    effects: list[Effect]


def sixteen() -> list[Pair]:
    """Both directions of every pair of words, in the same scenes: ε− and both ends' captions are shared."""
    pool = combinations(held_out=False)
    scenes = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:SCENES]]
    pairs = []
    for words in WORDS:
        factor, negative, positive = factor_of(words)
        contexts = tuple(dict.fromkeys(_caption(scene.tolist(), factor) for scene in scenes))
        names = FACTORS[factor].words[negative], FACTORS[factor].words[positive]
        pairs += [Pair(*names, contexts), Pair(*reversed(names), contexts)]
    return pairs


def _caption(words: Sequence[int], slot: str) -> str:
    """A scene's caption with a slot in place of one factor's word."""
    named = {f.name: f.words[index] for f, index in zip(FACTORS.values(), words, strict=True)}
    return TEMPLATES[0].format(**{**named, slot: SLOT})


def timed(pairs: Sequence[Pair], coupling: Path, options: Sequence[str], folder: Path) -> float:
    """Seconds of one ``transporter fit``, and its bank in the folder."""
    layer = folder / "pairs.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    layer.write_text(json.dumps({"model": {"init_args": {"pairs": [asdict(pair) for pair in pairs]}}}))
    command = ["transporter", "fit", "--config", "shapemotion/concept.yaml", "--config", str(layer)]
    places = [f"--model.coupling={coupling}", f"--model.export={folder}", f"--trainer.default_root_dir={folder}"]
    start = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, *places, *options], check=True, **quiet)
    return time.perf_counter() - start


def both_ways(pairs: Sequence[Pair], coupling: Path, options: Sequence[str], seeds: int) -> Iterator[Run]:
    """One run of all pairs, then a run for each."""
    generator, vlm = load_pair(GENERATOR, VLM, VIDEO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        together = timed(pairs, coupling, options, folder / "all")
        alone = [timed([pair], coupling, options, folder / str(i)) for i, pair in enumerate(pairs)]
        banks = (
            ConceptBank.from_pretrained(folder / "all"),
            ConceptBank.merge([ConceptBank.from_pretrained(folder / str(i)) for i in range(len(pairs))]),
        )
    for way, seconds, bank in zip(("one run", "a run each"), (together, sum(alone)), banks, strict=True):
        effects = [concept_effects(generator, vlm, c.pair.name, c.vector, seeds=seeds)[0] for c in bank.entries]
        yield Run(way, seconds / len(pairs), fmean(c.loss for c in bank.entries), effects)


class HeldOut(L.Callback):
    """The velocity objective at places of other noise, after every few steps.

    Attributes:
        curve: Step → loss of each pair.
    """

    def __init__(self, every: int) -> None:
        self.every, self.curve = every, {}

    def on_train_start(self, trainer: L.Trainer, stage: ConceptStage) -> None:
        """Draw the places."""
        teacher = Teacher(stage.teacher.bridge, stage.teacher.pairs, stage.teacher.settings)
        teacher.draw(torch.Generator().manual_seed(99), steps=stage.hparams["sampling_steps"])
        draws = torch.Generator().manual_seed(98)
        places = [teacher.places(index) for index in range(len(stage.pairs))]
        some = [rows[torch.randint(len(rows), (HELD_OUT,), generator=draws)] for rows in places]
        self.points, self.phi = teacher.points(torch.cat(some)), torch.rand(HELD_OUT * len(some), generator=draws)
        self._measure(stage)

    def on_train_batch_end(self, trainer: L.Trainer, stage: ConceptStage, *_: object) -> None:
        """Measure now and then."""
        if stage.global_step % self.every == 0:
            self._measure(stage)

    @torch.no_grad()
    def _measure(self, stage: ConceptStage) -> None:
        vectors = stage.concepts().repeat_interleave(HELD_OUT, 0)
        losses = []
        for rows in torch.arange(len(self.phi)).split(HELD_OUT):
            points = type(self.points)(*(field[rows] for field in vars(self.points).values()))
            condition = stage.teacher.condition(points.context, 0)
            generator = stage.teacher.bridge.generator
            loss, _ = velocity_objective(generator, points, condition, vectors[rows], self.phi[rows])
            losses.append(loss.mean().item())
        self.curve[stage.global_step] = losses


def curve(pairs: Sequence[Pair], coupling: Path, every: int, **options: object) -> dict[int, list[float]]:
    """Losses of all pairs while they train."""
    watch = HeldOut(every)
    with tempfile.TemporaryDirectory() as name:
        stage = ConceptStage(
            GENERATOR, VLM, VIDEO, str(coupling), list(pairs), export=name, calibration_seeds=0, **options
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        L.Trainer(max_epochs=-1, accelerator="cpu", callbacks=[watch], default_root_dir=name, **quiet).fit(stage)
    return watch.curve


def compare(coupling: Path, steps: int = 100, batch_size: int = 8, seeds: int = 32, part: str = "all") -> None:
    """Measure both, and print the tables.

    Args:
        coupling: Folder of a Φ between the small models, as ``transporter demo`` trains it.
        steps: Optimiser steps of the timed runs.
        batch_size: Points a step of the timed runs.
        seeds: Seeds a concept's effect is measured with.
        part: ``time``, ``steps`` or ``all``.
    """
    console, pairs = Console(width=150), sixteen()
    if part in {"all", "steps"}:
        few = pairs[::4]
        zeros = curve(few, coupling, 1000, init="zeros", steps=1000, batch_size=8 * len(few))[1000]
        start = curve(few, coupling, 5, init="difference", steps=100, batch_size=8 * len(few))
        table = Table(
            "pair", "zeros, 1000 steps", *(f"difference, {s}" for s in (0, 5, 10, 20, 50, 100)), "steps to it"
        )
        for index, pair in enumerate(few):
            reached = next((step for step, losses in start.items() if losses[index] <= zeros[index]), None)
            shown = (f"{start[step][index]:.4f}" for step in (0, 5, 10, 20, 50, 100))
            table.add_row(pair.name, f"{zeros[index]:.4f}", *shown, "not reached" if reached is None else str(reached))
        console.print(table)
    if part in {"all", "time"}:
        options = [f"--model.steps={steps}", f"--model.batch_size={batch_size}", "--model.calibration_seeds=0"]
        table = Table("way", "seconds a concept", "loss", "flipped", "kept", "whole, least", "Spearman")
        for run in both_ways(pairs, coupling, options, seeds):
            shares = [fmean(getattr(e, name) for e in run.effects) for name in ("flipped", "kept")]
            whole, rho = min(min(e.whole) for e in run.effects), median(e.spearman or 0.0 for e in run.effects)
            shown = (f"{100 * share:.1f}" for share in (*shares, whole))
            table.add_row(run.way, f"{run.seconds:.1f}", f"{run.loss:.4f}", *shown, f"{rho:.3f}")
        console.print(table)


if __name__ == "__main__":
    call(compare, "concepts.py", find_configs(sys.argv[1:]))
