"""Every solver of ζ-OT's closed form against a float64 loop, and what ``auto`` chooses."""

import logging

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from transporter_pl.transport import solvers
from transporter_pl.transport.solvers import dense, linear, streamed
from transporter_pl.transport.solvers.chebyshev import centred, grid_of

SOLVERS = {"dense": dense.transported, "streamed": streamed.transported, "linear": linear.transported}
TOKENS = 60


def projections(seed=0, batch=2, count=3, sources=TOKENS, targets=TOKENS, width=4, dtype=torch.float64, spread=1.0):
    """a, b and ẑ1, with gradients."""
    draws = torch.Generator().manual_seed(seed)
    shapes = (batch, count, sources), (batch, count, targets), (batch, sources, width)
    a, b, source = (torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype) for shape in shapes)
    return [(spread * a).requires_grad_(), (spread * b).requires_grad_(), source.requires_grad_()]


def looped(a, b, source):
    """z̃ as the equations are written."""
    a, b, source = (x.detach().double().numpy() for x in (a, b, source))
    moved = np.zeros((b.shape[0], b.shape[2], source.shape[2]))
    for clip in range(a.shape[0]):
        for one, two in zip(a[clip], b[clip], strict=True):
            for j, target in enumerate(two):
                kernel = np.exp(-((one - target) ** 2) + ((one - target) ** 2).min())
                moved[clip, j] += kernel @ source[clip] / kernel.sum()
    return moved / a.shape[1]


def gradients(solver, inputs):
    moved = solver(*inputs)
    weights = torch.linspace(-1, 1, moved.numel(), dtype=moved.dtype).view_as(moved)
    return moved, torch.autograd.grad((moved * weights).sum(), inputs)


@pytest.fixture(autouse=True)
def interpolates(monkeypatch):
    """Interpolation is tested as such, not where it pays: there the loop would take minutes."""
    monkeypatch.setattr(linear, "nodes_pay", lambda *sizes: True)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("shape", [{}, {"sources": 40}, {"targets": 1}, {"sources": 1}, {"batch": 1, "count": 1}])
@pytest.mark.parametrize("name", SOLVERS)
def test_matches_a_loop(name, shape, spread):
    inputs = projections(**shape, spread=spread)
    np.testing.assert_allclose(
        SOLVERS[name](*inputs).detach(), looped(*inputs), atol=1e-5 if name == "linear" else 1e-12
    )


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", ["streamed", "linear"])
def test_gradients_are_those_of_autograd(name, spread):
    inputs = projections(sources=50, spread=spread)
    _, expected = gradients(dense.transported, inputs)
    for one, other in zip(gradients(SOLVERS[name], inputs)[1], expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 if name == "linear" else 1e-12, rtol=0)


@pytest.mark.parametrize("name", ["dense", "streamed"])
def test_gradcheck(name):
    assert torch.autograd.gradcheck(SOLVERS[name], projections(sources=4, targets=5, width=2))


@pytest.mark.parametrize(
    ("room", "shape"), [(200, {}), (60 * 60 * 2, {}), (60 * 60 * 6, {"batch": 4}), (7, {"targets": 3})]
)
def test_blocks_change_nothing(monkeypatch, room, shape):
    inputs = projections(**shape)
    expected = gradients(streamed.transported, inputs)
    monkeypatch.setitem(streamed.BLOCK, "cpu", room)
    monkeypatch.setattr(linear, "BLOCK", room)
    monkeypatch.setattr(linear, "TILE", 1 + room % 50)
    found = gradients(streamed.transported, inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(linear.transported, inputs), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_far_apart_projections_keep_their_nearest(name):
    """Where every kernel underflows, the nearest source still has weight 1."""
    a = torch.tensor([[[0.0, 40.0, 100.0]]])
    b = torch.tensor([[[18.0, 60.0, 500.0]]])
    source = torch.eye(3)[None]
    torch.testing.assert_close(SOLVERS[name](a, b, source)[0], torch.eye(3))


@pytest.mark.parametrize("name", SOLVERS)
def test_float32(name):
    """Rounding stays rounding, in values and in gradients, also where ς is small against the spread."""
    for spread in (1.0, 6.0):
        inputs = projections(dtype=torch.float32, sources=300, targets=300, spread=spread)
        exact = [x.detach().double().requires_grad_() for x in inputs]
        (moved, found), (right, expected) = gradients(SOLVERS[name], inputs), gradients(dense.transported, exact)
        assert (moved - right).norm() < 2e-5 * right.norm()
        for one, other in zip(found, expected, strict=True):
            assert (one - other).norm() < 3e-3 * other.norm()


@pytest.mark.parametrize("name", SOLVERS)
def test_clips_don_t_mix(name):
    inputs = projections()
    together = SOLVERS[name](*inputs)
    for clip in range(2):
        torch.testing.assert_close(together[clip], SOLVERS[name](*(x[clip : clip + 1] for x in inputs))[0])


# -- linear -----------------------------------------------------------------------------------------------------------


def test_targets_that_no_node_serves_are_solved_exactly(monkeypatch):
    """A few targets far from all sources: their bound is above the tolerance, the others' is not."""
    a, b, source = projections(batch=1, dtype=torch.float32)
    with torch.no_grad():
        b[0, 1, :2] = torch.tensor([14.0, -17.0])
        near = centred(a[0], b[0])
        bound = linear.error_bound(*near, grid_of(*near, linear.SPARE * 1e-3))
    assert (bound > 1e-3).tolist() == [True, True] + [False] * (TOKENS - 2)
    solved = []
    monkeypatch.setattr(
        linear, "_exact", lambda *args: solved.append(args[1]) or dense.transported(*(x[None] for x in args))[0]
    )
    (moved, found), expected = (
        gradients(linear.transported, (a, b, source)),
        gradients(dense.transported, (a, b, source)),
    )
    assert [x.shape for x in solved] == [(3, 2)]
    torch.testing.assert_close(moved, expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found, expected[1], atol=1e-3, rtol=0)


def test_all_is_exact_where_nodes_don_t_pay(monkeypatch):
    monkeypatch.setattr(linear, "nodes_pay", lambda *sizes: False)
    inputs = projections()
    found, expected = (gradients(solver.transported, inputs) for solver in (linear, streamed))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_all_is_exact_where_most_targets_are_far():
    a, b, source = projections()
    with torch.no_grad():
        b += 20
    found, expected = (gradients(solver.transported, (a, b, source)) for solver in (linear, streamed))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


# -- auto -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.undo()


def chosen(caplog, *inputs, **sizes):
    with caplog.at_level(logging.DEBUG, "transporter_pl.transport.solvers"):
        solvers.solve("auto", *(inputs or (x.detach() for x in projections(dtype=torch.float32, **sizes))), 1e-3)
    return caplog.messages[-1].rpartition(": ")[2]


@pytest.mark.usefixtures("plain")
def test_auto_chooses_and_says_so(caplog, monkeypatch):
    assert chosen(caplog) == "dense"
    monkeypatch.setattr(solvers, "SMALL", 0)
    assert chosen(caplog) == "streamed"
    long = {"batch": 1, "count": 8, "sources": 2048, "targets": 2048, "width": 2}
    assert chosen(caplog, **long) == "linear"
    assert chosen(caplog, **long, spread=1000.0) == "streamed"


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("where", "bad"), [(0, torch.nan), (1, torch.nan), (1, torch.inf), (2, torch.nan), (2, torch.inf)]
)
def test_what_is_not_finite_comes_out(where, bad):
    """A loss says so then, and whoever watches it: nothing here knows which clip it was."""
    inputs = projections(dtype=torch.float32, sources=1100, targets=1100, batch=1)
    with torch.no_grad():
        inputs[where][0, 0, 0] = bad
    for name in ("auto", "linear"):
        assert not solvers.solve(name, *inputs, 1e-3).isfinite().all()


@pytest.mark.usefixtures("plain")
def test_auto_asks_nothing_of_tensors_without_data(caplog):
    with FakeTensorMode():
        inputs = [torch.empty(shape) for shape in ((1, 8, 2048), (1, 8, 2048), (1, 2048, 16))]
        assert chosen(caplog, *inputs) == "streamed"
        assert solvers.solve("linear", *inputs, 1e-3).shape == (1, 2048, 16)


def test_streamed_is_one_operation_to_compilers_and_counters():
    inputs = projections()
    torch.library.opcheck(torch.ops.transporter_pl.zeta_streamed, inputs)
    compiled = torch.compile(streamed.transported, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled, inputs), gradients(streamed.transported, inputs))
    with FlopCounterMode(display=False) as counter:
        gradients(streamed.transported, inputs)
    assert counter.get_total_flops() == 3 * 2 * 2 * TOKENS * TOKENS * 4
