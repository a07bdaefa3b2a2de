"""The picture of the plan and the Gram matrices."""

import pytest
import torch

from transporter_pl.report.relations import Relations, relations_figure


def clips(plan=True, count=2):
    torch.manual_seed(0)
    grams = [
        {"target": torch.randn(5, 5), "other": 9 * torch.randn(5, 5), "third": torch.rand(5, 5)} for _ in range(count)
    ]
    plans = [torch.rand(5, 5) if plan else None for _ in range(count)]
    return [Relations(f"clip {i}", g, p) for i, (g, p) in enumerate(zip(grams, plans, strict=True))]


def matrices(figure):
    """Axes that show a matrix, row by row; the others are scales of colours."""
    return [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]


@pytest.mark.parametrize("plan", [True, False])
def test_a_row_a_clip_with_its_matrices_side_by_side(plan):
    shown = clips(plan)
    axes = matrices(relations_figure(shown))
    assert len(axes) == 2 * (3 + plan)
    width = 3 + plan
    assert [a.get_title() for a in axes[plan:width]] == ["target", "other", "third"]
    assert [a.get_ylabel() for a in axes[::width]] == ["clip 0", "clip 1"]
    for row, clip in enumerate(shown):
        values = [*([clip.plan] if plan else []), *clip.grams.values()]
        for a, value in zip(axes[row * width : (row + 1) * width], values, strict=True):
            assert torch.equal(torch.tensor(a.images[0].get_array()), value)


def test_grams_share_the_targets_scale_and_the_plan_starts_at_nothing():
    shown = clips()
    axes = matrices(relations_figure(shown))
    for row, clip in enumerate(shown):
        plan, *grams = (a.images[0].get_clim() for a in axes[4 * row : 4 * row + 4])
        bound = clip.grams["target"].abs().max().item()
        assert grams == [(-bound, bound)] * 3
        assert plan == (0, clip.plan.max().item())


def test_large_matrices_are_averaged():
    values = torch.arange(1024.0).repeat_interleave(1024).view(1024, 1024)
    (axes,) = matrices(relations_figure([Relations("clip", {"target": values})]))
    shown = torch.tensor(axes.images[0].get_array())
    assert torch.equal(shown, (2 * torch.arange(512.0) + 0.5)[:, None].expand(512, 512))
