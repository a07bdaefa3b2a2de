"""What Φ does to the tokens of a clip, as a picture: the plan, and the Gram matrices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from transporter_pl.report.figures import INK, NEGATIVE, POSITIVE

SIGNED = LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
WEIGHT = LinearSegmentedColormap.from_list("weight", ["white", INK])
PLAN = r"plan $\tilde T$, source ↓ target →"
SIDE = 2.6  # of a matrix, in inches
CELLS = 512  # of a side, which is more than a picture has dots for


@dataclass(frozen=True)
class Relations:
    """One clip's matrices.

    Attributes:
        name: Name of the clip.
        grams: H(z) of several kinds of tokens by their titles, (N, N) each; the first is the target.
        plan: T̃, (N source tokens i, N target tokens j); ``None`` where there is none.
    """

    name: str
    grams: Mapping[str, Tensor]
    plan: Tensor | None = None


def relations_figure(clips: Sequence[Relations]) -> Figure:
    """Clips down; the plan, if there is one, and the Gram matrices across.

    A clip's Gram matrices share one scale of colours, the target's own, so that pictures of different steps compare.
    Larger matrices than ``CELLS`` a side are averaged over blocks.

    Args:
        clips: At least one; all with the same titles, and all with a plan or none.
    """
    titles = [*([] if clips[0].plan is None else [PLAN]), *clips[0].grams]
    figure = Figure(figsize=(SIDE * len(titles) + 1, SIDE * len(clips) + 0.3), layout="constrained")
    grid = figure.subplots(len(clips), len(titles), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, color=INK, fontsize=11)
    for clip, row in zip(clips, grid, strict=True):
        _draw(figure, list(row), clip)
    return figure


def _draw(figure: Figure, row: list[Axes], clip: Relations) -> None:
    row[0].set_ylabel(clip.name, fontsize=8)
    if clip.plan is not None:
        plan = _drawable(clip.plan)
        figure.colorbar(_matrix(row[0], plan, 0.0, plan.max().item(), WEIGHT), ax=row.pop(0), shrink=0.8)
    grams = [_drawable(gram) for gram in clip.grams.values()]
    bound = grams[0].abs().max().item()
    images = [_matrix(axes, gram, -bound, bound, SIGNED) for axes, gram in zip(row, grams, strict=True)]
    figure.colorbar(images[0], ax=row, shrink=0.8, extend="both")


def _drawable(values: Tensor) -> Tensor:
    height, width = (min(side, CELLS) for side in values.shape)
    return adaptive_avg_pool2d(values.detach().float()[None], (height, width))[0].cpu()


def _matrix(axes: Axes, values: Tensor, low: float, high: float, colours: LinearSegmentedColormap) -> AxesImage:
    axes.set(xticks=[], yticks=[])
    return axes.imshow(values.numpy(), colours, vmin=low, vmax=high)
