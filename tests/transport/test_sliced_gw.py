"""Sliced Gromov-Wasserstein against loops in float64 and exhaustive search; what it is blind to."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.errors import TransporterError
from transporter_pl.transport.sliced_gw import SlicedGW, match

N, D = 7, 5


def tokens(seed=0, count=N):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(2, count, D, generator=draws, dtype=torch.float64) for _ in range(2)]


def transport(**options):
    return SlicedGW(D, **options).double()


def distortion(a, b):
    """What Gromov-Wasserstein asks to be least, as it is written."""
    pairs = itertools.product(range(len(a)), repeat=2)
    return sum(((a[i] - a[j]) ** 2 - (b[i] - b[j]) ** 2) ** 2 for i, j in pairs)


def looped_plan(directions, first, second):
    """T̃ of one clip, direction by direction."""
    plan = np.zeros((len(first), len(second)))
    for direction in directions:
        a, b = first @ direction, second @ direction
        sources, targets = np.argsort(a), np.argsort(b)
        orders = [targets, targets[::-1]]
        best = orders[int(np.argmin([distortion(a[sources], b[order]) for order in orders]))]
        for i, j in zip(sources, best, strict=True):
            plan[i, j] += 1 / len(directions)
    return plan


@settings(max_examples=25)
@given(seed=st.integers(0, 999), count=st.integers(1, 8))
def test_a_match_is_the_distortion_but_for_a_constant(seed, count):
    draws = np.random.default_rng(seed)
    a, b = draws.normal(size=(2, count)) * draws.exponential(size=(2, 1)) + draws.normal(size=(2, 1))
    order = draws.permutation(count)
    gain = match(torch.from_numpy(a), torch.from_numpy(b[order])) - match(torch.from_numpy(a), torch.from_numpy(b))
    assert 4 * gain.item() == pytest.approx(distortion(a, b) - distortion(a, b[order]), abs=1e-8, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_is_what_a_loop_over_the_directions_finds(seed):
    made, (first, second) = transport(projections=20, seed=seed), tokens(seed)
    plan = made.plan(first, second)
    for clip in range(2):
        expected = looped_plan(made.directions.numpy(), first[clip].numpy(), second[clip].numpy())
        np.testing.assert_allclose(plan[clip], expected, atol=1e-12)


SPREADS = {
    "normal": lambda draws, count: draws.normal(size=count),
    "heavy": lambda draws, count: draws.standard_cauchy(count),
    "skewed": lambda draws, count: draws.exponential(size=count),
    "scales": lambda draws, count: draws.normal(size=count) * 10.0 ** draws.integers(-3, 2, size=count),
}


def best_and_taken(a, b):
    """The largest match of all N! orders, and that of the better one of the two."""
    orders = np.array(list(itertools.permutations(range(len(b)))))
    a, b = torch.from_numpy(np.sort(a)), np.sort(b)
    taken = max(match(a, torch.from_numpy(b)), match(a, torch.from_numpy(b[::-1].copy())))
    return match(a, torch.from_numpy(b[orders])).max().item(), taken.item()


@pytest.mark.parametrize("spreads", list(itertools.combinations_with_replacement(SPREADS, 2)))
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_no_order_of_up_to_six_points_is_better_than_the_two(count, spreads):
    """In every draw: the heuristic's share is 100 % here."""
    draws = np.random.default_rng(count)
    for _ in range(50):
        best, taken = best_and_taken(*(SPREADS[spread](draws, count) for spread in spreads))
        assert taken == pytest.approx(best, rel=1e-9)


def test_of_seven_points_another_can_be():
    """Two points apart are best matched to the two ends, and no sorted order does that."""
    best, taken = best_and_taken(np.array([-1.0, 0, 0, 0, 0, 0, 1]), np.array([0.0, 0, 0, 0, 0, 1, 1]))
    assert taken == pytest.approx(0.86 * best)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), count=st.integers(1, 9), projections=st.integers(1, 30))
def test_rows_and_columns_sum_to_one(seed, count, projections):
    plan = transport(projections=projections).plan(*tokens(seed, count))
    assert (plan >= 0).all()
    for dim in (1, 2):
        torch.testing.assert_close(plan.sum(dim), torch.ones(2, count, dtype=torch.float64))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "moved", [lambda x: x + torch.arange(D), lambda x: 3 - x, lambda x: 0.1 * x], ids=["shift", "reflection", "scale"]
)
def test_blind_to(moved, which):
    made, pair = transport(), tokens()
    plan = made.plan(*pair)
    pair[which] = moved(pair[which])
    torch.testing.assert_close(made.plan(*pair), plan)


def test_equal_sets_are_paired_as_they_are():
    first, _ = tokens()
    torch.testing.assert_close(transport().plan(first, first), torch.eye(N, dtype=torch.float64).expand(2, N, N))


def test_no_gradient_through_the_permutations():
    made, (first, second) = transport(), [x.requires_grad_() for x in tokens()]
    plan, moved = made.plan(first, second), made(first, second)
    assert not plan.requires_grad
    upstream = torch.randn_like(moved)
    (moved * upstream).sum().backward()
    assert second.grad is None
    torch.testing.assert_close(first.grad, plan @ upstream)


def test_directions_are_fixed_and_of_unit_length():
    made = SlicedGW(D, projections=9, seed=1)
    with torch.device("meta"):  # as in a plan of what a run needs
        again = SlicedGW(D, projections=9, seed=1)
    torch.testing.assert_close(again.directions, made.directions)
    torch.testing.assert_close(made.directions.norm(dim=-1), torch.ones(9))
    assert not torch.equal(SlicedGW(D, projections=9, seed=2).directions, made.directions)
    assert list(made.state_dict()) == ["directions"]


def test_no_direction_is_refused():
    with pytest.raises(TransporterError, match="projections: 0; use at least 1, 100 is the default"):
        SlicedGW(D, projections=0)
