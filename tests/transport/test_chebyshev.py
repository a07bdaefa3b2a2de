"""The interpolated kernel stays within its bound."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transporter_pl.transport.solvers import chebyshev, dense, linear
from transporter_pl.transport.solvers.chebyshev import Grid, centred, grid_of, interpolation_error, nodes_needed


def grid(half, count, bend=0.0):
    one = torch.ones(1, 1, dtype=torch.float64)
    return Grid(half * one, 0.5 * one, bend * one, count, interpolation_error(half, count))


def interpolated(nodes, a, b):
    """The kernel of every a and b, from its values at the nodes, (N_i, N_j)."""
    return torch.einsum("pki,mk,pmj->pij", nodes.kernel(a), nodes.transform, nodes.waves(b))[0]


@settings(max_examples=60)
@given(half=st.floats(0.01, 20), count=st.integers(2, 80))
def test_the_kernel_is_as_near_as_the_bound_says(half, count):
    nodes = grid(half, count)
    a = torch.linspace(-half - 3, half + 3, 90, dtype=torch.float64)[None]
    b = half * torch.linspace(-0.999, 0.999, 70, dtype=torch.float64)[None]
    near = interpolated(nodes, a, b)
    exact = torch.exp(-((a[0, :, None] - b[0]) ** 2))
    assert (near - exact).abs().max() <= interpolation_error(half, count) + 1e-12


@settings(max_examples=40)
@given(half=st.floats(0.1, 10), count=st.integers(2, 60), bend=st.floats(0, 0.7))
def test_so_is_the_levelled_one(half, count, bend):
    """exp(κ (b − μ)²) K is within ε exp(κ/(1 − κ) (a − μ)²), with ε of half the length times √(1 − κ)."""
    nodes = grid(half, count, bend=bend)
    a = torch.linspace(-half - 2, half + 2, 90, dtype=torch.float64)[None]
    b = half * torch.linspace(-0.999, 0.999, 70, dtype=torch.float64)[None]
    near = interpolated(nodes, a, b)
    exact = torch.exp(bend * (b[0] - 0.5) ** 2 - (a[0, :, None] - b[0]) ** 2)
    bound = interpolation_error(half * math.sqrt(1 - bend), count) * torch.exp(bend / (1 - bend) * (a[0] - 0.5) ** 2)
    assert ((near - exact).abs() <= bound[:, None] * (1 + 1e-9) + 1e-9 * exact.max()).all()


def test_the_bound_is_not_idle():
    """It is within a factor of some hundreds of the error, so that it chooses r and not its own looseness."""
    for half, count in ((1.0, 8), (4.0, 20), (12.0, 60)):
        nodes = grid(half, count)
        a = torch.linspace(-half, half, 200, dtype=torch.float64)[None]
        b = 0.999 * a
        near = interpolated(nodes, a, b)
        error = (near - torch.exp(-((a[0, :, None] - b[0]) ** 2))).abs().max()
        assert error < interpolation_error(half, count) < 500 * error


@given(half=st.floats(0.01, 100), digits=st.integers(1, 9))
def test_as_many_nodes_as_are_needed(half, digits):
    error = 10.0**-digits
    assert interpolation_error(half, nodes_needed(half, error)) <= error
    assert nodes_needed(half, error) <= 30 + 2 * digits + 11 * half


@settings(max_examples=40)
@example(
    seed=579, spread=7.060505627196881, ratio=2.890625, shift=0.0, offset=100.0, dtype=torch.float32
)  # l_jζ < error
@given(
    seed=st.integers(0, 999),
    spread=st.floats(0.05, 12),
    ratio=st.floats(0.1, 3),
    shift=st.floats(-3, 3),
    offset=st.sampled_from([0.0, 100.0, 1e5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_tokens_are_as_near_as_their_bound_says(seed, spread, ratio, shift, offset, dtype):
    """|z̃_j − exact| ≤ mean_ζ(2 ε Σ_i exp(κ/(1 − κ)(a_i − μ)²) / l_jζ) max_i |ẑ1_i|, wherever that is finite.

    Projections may also lie far from 0, together.
    """
    draws = torch.Generator().manual_seed(seed)
    a = spread * torch.randn(3, 40, generator=draws, dtype=torch.float64)
    b = spread * (ratio * torch.randn(3, 30, generator=draws, dtype=torch.float64) + shift)
    source = torch.randn(40, 5, generator=draws, dtype=torch.float64)
    a, b = ((x + offset).to(dtype) for x in (a, b))
    near = centred(a, b)
    nodes = grid_of(*near, 1e-6)
    bound = linear.error_bound(*near, nodes)
    moved = linear._Interpolated.apply(*near, source.to(dtype), nodes).double()
    exact = dense.transported(a[None].double(), b[None].double(), source[None])[0]
    error = (moved - exact).norm(dim=-1) / source.norm(dim=-1).max()
    finite = bound.isfinite()
    assert (error[finite] <= bound[finite]).all()
    normaliser = torch.exp(-((near[0][:, :, None] - near[1][:, None]) ** 2)).sum(1)
    assert finite[(normaliser > 1e-3).all(0)].all()


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_targets_that_coincide(spread):
    a, b = torch.randn(2, 9), torch.zeros(2, 4)
    b[:, 0] += spread
    moved = linear.transported(a[None], b[None], torch.randn(1, 9, 3))
    assert moved.isfinite().all()
    near = centred(a, b)
    nodes = grid_of(*near, 1e-6)
    exact = torch.exp(
        (nodes.bend * (near[1] - nodes.middle) ** 2)[:, None] - (near[0][:, :, None] - near[1][:, None]) ** 2
    )
    torch.testing.assert_close(nodes.kernel(near[0]).mT @ nodes.transform.mT @ nodes.waves(near[1]), exact)


def test_every_interval_is_wider_than_its_targets():
    near = centred(torch.randn(5, 20) + 3, torch.randn(5, 50) + 3)
    nodes = grid_of(*near, 1e-6)
    assert ((near[1] / nodes.half).abs() <= 1 / chebyshev.MARGIN + 1e-6).all()


@pytest.mark.parametrize("half", [1e5, math.inf, math.nan])
def test_what_has_no_grid_never_pays(half):
    a, b, source = torch.empty(100, 16384), torch.empty(100, 16384), torch.empty(16384, 512)
    assert not linear.nodes_pay(nodes_needed(half, 1e-6), a, b, source)
