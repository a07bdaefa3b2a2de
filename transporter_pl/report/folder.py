"""An explanation as a folder: an mp4 per φ, the pictures, the figures as JSON, and the page that shows it all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transporter_pl
from transporter_pl.explain.explainer import Explanation, Reading
from transporter_pl.files import replace_file
from transporter_pl.report.calibration import calibration
from transporter_pl.report.filmstrip import filmstrip
from transporter_pl.report.page import Page, Shot, write_page
from transporter_pl.report.video import write_video

FILMSTRIP, CALIBRATION, FIGURES, PAGE = "filmstrip.png", "calibration.svg", "explanation.json", "index.html"


def write_report(
    folder: str | Path, explanation: Explanation, fps: float, made_with: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write everything there is to see of an explanation.

    Args:
        folder: Made if it is not there; the page is written last.
        explanation: A sweep of φ.
        fps: Frames per second of its videos.
        made_with: Names and values for the foot of the page and the JSON: generator, VLM.

    Returns:
        The page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    phi = explanation.phi.tolist()
    files = [f"phi_{value:g}.mp4" for value in phi]
    for name, video in zip(files, explanation.video, strict=True):
        write_video(folder / name, video, fps)
    coupled, word = explanation.coupled, explanation.pair.positive
    probability, divergence = coupled.positive.tolist(), coupled.divergence.tolist()
    filmstrip(folder / FILMSTRIP, explanation.video, phi, fps)
    calibration(folder / CALIBRATION, phi, probability, divergence, word)
    _write_figures(folder / FIGURES, explanation, files, made_with)
    decoded = explanation.reencoded
    columns = (phi, files, coupled.captions, probability, divergence, decoded.captions, decoded.positive.tolist())
    shots = [Shot(*row) for row in zip(*columns, strict=True)]
    foot = [*made_with, ("seed", str(explanation.seed)), ("transporter-pl", transporter_pl.__version__)]
    pair = explanation.pair
    page = Page(pair.negative, pair.positive, explanation.context, shots, FILMSTRIP, CALIBRATION, foot)
    write_page(folder / PAGE, page)
    return folder / PAGE


def _write_figures(
    path: Path, explanation: Explanation, files: Sequence[str], made_with: Sequence[tuple[str, str]]
) -> None:
    figures = {
        "pair": explanation.pair.name,
        "caption": explanation.caption,
        "seed": explanation.seed,
        "phi": explanation.phi.tolist(),
        "videos": list(files),
        "through_coupling": _reading(explanation.coupled),
        "decoded_and_reencoded": _reading(explanation.reencoded),
        "made_with": dict(made_with),
        "version": transporter_pl.__version__,
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    replace_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def _reading(reading: Reading) -> dict[str, Any]:
    numbers = {name: getattr(reading, name).tolist() for name in ("negative", "positive", "divergence")}
    return {"captions": list(reading.captions), **numbers}
