"""An explanation as a folder: an mp4 per φ, the pictures, the figures as JSON, and the page that shows it all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transporter_pl
from transporter_pl.explain.explanation import Explanation, Reading
from transporter_pl.files import replace_file
from transporter_pl.report.calibration import calibration
from transporter_pl.report.filmstrip import filmstrip
from transporter_pl.report.page import write_page
from transporter_pl.report.video import write_video

FILMSTRIP, CALIBRATION, FIGURES, PAGE = "filmstrip.png", "calibration.svg", "explanation.json", "index.html"
VIDEO = re.compile(r"phi_-?\d[\d.]*(e[+-]\d+)?\.mp4")  # the names that are given here, and none of a user's


def write_report(folder: str | Path, explanation: Explanation) -> Path:
    """Write everything there is to see of an explanation.

    Args:
        folder: Made if it is not there; the page is written last, and then videos that it does not show are removed.
        explanation: A sweep of φ.

    Returns:
        The page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    phi = explanation.phi.tolist()
    files = [f"phi_{value:g}.mp4" for value in phi]
    for name, video in zip(files, explanation.video, strict=True):
        write_video(folder / name, video, explanation.fps)
    filmstrip(folder / FILMSTRIP, explanation.video, phi, explanation.fps)
    calibration(folder / CALIBRATION, explanation.calibration, explanation.pair.positive)
    _write_figures(folder / FIGURES, explanation, files)
    write_page(folder / PAGE, explanation, files, FILMSTRIP, CALIBRATION)
    for old in folder.iterdir():
        if VIDEO.fullmatch(old.name) and old.name not in files:
            old.unlink()
    return folder / PAGE


def _write_figures(path: Path, explanation: Explanation, files: Sequence[str]) -> None:
    measured = explanation.calibration
    moved = {"moved": measured.moved, "monotonicity": measured.monotonicity, "saturation": measured.saturation}
    figures = {
        "pair": explanation.pair.name,
        "caption": explanation.caption,
        "seed": explanation.seed,
        "sentence": explanation.sentence,
        "warnings": list(explanation.warnings),
        "phi": explanation.phi.tolist(),
        "videos": list(files),
        "through_coupling": _reading(explanation.coupled),
        "decoded_and_reencoded": _reading(explanation.reencoded),
        "elsewhere": explanation.elsewhere.tolist(),
        "calibration": {**measured.as_dict(), **moved},
        "made_with": dict(explanation.made_with),
        "version": transporter_pl.__version__,
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    replace_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def _reading(reading: Reading) -> dict[str, Any]:
    numbers = {name: getattr(reading, name).tolist() for name in ("negative", "positive", "divergence")}
    return {"captions": list(reading.captions), **numbers}
