"""Clips as one picture: a row a clip, time across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.report.figures import FAINT, INK, colour_of, save

LABEL = {"rotation": "horizontal", "horizontalalignment": "right", "verticalalignment": "center"}


@dataclass(frozen=True)
class Label:
    """What stands before a row.

    Attributes:
        text: The words, with line breaks where they should be.
        colour: Their colour.
        size: Their size in points.
        weight: ``normal`` or ``bold``.
    """

    text: str
    colour: str = INK
    size: int = 7
    weight: str = "normal"


def filmstrip(path: str | Path, videos: Tensor, phi: Sequence[float], fps: float, columns: int = 9) -> None:
    """A sweep: φ down, time across.

    Args:
        path: Picture to write (png, svg or pdf by its ending).
        videos: (K, T, 3, H, W) in [0, 1].
        phi: The K values of φ.
        fps: Frames per second, for the time axis.
        columns: Largest number of frames in a row.

    Raises:
        TransporterError: If there are not as many φ as videos, or none.
    """
    if not len(phi) or len(phi) != len(videos):
        msg = f"phi: {len(phi)} values for {len(videos)} videos; give one φ a video"
        raise TransporterError(msg)
    labels = [Label(f"φ = {value:g}", colour_of(value), 10, "bold") for value in phi]
    clip_rows(path, videos, labels, fps, columns)


def clip_rows(
    path: str | Path, videos: Tensor, labels: Sequence[Label], fps: float, columns: int = 9, dpi: int = 200
) -> None:
    """Draw frames at even distances, from the first to the last, one row a clip, its label before it.

    Args:
        path: Picture to write (png, svg or pdf by its ending).
        videos: (K, T, 3, H, W) in [0, 1].
        labels: The K labels.
        fps: Frames per second, for the time axis.
        columns: Largest number of frames in a row.
        dpi: Dots an inch; a frame is an inch wide.
    """
    shown = torch.linspace(0, videos.shape[1] - 1, min(columns, videos.shape[1])).round().long()
    frames = videos[:, shown].detach().float().clamp(0, 1).cpu().permute(0, 1, 3, 4, 2).numpy()
    ratio = videos.shape[3] / videos.shape[4]
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    figure = Figure(figsize=(len(shown) + 0.9, ratio * len(labels) + 0.35), layout=layout)
    grid = figure.subplots(len(labels), len(shown), squeeze=False)
    for row, label in enumerate(labels):
        for column, index in enumerate(shown.tolist()):
            cell = grid[row, column]
            cell.imshow(frames[row, column], interpolation="lanczos", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            if row == len(labels) - 1:
                cell.set_xlabel(f"{index / fps:.2f} s", color=FAINT, fontsize=8)
        style = {"color": label.colour, "fontsize": label.size, "fontweight": label.weight}
        grid[row, 0].set_ylabel(label.text, **style, **LABEL)
    save(figure, path, dpi)
