"""Does the number on the dial mean anything? What the VLM says against φ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transporter_pl.report.figures import FAINT, INK, colour_of, save


def calibration(
    path: str | Path, phi: Sequence[float], probability: Sequence[float], divergence: Sequence[float], word: str
) -> None:
    """Plot P(token+) and Δϑ against φ.

    The dashed line is Δϑ = φ, as concept vectors are trained to φ = Δϑ.

    Args:
        path: Picture to write (png, svg or pdf by its ending).
        phi: φ of every clip.
        probability: The VLM's probability of the positive word, in [0, 1].
        divergence: Δϑ between the clip and the one without the concept, in [0, 1].
        word: The positive word.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    _curve(left, phi, probability, f"P(“{word}”)")
    _curve(right, phi, divergence, "Δϑ")
    ends = [min(0.0, *phi), max(1.0, *phi)]
    right.plot(ends, [abs(e) for e in ends], "--", color=FAINT, linewidth=1, zorder=0)
    save(figure, path)


def _curve(axes: Axes, phi: Sequence[float], values: Sequence[float], label: str) -> None:
    order = sorted(range(len(phi)), key=lambda i: phi[i])
    axes.plot([phi[i] for i in order], [values[i] for i in order], color=FAINT, linewidth=1.5, zorder=1)
    axes.scatter(phi, values, c=[colour_of(f) for f in phi], s=42, zorder=2)
    axes.set(ylim=(-0.03, 1.03))
    axes.set_xlabel("φ", color=INK)
    axes.set_title(label, loc="left", color=INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
