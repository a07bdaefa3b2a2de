"""The bank of a training of concepts: its vectors, what each of them is worth, and what it does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.objectives import velocity_objective
from transporter_pl.concepts.teacher import spread
from transporter_pl.explain.explainer import Explainer

if TYPE_CHECKING:
    from transporter_pl.stages.concept import ConceptStage

SAMPLE = 16  # places of each pair at which the loss and the Δϑ that the bank tells are measured


def bank_of(stage: ConceptStage) -> ConceptBank:
    """The bank as it stands; after or during a training.

    Args:
        stage: A stage whose trajectories are drawn.
    """
    made, vectors = stage.fitted().bridge.origin, stage.concepts().detach()
    entries = tuple(_concept(stage, index, vectors[index]) for index in range(len(stage.pairs)))
    notes = stage.coupling, entries, made.generator_weights, made.vlm_weights
    return ConceptBank(made.generator, made.vlm, *notes)


def _concept(stage: ConceptStage, index: int, vector: Tensor) -> Concept:
    """One pair's entry, from its vector (L, D_c) or (1, D_c)."""
    options = stage.hparams
    divergence, loss, explained = _outcome(stage, index, vector)
    return Concept(
        pair=stage.pairs[index],
        vector=(vector[0] if options["shape"] == "vector" else vector).clone(),
        divergence=divergence,
        steps=stage.global_step,
        loss=loss,
        explained=explained,
        prompt=options["prompt"] or stage.fitted().bridge.vlm.default_prompt,
        objective=_story(stage, index),
    )


def _story(stage: ConceptStage, pair: int) -> str:
    """What was minimised, how φ was chosen, and what the objective has learned."""
    parts = stage.hparams["objective"], f"φ {stage.hparams['phi']}", stage.objective.story(pair)
    return ", ".join(part for part in parts if part)


@torch.no_grad()
def _outcome(stage: ConceptStage, pair: int, vector: Tensor) -> tuple[float, float, float]:
    """Δϑ, the velocity objective, and what of it is explained, at some places of a pair and φ from 0 to 1."""
    places, teacher = stage.places[pair], stage.fitted()
    some = spread(places, SAMPLE)
    dials = torch.linspace(0.1, 1, len(some))[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))]
    losses = []
    for rows, phi in zip(torch.split(some, teacher.at_once), torch.split(dials, teacher.at_once), strict=True):
        points, device = teacher.points(rows).to(teacher.device), teacher.device
        q, condition = vector.to(device).expand(len(rows), -1, -1), teacher.condition(points.context, 0)
        losses.append(velocity_objective(teacher.bridge.generator, points, condition, q, phi.to(device)))
    loss, start = (torch.cat(column).mean().item() for column in zip(*losses, strict=True))
    divergence = teacher.divergence(some, stage.hparams["prompt"], stage.measure).mean().item()
    return divergence, loss, 1 - loss / start


def calibrated_bank(stage: ConceptStage, bank: ConceptBank) -> ConceptBank:
    """The bank with what each concept does to the videos that are drawn with it."""
    explainer = Explainer(stage.fitted().bridge, bank)
    entries = stage.watch("Calibration")(enumerate(bank.entries))
    return replace(bank, entries=tuple(_measured(stage, explainer, index, concept) for index, concept in entries))


def _measured(stage: ConceptStage, explainer: Explainer, index: int, concept: Concept) -> Concept:
    options = stage.hparams
    calibration = explainer.calibrate(
        concept.pair,
        options["calibration_seeds"],
        contexts=[setting.context for setting in stage.fitted().settings if setting.pair == index],
        steps=options["sampling_steps"],
        guidance=options["guidance"],
        prompt=options["prompt"],
        batch_size=options["batch_size"],
    )
    return replace(concept, calibration=calibration)
