"""The bank of a training of concepts: its vectors, what each of them is worth, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.divergences import Divergence
from transporter_pl.concepts.objectives import velocity_objective
from transporter_pl.concepts.teacher import Teacher, spread
from transporter_pl.explain.explainer import Explainer

SAMPLE = 16  # places of each pair at which the loss and the Δϑ that the bank tells are measured


@dataclass(frozen=True)
class Learned:
    """Where a training of concepts has arrived.

    Attributes:
        teacher: The frozen models, with their trajectories drawn.
        coupling: Folder of Φ.
        vectors: q of all pairs, (pairs, L, D_c) or (pairs, 1, D_c).
        places: Where each pair may be trained, (M, 2) each, as ``Teacher.places`` gives them.
        stories: What the objective has learned about each pair.
        measure: Δϑ between two distributions.
        steps: Optimiser steps.
        options: The stage's, by name.
    """

    teacher: Teacher
    coupling: str
    vectors: Tensor
    places: Sequence[Tensor]
    stories: Sequence[str]
    measure: Divergence
    steps: int
    options: Mapping[str, Any]


def bank_of(learned: Learned) -> ConceptBank:
    """The bank as it stands; after or during a training."""
    made = learned.teacher.bridge.origin
    entries = tuple(_concept(learned, index) for index in range(len(learned.vectors)))
    notes = learned.coupling, entries, made.generator_weights, made.vlm_weights
    return ConceptBank(made.generator, made.vlm, *notes)


def _concept(learned: Learned, index: int) -> Concept:
    """One pair's entry."""
    options, vector = learned.options, learned.vectors[index]
    divergence, loss, explained = _outcome(learned, index)
    return Concept(
        pair=learned.teacher.pairs[index],
        vector=(vector[0] if options["shape"] == "vector" else vector).clone(),
        divergence=divergence,
        steps=learned.steps,
        loss=loss,
        explained=explained,
        prompt=options["prompt"] or learned.teacher.bridge.vlm.default_prompt,
        objective=_story(learned, index),
    )


def _story(learned: Learned, pair: int) -> str:
    """What was minimised, how φ was chosen, and what the objective has learned."""
    parts = learned.options["objective"], f"φ {learned.options['phi']}", learned.stories[pair]
    return ", ".join(part for part in parts if part)


@torch.no_grad()
def _outcome(learned: Learned, pair: int) -> tuple[float, float, float]:
    """Δϑ, the velocity objective, and what of it is explained, at some places of a pair and φ from 0 to 1."""
    teacher, vector = learned.teacher, learned.vectors[pair]
    some = spread(learned.places[pair], SAMPLE)
    dials = torch.linspace(0.1, 1, len(some))[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))]
    losses = []
    for rows, phi in zip(torch.split(some, teacher.at_once), torch.split(dials, teacher.at_once), strict=True):
        points, device = teacher.points(rows).to(teacher.device), teacher.device
        q, condition = vector.to(device).expand(len(rows), -1, -1), teacher.condition(points.context, 0)
        losses.append(velocity_objective(teacher.bridge.generator, points, condition, q, phi.to(device)))
    loss, start = (torch.cat(column).mean().item() for column in zip(*losses, strict=True))
    divergence = teacher.divergence(some, learned.options["prompt"], learned.measure).mean().item()
    return divergence, loss, 1 - loss / start


def calibrated_bank(
    learned: Learned, bank: ConceptBank, watch: Callable[[Iterable[Any]], Iterable[Any]]
) -> ConceptBank:
    """The bank with what each concept does to the videos that are drawn with it.

    Args:
        learned: What the bank was made from.
        bank: The bank.
        watch: Sees the concepts pass by.
    """
    explainer = Explainer(learned.teacher.bridge, bank)
    entries = watch(enumerate(bank.entries))
    return replace(bank, entries=tuple(_measured(learned, explainer, index, concept) for index, concept in entries))


def _measured(learned: Learned, explainer: Explainer, index: int, concept: Concept) -> Concept:
    options = learned.options
    calibration = explainer.calibrate(
        concept.pair,
        options["calibration_seeds"],
        contexts=[setting.context for setting in learned.teacher.settings if setting.pair == index],
        steps=options["sampling_steps"],
        guidance=options["guidance"],
        prompt=options["prompt"],
        batch_size=options["batch_size"],
    )
    return replace(concept, calibration=calibration)
