"""One run of the ablation: a variant of Φ trained with one seed and measured, and the files that it leaves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L  # noqa: N812
import torch

from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.cache.key import CacheKey
from transporter_pl.datamodules.shapemotion.heldout import Bench, Fidelity, fidelity
from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.settings import check_recorded
from transporter_pl.stages.alone import forget, train_alone
from transporter_pl.stages.coupling import CouplingStage

RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """All settings of a run; one with other settings has other figures.

    Attributes:
        network: Options of Φ, with the variant's transport.
        seed: Seed of the initial weights and of the order of the clips.
        steps: Optimiser steps.
        batch_size: Clips a step.
        lr: Peak learning rate.
        warmup: Steps of linear warm-up.
        clips: Held-out rendered clips that measure Φ.
        generated: Held-out generated clips that do.
        denoising_steps: Sampling steps of the latter.
        cache: What made the latent cache that trains.
    """

    network: CouplingOptions
    seed: int
    steps: int
    batch_size: int
    lr: float
    warmup: int
    clips: int
    generated: int
    denoising_steps: int
    cache: CacheKey


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        fidelity: How well Φ carries held-out clips over.
        seconds: Of a training step; ``None`` where nothing is trained.
    """

    fidelity: Fidelity
    seconds: float | None


def perform(run: Run, folder: Path, cache: Path, bench: Bench) -> Outcome:
    """Train Φ, measure it, and write ``coupling`` and ``result.json`` to the run's folder."""
    stage, seconds = _train(run, folder, cache, bench.vlm.device)
    found = fidelity(stage.network.to(bench.vlm.device).eval(), bench)
    outcome = Outcome(found, seconds)
    text = json.dumps({"settings": asdict(run), "outcome": asdict(outcome)}, indent=1, ensure_ascii=False)
    replace_file(folder / RESULT, lambda aside: aside.write_text(text, encoding="utf-8"))
    return outcome


def finished(run: Run, folder: Path) -> Outcome | None:
    """What an earlier call has found with the same settings; ``None`` where it has not finished the run.

    Raises:
        TransporterError: If the result is of other settings (names the first that differs), or can't be read.
    """
    file = folder / RESULT
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        network = CouplingOptions(**said["settings"]["network"])  # an option that is newer than the file: its default
        settings, seconds = {**said["settings"], "network": asdict(network)}, said["outcome"]["seconds"]
        measured = said["outcome"]["fidelity"]
        real, generated = tuple(measured["real"]), tuple(measured["generated"])
        outcome = Outcome(Fidelity(real, generated, measured["cosine"], measured["gram"]), seconds)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"out: {str(file)!r} can't be read ({error!r}); delete it, and the run is done again"
        raise TransporterError(msg) from error
    check_recorded(file, settings, json.loads(json.dumps(asdict(run))), {})
    return outcome


def _train(run: Run, folder: Path, cache: Path, device: torch.device) -> tuple[CouplingStage, float | None]:
    """The trained stage, and the seconds of a step."""
    L.seed_everything(run.seed, verbose=False)  # the clips' order is the seed's too, the same for all variants
    data = CacheDataModule(str(cache), run.batch_size)
    stage = CouplingStage(data.shapes, run.network, lr=run.lr, warmup=run.warmup, export=str(folder / "coupling"))
    forget(folder)  # of a call that was interrupted, perhaps with other settings
    seconds, steps = train_alone(stage, folder, device, data, run.steps, gradient_clip_val=1.0)
    forget(folder)
    return stage, seconds / steps if steps else None
