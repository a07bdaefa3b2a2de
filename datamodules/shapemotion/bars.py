"""``transporter measure``: the bars of the embedded world as tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

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
from transporter_pl.datamodules.shapemotion.world import FACTORS
from transporter_pl.loading import BackboneSpec, load_generator, load_vlm
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
) -> dict[str, list[Agreement] | list[Effect]]:
    """Measure backbones, coupling and concepts by the reader, print the tables, write them as JSON and draw examples.

    Args:
        generator: The generator.
        vlm: The VLM.
        video: Geometry of the clips.
        coupling: Folder of Φ; left out, only the backbones are measured.
        concepts: Folder of the concept bank; left out, concepts are not measured.
        out: Where the figures are written; pictures of codec, generator and VLM go beside it.
        clips: Held-out clips a row of the first table.
        seeds: Seeds a row of the second table.
        steps: Sampling steps.
    """
    console = Console()
    xi, omega = load_generator(generator, video), load_vlm(vlm, video)
    agreements = [codec_agreement(xi, clips), generator_agreement(xi, clips, steps=steps)]
    if coupling is None:
        agreements.append(vlm_agreement(omega, clips))
    else:
        agreements += coupling_agreement(Bridge(xi, omega, CouplingNetwork.from_pretrained(coupling)), clips)
    console.print(agreement_table(agreements))
    effects: list[Effect] = []
    if concepts is not None:
        for entry in ConceptBank.from_pretrained(concepts).entries:
            effects += concept_effects(xi, f"{entry.pair.negative}:{entry.pair.positive}", entry.vector, seeds=seeds)
        console.print(effect_table(effects))
    draw_sheets(xi, omega, out.parent, steps=steps)
    _write(out, {"agreement": [asdict(a) for a in agreements], "effects": [asdict(e) for e in effects]})
    console.print(f"written to {out}")
    return {"agreement": agreements, "effects": effects}


def agreement_table(rows: list[Agreement]) -> Table:
    """Per factor, the share of held-out clips in which the source names the right word."""
    table = Table("source", *FACTORS, "whole", title="Held-out clips: words right (%)")
    for row in rows:
        whole = "" if row.whole is None else f"{100 * row.whole:.1f}"
        table.add_row(row.source, *(f"{100 * share:.1f}" for share in row.factors), whole)
    return table


def effect_table(rows: list[Effect]) -> Table:
    """Per pair and way of moving the condition: flipped, kept, whole and monotone."""
    table = Table("pair", "row", "flipped", "kept", "kept least", "whole at every φ", "Spearman", title="Effects (%)")
    for row in rows:
        whole = " ".join(f"{100 * share:.0f}" for share in row.whole)
        rho = "" if row.spearman != row.spearman else f"{row.spearman:.3f}"
        shares = (f"{100 * share:.1f}" for share in (row.flipped, row.kept, row.kept_worst))
        table.add_row(row.pair, row.row, *shares, whole, rho)
    return table


def _write(out: Path, figures: dict[str, list[dict[str, object]]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".part")
    aside.write_text(json.dumps({**figures, "torch": torch.__version__}, indent=1), encoding="utf-8")
    aside.replace(out)
