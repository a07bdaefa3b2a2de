"""Clips as one picture: φ down, time across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.report.figures import FAINT, colour_of, save


def filmstrip(path: str | Path, videos: Tensor, phi: Sequence[float], fps: float, columns: int = 9) -> None:
    """Draw frames at even distances, from the first to the last, one row a φ.

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
    shown = torch.linspace(0, videos.shape[1] - 1, min(columns, videos.shape[1])).round().long()
    frames = videos[:, shown].detach().float().clamp(0, 1).cpu().permute(0, 1, 3, 4, 2).numpy()
    ratio = videos.shape[3] / videos.shape[4]
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    # an inch a frame
    figure = Figure(figsize=(len(shown) + 0.3, ratio * len(phi) + 0.35), layout=layout)
    grid = figure.subplots(len(phi), len(shown), squeeze=False)
    for row, value in enumerate(phi):
        for column, index in enumerate(shown.tolist()):
            cell = grid[row, column]
            cell.imshow(frames[row, column], interpolation="lanczos", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            if row == len(phi) - 1:
                cell.set_xlabel(f"{index / fps:.2f} s", color=FAINT, fontsize=8)
        grid[row, 0].set_ylabel(f"φ = {value:g}", color=colour_of(value), fontsize=10, fontweight="bold")
    save(figure, path)
