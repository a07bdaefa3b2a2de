"""ζ-OT against loops in float64, closed forms, limits and POT."""

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.errors import TransporterError
from transporter_pl.transport.solvers import streamed
from transporter_pl.transport.zeta import ZetaTransport

N, D = 7, 5


def transport(**options):
    torch.manual_seed(0)
    made = ZetaTransport(D, **{"projections": 3, "regularisation": 0.3, **options})
    with torch.no_grad():
        made.second_projections.add_(0.1 * torch.randn_like(made.second_projections))
    return made.double()


def tokens(seed=0, batch=2, count=N):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, count, D, generator=draws, dtype=torch.float64) for _ in range(2)]


def looped_plan(made, first, second):
    """T̃ of one clip as the equations are written."""
    p1, p2 = made.first_projections.tolist(), made.second_projections.tolist()
    total = np.zeros((len(first), len(second)))
    for one, two in zip(p1, p2, strict=True):
        a = [sum(x * p for x, p in zip(row, one, strict=True)) for row in first.tolist()]
        b = [sum(x * p for x, p in zip(row, two, strict=True)) for row in second.tolist()]
        for j, target in enumerate(b):
            kernel = [math.exp(-((source - target) ** 2) / made.regularisation.item()) for source in a]
            total[:, j] += np.array(kernel) / sum(kernel)
    return total / len(p1)


def test_matches_the_equations():
    made, (first, second) = transport(), tokens()
    moved, plan = made(first, second), made.plan(first, second)
    for b in range(2):
        expected = looped_plan(made, first[b], second[b])
        np.testing.assert_allclose(plan[b].detach(), expected, atol=1e-12)
        np.testing.assert_allclose(moved[b].detach(), expected.T @ first[b].numpy(), atol=1e-12)


def test_small_regularisation_takes_the_nearest_source():
    made, (first, second) = transport(projections=1, regularisation=1e-9), tokens()
    a, b = first @ made.first_projections[0], second @ made.second_projections[0]
    nearest = (a[:, :, None] - b[:, None, :]).abs().argmin(1)
    plan = made.plan(first, second)
    torch.testing.assert_close(plan, torch.nn.functional.one_hot(nearest, N).mT.double())


def test_large_regularisation_takes_the_mean():
    made, (first, second) = transport(regularisation=1e9), tokens()
    moved, plan = made(first, second), made.plan(first, second)
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / N))
    torch.testing.assert_close(moved, first.mean(1, keepdim=True).expand_as(first))


@settings(max_examples=25)
@given(seed=st.integers(0, 999), reg=st.floats(1e-3, 1e3), iterations=st.integers(0, 3), count=st.integers(1, 9))
def test_columns_are_weights(seed, reg, iterations, count):
    made, (first, second) = transport(regularisation=reg, iterations=iterations), tokens(seed, count=count)
    plan = made.plan(first, second)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.ones(2, count, dtype=torch.float64))


@settings(max_examples=15)
@given(seed=st.integers(0, 999), iterations=st.integers(0, 2))
def test_permutations(seed, iterations):
    """The order of the sources is forgotten, that of the targets is kept."""
    made, (first, second) = transport(iterations=iterations), tokens(seed)
    moved = made(first, second)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(made(first[:, order], second), moved)
    torch.testing.assert_close(made(first, second[:, order]), moved[:, order])


def test_many_iterations_are_sinkhorn():
    made, (first, second) = transport(projections=1, iterations=300), tokens(batch=1)
    a = (first[0] @ made.first_projections[0]).detach().numpy()
    b = (second[0] @ made.second_projections[0]).detach().numpy()
    uniform = np.full(N, 1 / N)
    expected = ot.sinkhorn(
        uniform, uniform, ot.dist(a[:, None], b[:, None]), reg=made.regularisation.item(), method="sinkhorn_log",
        numItermax=5000, stopThr=1e-13,
    )  # fmt: skip
    plan = made.plan(first, second)
    np.testing.assert_allclose(plan[0].detach() / N, expected, atol=1e-9)
    torch.testing.assert_close(plan.sum(2), torch.ones(1, N, dtype=torch.float64))


@pytest.mark.parametrize("iterations", [0, 2])
def test_gradients(iterations):
    made, (first, second) = transport(iterations=iterations), tokens(batch=1, count=4)
    inputs = [first.requires_grad_(), second.requires_grad_(), *made.parameters()]
    names = [name for name, _ in made.named_parameters()]

    def moved(one, two, *parameters):
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (one, two))

    assert torch.autograd.gradcheck(moved, inputs)


@pytest.mark.parametrize("iterations", [0, 2])
def test_blocks_change_nothing(monkeypatch, iterations):
    made, (first, second) = transport(projections=5, iterations=iterations), tokens()
    plan = made.plan(first, second)
    whole = torch.autograd.grad(plan.square().sum(), list(made.parameters()))
    monkeypatch.setitem(streamed.BLOCK, "cpu", 2 * 2 * N * N)
    blocked = made.plan(first, second)
    torch.testing.assert_close(blocked, plan)
    for x, y in zip(torch.autograd.grad(blocked.square().sum(), list(made.parameters())), whole, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("solver", ["auto", "dense", "streamed", "linear"])
def test_tokens_are_moved_by_the_plan(solver, iterations):
    if solver == "linear" and iterations:
        return
    made, (first, second) = transport(iterations=iterations, solver=solver), tokens()
    torch.testing.assert_close(made(first, second), made.plan(first, second).mT @ first)


def test_autocast_stays_exact():
    made, (first, second) = transport().float(), [x.float() for x in tokens()]
    expected = made(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved, plan = made(first, second), made.plan(first, second)
        rounded = made(first.bfloat16(), second.bfloat16())
    assert plan.dtype == moved.dtype == torch.float32
    torch.testing.assert_close(moved, expected)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), expected, atol=0.1, rtol=0.1)


def test_a_network_of_half_precision_is_exact_inside():
    """Weights and tokens are rounded to bfloat16, exponents are not: z̃ is that of the rounded numbers."""
    made, (first, second) = transport(regularisation=0.01).bfloat16(), [x.bfloat16() for x in tokens()]
    exact = transport(regularisation=0.01).double()
    exact.load_state_dict(made.state_dict())
    torch.testing.assert_close(
        made(first, second).double(), exact(first.double(), second.double()), atol=0.01, rtol=0.01
    )


def test_equal_tokens_are_paired_from_the_start():
    """With projections that start equal, a sharp plan over equal tokens is near the identity."""
    torch.manual_seed(0)
    made = ZetaTransport(64, projections=32, regularisation=1e-4)
    tokens = torch.randn(1, 20, 64)
    plan = made.plan(tokens, tokens)
    assert (plan[0].argmax(0) == torch.arange(20)).all()
    assert plan.amax(1).mean() > 0.8


def test_regularisation_is_learned_or_fixed():
    assert ZetaTransport(D).log_regularisation.requires_grad
    assert not ZetaTransport(D, learn_regularisation=False).log_regularisation.requires_grad
    assert ZetaTransport(D, regularisation=0.2).regularisation.item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"regularisation": 0.0}, "regularisation: ς = 0.0"),
        ({"regularisation": math.inf}, "regularisation: ς = inf"),
        ({"projections": 0}, "projections: P = 0"),
        ({"iterations": -1}, "iterations: -1"),
        ({"tolerance": 0.0}, "tolerance: 0.0"),
        ({"solver": "lineer"}, "solver: unknown name 'lineer'. Did you mean 'linear'"),
        ({"solver": "linear", "iterations": 2}, "solver: 'linear' knows the closed form alone, iterations: 0"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(TransporterError, match=says):
        ZetaTransport(D, **options)
