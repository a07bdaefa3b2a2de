"""Does the number on the dial mean anything? What the VLM says against φ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.report.figures import FAINT, INK, POSITIVE, colour_of, save

LITTLE = 0.002  # of what else changed, the least that fills the plot's height: noise is to look like noise


def calibration(path: str | Path, measured: Calibration, word: str) -> None:
    """Plot P(token+), Δϑ by both routes, and what else changed, against φ.

    The dashed line is Δϑ = φ, as concept vectors are trained to φ = Δϑ.

    Args:
        path: Picture to write (png, svg or pdf by its ending).
        measured: The sweep.
        word: The positive word.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharex=True)
    phi = measured.phi
    _curve(left, phi, measured.positive, f"P(“{word}”)")
    left.set(ylim=(-0.03, 1.03))
    _curve(middle, phi, measured.coupled, "Δϑ from φ = 0", "through Φ")
    middle.plot(phi, measured.reencoded, "o:", color=INK, markersize=4, linewidth=1.2, label="decoded, re-encoded")
    middle.set(ylim=(-0.03, 1.03))
    if measured.saturation is not None:
        middle.axvline(measured.saturation, color=POSITIVE, linewidth=1, alpha=0.6, label="saturation")
    ends = [min(0.0, *phi), max(1.0, *phi)]
    middle.plot(ends, [abs(end) for end in ends], "--", color=FAINT, linewidth=1, zorder=0)
    middle.legend(frameon=False, fontsize=8, labelcolor=INK)
    _curve(right, phi, measured.elsewhere, "what else changed")
    right.set_ylim(0, max(1.05 * max(measured.elsewhere), LITTLE))
    save(figure, path)


def _curve(axes: Axes, phi: Sequence[float], values: Sequence[float], title: str, label: str | None = None) -> None:
    axes.plot(phi, values, color=FAINT, linewidth=1.5, zorder=1, label=label)
    axes.scatter(phi, values, c=[colour_of(f) for f in phi], s=42, zorder=2)
    axes.set_xlabel("φ", color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
