"""``transporter demo``: the whole path on the shipped models, each step as the command that a user would type."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from transporter_pl.cli import main
from transporter_pl.commands.arguments import packaged_configs
from transporter_pl.errors import TransporterError, did_you_mean

PAIR = "backbones/shapemotion_"


@dataclass(frozen=True)
class Budget:
    """How much of everything the demo does.

    Attributes:
        clips: Clips rendered and encoded.
        coupling_steps: Optimiser steps of Φ.
        concept_steps: Optimiser steps of the concept vectors.
        denoising_steps: Steps of every sampling.
        pairs: Pairs that are explained.
        measured_clips: Clips a row of the first table.
        measured_seeds: Seeds a row of the second table.
    """

    clips: int
    coupling_steps: int
    concept_steps: int
    denoising_steps: int
    pairs: tuple[str, ...]
    measured_clips: int
    measured_seeds: int


FULL = Budget(2000, 1500, 100, 20, ("left:right", "red:blue", "slowly:quickly", "small:large"), 64, 8)
FAST = Budget(64, 50, 20, 10, ("left:right",), 16, 2)


def demo(fast: bool = False, vlm: str | None = None, out: Path = Path("demo"), seed: int = 0) -> None:
    """Clips → cache → Φ → concepts → explanations, on the shipped models.

    Args:
        fast: Fewer clips and steps: shows that everything runs, not how well.
        vlm: Which of the small VLMs is explained, as in ``backbones/shapemotion_<vlm>.yaml``; by default the first.
        out: Folder of everything; ``full`` or ``fast`` in it, with the VLM's name where one was given.
        seed: Seed of clips, training and noise.

    Raises:
        TransporterError: If there is no such VLM (lists them, suggests the nearest).
    """
    layer = _layer(vlm)
    # bars of a blink, for small models on this disk; before any library reads it
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    console, budget, name = Console(), FAST if fast else FULL, "fast" if fast else "full"
    folder = out / (name if vlm is None else f"{name}-{vlm}")
    for command in commands(budget, folder, seed, layer):
        console.print(f"\n[bold]$ transporter {shlex.join(command)}[/bold]", highlight=False, soft_wrap=True)
        code = main(command)
        if code:
            raise SystemExit(code)
    console.print("\nOpen in a browser:")
    for pair in budget.pairs:
        console.print(f"  {page_folder(folder, pair) / 'index.html'}", highlight=False, soft_wrap=True)


def _layer(vlm: str | None) -> list[str]:
    """The option that puts another small VLM into the demo's files."""
    if vlm is None:
        return []
    known = [c.removeprefix(PAIR).removesuffix(".yaml") for c in packaged_configs() if c.startswith(PAIR)]
    if vlm not in known:
        msg = f"vlm: no small VLM {vlm!r}.{did_you_mean(vlm, known)} Known: {', '.join(known)}"
        raise TransporterError(msg)
    return ["--config", f"{PAIR}{vlm}.yaml"]


def commands(budget: Budget, folder: Path, seed: int, layer: Sequence[str] = ()) -> Iterator[list[str]]:
    """The command lines, without ``transporter``; ``layer`` follows the file of each that loads backbones."""
    clips, cache, coupling, concepts = (str(folder / n) for n in ("clips", "cache", "coupling", "concepts"))
    models = ["--coupling", coupling, "--concepts", concepts, "--steps", str(budget.denoising_steps)]
    yield _line("clips", "clips", "--folder", clips, "--count", budget.clips, "--seed", seed)
    found = ["--data.root", clips, "--data.annotations", f"{clips}/annotations.json"]
    yield _line("encode", "encode", *layer, *found, "--out", cache)
    trained = ["--data.path", cache, "--model.export", coupling, "--trainer.max_steps", budget.coupling_steps]
    layers = ["--config", "coupling/base.yaml", "--config", "scale/laptop.yaml"]
    yield ["fit", *layers, *map(str, [*trained, *_run_in(folder / "runs" / "coupling", seed)])]
    learned = ["--model.coupling", coupling, "--model.export", concepts, "--model.steps", budget.concept_steps]
    yield _line("fit", "concept", *layer, *learned, "--model.seed", seed, *_run_in(folder / "runs" / "concept", seed))
    for pair in budget.pairs:
        sweep = ["--pair", pair, "--phi", 0, 0.25, 0.5, 0.75, 1, "--seed", seed]
        yield _line("explain", "explain", *layer, *sweep, *models, "--out", page_folder(folder, pair))
    counts = ["--clips", budget.measured_clips, "--seeds", budget.measured_seeds]
    yield _line("measure", "measure", *layer, *models, *counts, "--out", folder / "measure.json")


def page_folder(folder: Path, pair: str) -> Path:
    """Where the demo puts a pair's explanation."""
    return folder / "explanations" / pair.replace(":", "-")


def _run_in(folder: Path, seed: int) -> list[object]:
    return ["--trainer.default_root_dir", folder, "--seed_everything", seed]


def _line(command: str, config: str, *options: object) -> list[str]:
    return [command, "--config", f"shapemotion/{config}.yaml", *map(str, options)]
