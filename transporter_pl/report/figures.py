"""What the figures share: one colour a φ, and files that appear only when they are complete."""

from __future__ import annotations

from pathlib import Path

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from transporter_pl.files import replace_file

# also the page's: blue where the negative word stands, orange where the positive
NEGATIVE, POSITIVE, INK, FAINT = "#2b6cb0", "#c2410c", "#22211f", "#a8a49c"


def colour_of(phi: float) -> str:
    """Colour between the negative word's (φ ≤ 0) and the positive's (φ ≥ 1)."""
    share = min(max(phi, 0.0), 1.0)
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(to_rgb(NEGATIVE), to_rgb(POSITIVE), strict=True))
    return to_hex((red, green, blue))


def frame_rows(video: Tensor) -> Tensor:
    """Videos (K, T, 3, H, W) as one picture (3, K · H, T · W): a row a video, time across."""
    return video.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def save(figure: Figure, path: str | Path, dpi: int = 200) -> None:
    """Write a figure in the format of the file's ending, aside first."""
    replace_file(Path(path), lambda aside: figure.savefig(aside, dpi=dpi, bbox_inches="tight", facecolor="white"))
