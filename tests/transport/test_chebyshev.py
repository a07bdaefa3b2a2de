"""The interpolated kernel stays within its bound."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.transport.solvers import chebyshev, dense, linear
from transporter_pl.transport.solvers.chebyshev import Grid, grid_of, interpolation_error, nodes_needed


def grid(half, count, centre=0.0, bend=0.0):
    one = torch.ones(1, 1, dtype=torch.float64)
    return Grid(centre * one, half * one, 0.5 * one, bend * one, count, interpolation_error(half, count))


@settings(deadline=None, max_examples=60)
@given(half=st.floats(0.01, 20), count=st.integers(2, 80), centre=st.floats(-3, 3))
def test_the_kernel_is_as_near_as_the_bound_says(half, count, centre):
    nodes = grid(half, count, centre)
    a = torch.linspace(centre - half - 3, centre + half + 3, 90, dtype=torch.float64)[None]
    b = centre + half * torch.linspace(-0.999, 0.999, 70, dtype=torch.float64)[None]
    near = torch.einsum("pki,pkj->pij", nodes.kernel(a), nodes.cardinals(b))[0]
    exact = torch.exp(-((a[0, :, None] - b[0]) ** 2))
    assert (near - exact).abs().max() <= interpolation_error(half, count) + 1e-12


@settings(deadline=None, max_examples=40)
@given(half=st.floats(0.1, 10), count=st.integers(2, 60), bend=st.floats(0, 0.7))
def test_so_is_the_levelled_one(half, count, bend):
    """exp(κ (b − μ)²) K is within ε exp(κ/(1 − κ) (a − μ)²), with ε of half the length times √(1 − κ)."""
    nodes = grid(half, count, bend=bend)
    a = torch.linspace(-half - 2, half + 2, 90, dtype=torch.float64)[None]
    b = half * torch.linspace(-0.999, 0.999, 70, dtype=torch.float64)[None]
    near = torch.einsum("pki,pkj->pij", nodes.kernel(a), nodes.cardinals(b))[0]
    exact = torch.exp(bend * (b[0] - 0.5) ** 2 - (a[0, :, None] - b[0]) ** 2)
    bound = interpolation_error(half * math.sqrt(1 - bend), count) * torch.exp(bend / (1 - bend) * (a[0] - 0.5) ** 2)
    assert ((near - exact).abs() <= bound[:, None] * (1 + 1e-9) + 1e-9 * exact.max()).all()


def test_the_bound_is_not_idle():
    """It is within a factor of some hundreds of the error, so that it chooses r and not its own looseness."""
    for half, count in ((1.0, 8), (4.0, 20), (12.0, 60)):
        nodes = grid(half, count)
        a = torch.linspace(-half, half, 200, dtype=torch.float64)[None]
        b = 0.999 * a
        near = torch.einsum("pki,pkj->pij", nodes.kernel(a), nodes.cardinals(b))[0]
        error = (near - torch.exp(-((a[0, :, None] - b[0]) ** 2))).abs().max()
        assert error < interpolation_error(half, count) < 500 * error


@given(half=st.floats(0.01, 100), digits=st.integers(1, 9))
def test_as_many_nodes_as_are_needed(half, digits):
    error = 10.0**-digits
    assert interpolation_error(half, nodes_needed(half, error)) <= error
    assert nodes_needed(half, error) <= 30 + 2 * digits + 11 * half


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    spread=st.floats(0.05, 12),
    ratio=st.floats(0.1, 3),
    shift=st.floats(-3, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_tokens_are_as_near_as_their_bound_says(seed, spread, ratio, shift, dtype):
    """|z̃_j − exact| ≤ mean_ζ(2 ε Σ_i exp(κ/(1 − κ)(a_i − μ)²) / l_jζ) max_i |ẑ1_i|, wherever that is finite."""
    draws = torch.Generator().manual_seed(seed)
    a = spread * torch.randn(3, 40, generator=draws, dtype=torch.float64)
    b = spread * (ratio * torch.randn(3, 30, generator=draws, dtype=torch.float64) + shift)
    source = torch.randn(40, 5, generator=draws, dtype=torch.float64)
    a, b = (x.to(dtype) for x in (a, b))
    nodes = grid_of(a, b, 1e-6)
    bound = linear.error_bound(a, b, nodes)
    kernel, weights = linear._factors(nodes, a, b)
    moved = (weights.mT @ (kernel @ source.to(dtype))).double() / 3
    exact = dense.transported(a[None].double(), b[None].double(), source[None])[0]
    error = (moved - exact).norm(dim=-1) / source.norm(dim=-1).max()
    finite = bound.isfinite()
    assert (error[finite] <= bound[finite]).all()


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_targets_that_coincide(spread):
    a, b = torch.randn(2, 9), torch.zeros(2, 4)
    b[:, 0] += spread
    moved = linear.transported(a[None], b[None], torch.randn(1, 9, 3))
    assert moved.isfinite().all()
    nodes = grid_of(a, b, 1e-6)
    torch.testing.assert_close(nodes.cardinals(b).sum(1), torch.ones(2, 4), atol=1e-5, rtol=0)


def test_every_interval_is_wider_than_its_targets():
    b = torch.randn(5, 50)
    nodes = grid_of(torch.randn(5, 20), b, 1e-6)
    assert (((b - nodes.centre) / nodes.half).abs() <= 1 / chebyshev.MARGIN + 1e-6).all()
