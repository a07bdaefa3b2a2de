"""The terms of GradViT and LEAPS against closed forms and loops written out."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transporter_pl.baselines.terms import (
    coherence,
    jaccard_dissimilarity,
    l2,
    patch_borders,
    priming,
    total_variation,
)

NUMBERS = st.floats(-1e3, 1e3).map(lambda number: round(number, 6))  # the squares of tiny ones would be 0
VECTORS = arrays("float64", (2, 5), elements=NUMBERS).map(torch.from_numpy)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def checkerboard(patch, side=12):
    """Squares of black and white, (1, 2, 3, side, side)."""
    row = torch.arange(side) // patch
    return ((row[:, None] + row) % 2).double().expand(1, 2, 3, side, side)


@pytest.mark.parametrize("term", [total_variation, l2, lambda video: patch_borders(video, (4, 4))])
def test_grey_has_no_borders_and_each_video_counts_alone(term):
    video = random(3, 2, 3, 12, 8)
    torch.testing.assert_close(term(video), torch.cat([term(video[i : i + 1]) for i in range(3)]))
    if term is not l2:
        assert term(torch.full((1, 2, 3, 12, 8), 0.7)).item() == 0


def test_total_variation_of_a_ramp_is_its_slope():
    ramp = torch.arange(6.0, dtype=torch.float64)[:, None] * 0.3 + torch.arange(5.0) * 0.1
    torch.testing.assert_close(total_variation(ramp.expand(1, 2, 3, 6, 5)), torch.tensor([0.4], dtype=torch.float64))


def test_l2_is_the_root_of_the_sum_of_squares():
    torch.testing.assert_close(l2(torch.full((2, 4, 3, 2, 2), 0.5)), torch.full((2,), (48 * 0.25) ** 0.5))


def test_a_checkerboard_of_patches_jumps_at_every_border_and_nowhere_else():
    # two borders down and two across, where each of 3 x 12 values jumps by 1
    torch.testing.assert_close(patch_borders(checkerboard(4), (4, 4)), torch.tensor([4 * 36**0.5], dtype=torch.float64))
    # the borders of six-pixel patches lie within squares of 4
    assert patch_borders(checkerboard(4), (6, 6)).item() == 0


def test_patch_borders_are_those_of_the_paper():
    video, patch = random(1, 2, 3, 11, 8), (4, 3)
    rows, columns = (range(p, side, p) for side, p in zip((11, 8), patch, strict=True))
    expected = [
        sum((frame[:, k] - frame[:, k - 1]).norm() for k in rows)
        + sum((frame[:, :, k] - frame[:, :, k - 1]).norm() for k in columns)
        for frame in video[0]
    ]
    torch.testing.assert_close(patch_borders(video, patch)[0], sum(expected) / 2)


@pytest.mark.parametrize(
    ("patch", "borders"), [(2.5, [2, 5, 8]), (3.5, [4, 7]), (12.0, []), (30.0, []), (0.5, [*range(1, 10)])]
)
def test_patches_of_no_whole_number_of_pixels_meet_at_the_nearest(patch, borders):
    video = random(1, 2, 3, 10, 10)
    expected = [
        sum((f[:, k] - f[:, k - 1]).norm() + (f[:, :, k] - f[:, :, k - 1]).norm() for k in borders) for f in video[0]
    ]
    torch.testing.assert_close(patch_borders(video, (patch, patch))[0], torch.as_tensor(sum(expected) / 2).to(video))


def test_a_video_without_jumps_has_a_gradient_all_the_same():
    video = torch.zeros(1, 2, 3, 8, 8, requires_grad=True)
    (patch_borders(video, (4, 4)) + l2(video) + total_variation(video)).sum().backward()
    assert torch.isfinite(video.grad).all()


@given(VECTORS)
def test_jaccard_is_a_symmetric_dissimilarity_in_its_range(pair):
    a, b = pair
    found = jaccard_dissimilarity(a, b)
    assert 0 <= found <= 4 / 3 + 1e-9
    assert found == jaccard_dissimilarity(b, a)
    assert jaccard_dissimilarity(a, a) == 0


@given(VECTORS, st.floats(0.01, 100))
def test_jaccard_does_not_ask_for_units(pair, unit):
    a, b = pair / 1e3
    torch.testing.assert_close(
        jaccard_dissimilarity(unit * a, unit * b), jaccard_dissimilarity(a, b), atol=1e-6, rtol=1e-6
    )


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_of_sets_it_is_jaccards_own(first, second):
    a, b = (torch.tensor([float(i in some) for i in range(10)]) for some in (first, second))
    union = len(first | second)
    assert jaccard_dissimilarity(a, b) == pytest.approx(1 - len(first & second) / union if union else 0)


def test_jaccard_in_closed_form():
    a, b = random(4, 7), random(4, 7, seed=1)
    inner = (a * b).sum(-1)
    whole = a.norm(dim=-1) ** 2 + b.norm(dim=-1) ** 2 - inner
    torch.testing.assert_close(jaccard_dissimilarity(a, b), 1 - inner / whole)
    torch.testing.assert_close(jaccard_dissimilarity(a, -a), torch.full((4,), 4 / 3, dtype=torch.float64))


def test_priming_is_the_weighted_mean_over_layers_of_mean_embeddings():
    drawn = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]), torch.tensor([[[1.0]]])
    stimulus = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[-1.0], [-1.0], [-1.0]]])
    # means (1, 0) and (0, 1): orthogonal; 1 and −1: opposite
    torch.testing.assert_close(priming(drawn, stimulus, [3.0, 1.5]), torch.tensor([(3 * 1 + 1.5 * 4 / 3) / 2]))
    assert priming(drawn, drawn, [3.0, 1.5]).item() == 0


def test_coherence_written_out():
    moments, margin = random(2, 5, 6), 1.2
    expected = []
    for clip in moments:
        distance = {(s, t): (clip[s] - clip[t]).abs().mean() for s, t in itertools.combinations(range(5), 2)}
        near = [d for (s, t), d in distance.items() if t == s + 1]
        far = [max(0.0, margin - d.item()) for (s, t), d in distance.items() if t > s + 1]
        expected.append(sum(near) / len(near) + sum(far) / len(far))
    torch.testing.assert_close(coherence(moments, margin), torch.stack(expected))


def test_a_constant_pace_pays_for_its_steps_alone_where_others_are_far_enough():
    line = torch.arange(4.0)[None, :, None].expand(1, 4, 3)
    assert coherence(0.5 * line, 1.0).item() == pytest.approx(0.5)  # 0.5 apart, then 1 and 1.5
    assert coherence(0.5 * line, 1.3).item() == pytest.approx(0.5 + (0.3 + 0.3 + 0) / 3)
    assert coherence(0 * line, 1.0).item() == 1  # frames that stand still


def test_two_moments_have_none_that_are_apart():
    moments = random(1, 2, 3)
    torch.testing.assert_close(coherence(moments, 5.0)[0], (moments[0, 0] - moments[0, 1]).abs().mean())


def test_coherence_has_a_gradient_where_frames_stand_still():
    moments = torch.zeros(1, 4, 3, requires_grad=True)
    coherence(moments, 1.0).sum().backward()
    assert torch.isfinite(moments.grad).all()
