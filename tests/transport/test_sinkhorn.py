"""Full optimal transport against POT's solvers of one problem, its limits, and gradients through the plan."""

import math

import numpy as np
import ot
import pytest
import torch

from transporter_pl.errors import TransporterError
from transporter_pl.transport.sinkhorn import SinkhornTransport

N, D = 6, 4


def tokens(seed=0, count=N, width=D, dtype=torch.float64):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(2, count, width, generator=draws, dtype=torch.float64).to(dtype) for _ in range(2)]


def costs(first, second):
    """M of one clip, as the equation is written."""
    return np.array([[((a - b) ** 2).mean().item() for b in second] for a in first])


@pytest.mark.parametrize("regularisation", [0.5, 2.0, 10.0])
def test_is_what_the_solver_of_one_problem_finds(regularisation):
    first, second = tokens()
    plan = SinkhornTransport(D, regularisation, iterations=1000).plan(first, second)
    uniform = np.full(N, 1 / N)
    for clip in range(2):
        expected = ot.sinkhorn(
            uniform, uniform, costs(first[clip], second[clip]), regularisation, method="sinkhorn_log",
            numItermax=10000, stopThr=1e-14,
        )  # fmt: skip
        np.testing.assert_allclose(plan[clip] / N, expected, atol=1e-10)


@pytest.mark.parametrize(("regularisation", "gap"), [(0.1, 1e-2), (1.0, 1e-7)])
def test_both_marginals(regularisation, gap):
    plan, ones = SinkhornTransport(D, regularisation).plan(*tokens(count=20)), torch.ones(2, 20, dtype=torch.float64)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), ones)
    torch.testing.assert_close(plan.sum(2), ones, atol=gap, rtol=0)


def test_columns_sum_to_one_where_sources_are_more_than_targets():
    first, second = tokens()
    plan = SinkhornTransport(D).plan(first, second[:, :4])
    torch.testing.assert_close(plan.sum(1), torch.ones(2, 4, dtype=torch.float64))


def test_a_small_regularisation_finds_the_best_assignment():
    first, second = tokens()
    plan = SinkhornTransport(D, 1e-2, iterations=2000).plan(first, second)
    for clip in range(2):
        np.testing.assert_allclose(plan[clip], N * ot.emd([], [], costs(first[clip], second[clip])), atol=1e-2)


def test_a_large_regularisation_takes_the_mean():
    made, (first, second) = SinkhornTransport(D, 1e9), tokens()
    torch.testing.assert_close(made.plan(first, second), torch.full((2, N, N), 1 / N, dtype=torch.float64))
    torch.testing.assert_close(made(first, second), first.mean(1, keepdim=True).expand_as(first))


def test_gradients_pass_through_the_plan():
    """POT's batched solver leaves them out unless it is asked for them."""
    first, second = (x[:1, :4].requires_grad_() for x in tokens())
    assert torch.autograd.gradcheck(SinkhornTransport(D, iterations=20).plan, (first, second))


@pytest.mark.parametrize("regularisation", [1e-3, 1e-4])
def test_single_precision_at_a_small_regularisation(regularisation):
    made, (first, second) = SinkhornTransport(D, regularisation), tokens()
    single = [x.float().requires_grad_() for x in (first, second)]
    moved = made(*single)
    torch.testing.assert_close(moved, made(first, second).float(), atol=1e-3, rtol=1e-3)
    moved.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in single)


@pytest.mark.parametrize("kind", ["scattered", "few dimensions", "clusters"])
def test_the_defaults_are_near_their_limit(kind):
    first, second = tokens(count=64, width=256)
    draws = torch.Generator().manual_seed(1)
    if kind == "few dimensions":
        basis = torch.randn(2, 256, generator=draws, dtype=torch.float64) / math.sqrt(2)
        first, second = first[..., :2] @ basis, second[..., :2] @ basis
    if kind == "clusters":
        centres = torch.randn(8, 256, generator=draws, dtype=torch.float64)
        first, second = (0.9 * centres[torch.randint(8, (2, 64), generator=draws)] + 0.4 * x for x in (first, second))
    moved, limit = (SinkhornTransport(256, **more)(first, second) for more in ({}, {"iterations": 2000}))
    assert (moved - limit).norm() < 0.015 * limit.norm()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"regularisation": 0.0}, "regularisation: ς = 0.0 is not positive and finite; 0.1 is the default"),
        ({"regularisation": math.nan}, "regularisation: ς = nan"),
        ({"regularisation": math.inf}, "regularisation: ς = inf"),
        ({"iterations": 0}, "iterations: 0; use at least 1, 100 is the default"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(TransporterError, match=says):
        SinkhornTransport(D, **options)
