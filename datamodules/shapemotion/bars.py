"""``transporter measure``: the bars of the embedded world as tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.shapemotion.measure import (
    Agreement,
    Effect,
    codec_agreement,
    concept_effects,
    coupling_agreement,
    generator_agreement,
    vlm_agreement,
)
from transporter_pl.datamodules.shapemotion.sheets import draw_sheets
from transporter_pl.datamodules.shapemotion.world import FACTORS, factor_of
from transporter_pl.errors import check_counts
from transporter_pl.explain.explainer import check_vectors
from transporter_pl.files import replace_file
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.origin import origin_of
from transporter_pl.samples import VideoSpec


def measure(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    coupling: Path | None = None,
    concepts: Path | None = None,
    out: Path = Path("runs/shapemotion/measure.json"),
    clips: int = 256,
    seeds: int = 64,
    steps: int = 20,
    device: str = "auto",
) -> dict[str, list[Agreement] | list[Effect]]:
    """Measure backbones, coupling and concepts by the reader, print the tables, write them as JSON and draw examples.

    Args:
        generator: The generator.
        vlm: The VLM.
        video: Geometry of the clips.
        coupling: Folder of Φ; left out, only the backbones are measured.
        concepts: Folder of the concept bank; left out, concepts are not measured.
        out: Where the figures are written, after each table; pictures of codec, generator and VLM go beside it.
        clips: Held-out clips a row of the first table.
        seeds: Seeds a row of the second table.
        steps: Sampling steps.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.

    Raises:
        TransporterError: Before anything is measured, if a count is below 1, the bank holds a pair of another world, or
            bank, Φ and backbones don't belong together.
    """
    check_counts(clips=clips, seeds=seeds, steps=steps)
    bank = None if concepts is None else ConceptBank.from_pretrained(concepts, generator.path, vlm.path)
    for entry in bank.entries if bank else ():
        factor_of(entry.pair.name)
    network = None if coupling is None else CouplingNetwork.from_pretrained(coupling)
    xi, omega = load_pair(generator, vlm, video, network, device)
    bridge = None if network is None else Bridge(xi, omega, network.to(xi.device))
    if bank:
        check_vectors(bank, xi.condition_shape)
        bank.check_weights(bridge.origin if bridge else origin_of(xi, omega))
    console = Console()
    agreements = _agreements(xi, omega, bridge, clips, steps)
    console.print(agreement_table(agreements))
    _write(out, agreements, [])
    effects = _effects(xi, omega, bank, seeds, steps) if bank else []
    if effects:
        console.print(effect_table(effects))
    draw_sheets(xi, omega, out.parent, steps=steps)
    _write(out, agreements, effects)
    console.print(f"written to {out}")
    return {"agreement": agreements, "effects": effects}


def _agreements(
    generator: GeneratorAdapter, vlm: VLMAdapter, bridge: Bridge | None, clips: int, steps: int
) -> list[Agreement]:
    """The rows of the first table; a bar shows how far they are."""
    parts: list[Callable[[], list[Agreement]]] = [
        lambda: [codec_agreement(generator, clips)],
        lambda: [generator_agreement(generator, clips, steps=steps)],
        lambda: coupling_agreement(bridge, clips) if bridge else [vlm_agreement(vlm, clips)],
    ]
    return [row for part in track(parts, "Held-out clips", transient=True) for row in part()]


def _effects(generator: GeneratorAdapter, vlm: VLMAdapter, bank: ConceptBank, seeds: int, steps: int) -> list[Effect]:
    """The rows of the second table; a bar shows how far they are."""
    entries = track(bank.entries, "Concepts", transient=True)
    models = generator, vlm
    return [row for e in entries for row in concept_effects(*models, e.pair.name, e.vector, seeds=seeds, steps=steps)]


def agreement_table(rows: list[Agreement]) -> Table:
    """Per factor, the share of held-out clips in which the source names the right word."""
    table = Table("source", *FACTORS, "whole", title="Held-out clips: words right (%)")
    for row in rows:
        whole = "" if row.whole is None else f"{100 * row.whole:.1f}"
        table.add_row(row.source, *(f"{100 * share:.1f}" for share in row.factors), whole)
    return table


def effect_table(rows: list[Effect]) -> Table:
    """Per pair and way of moving the condition: flipped, said by the VLM, kept, whole and monotone."""
    columns = "pair", "row", "flipped", "VLM says so", "kept", "kept least", "whole at every φ", "Spearman"
    table = Table(*columns, title="Effects (%)")
    for row in rows:
        whole = " ".join(f"{100 * share:.0f}" for share in row.whole)
        rho = "" if row.spearman is None else f"{row.spearman:.3f}"
        shares = (f"{100 * share:.1f}" for share in (row.flipped, row.said, row.kept, row.kept_worst))
        table.add_row(row.pair, row.row, *shares, whole, rho)
    return table


def _write(out: Path, agreements: list[Agreement], effects: list[Effect]) -> None:
    figures = {"agreement": [asdict(a) for a in agreements], "effects": [asdict(e) for e in effects]}
    text = json.dumps({**figures, "torch": torch.__version__}, indent=1, allow_nan=False)
    replace_file(out, lambda aside: aside.write_text(text, encoding="utf-8"))
