"""The fused kernels of ζ-OT against the equations in float64: in Triton's interpreter, and on a GPU if there is one."""

import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from transporter_pl.errors import TransporterError

triton = pytest.importorskip("triton")
MODULE = "transporter_pl.transport.solvers.triton"


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def run(request):
    """Calls a function of a device and tensors: here on the GPU, or where Triton interprets what it decorates.

    That is settled when a process first imports Triton, which this one has, so the interpreter gets its own.
    """
    if request.param == "cuda":
        yield lambda task, *tensors: task("cuda", *tensors)
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(solve, "cpu", *inputs(1, 1, 1, 1)).result()
        yield lambda task, *tensors: pool.submit(task, "cpu", *tensors).result()


def inputs(batch, projections, n_i, n_j, spread=1.0, offset=0.0, width=5):
    """a, b, source and ∂z̃."""
    draws = torch.Generator().manual_seed(0)
    shapes = [(batch, projections, n_i), (batch, projections, n_j), (batch, n_i, width), (batch, n_j, width)]
    a, b, source, coming = (torch.randn(shape, generator=draws) for shape in shapes)
    return spread * a + offset, spread * b, source + 1, coming


def values(solver, a, b, source, coming):
    """z̃ and the gradients of a, b and source, of any solver."""
    leaves = [x.detach().requires_grad_() for x in (a, b, source)]
    moved = solver(*leaves)
    return [x.detach().cpu() for x in (moved, *torch.autograd.grad(moved, leaves, coming))]


def solve(device, *tensors):
    return values(import_module(MODULE).transported, *(x.to(device) for x in tensors))


def equations(a, b, source):
    return (-((a[:, :, :, None] - b[:, :, None, :]) ** 2)).softmax(2).mean(1).mT @ source


def assert_near(found, expected):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x.double(), y.double(), rtol=0, atol=1e-5 * y.norm().item())


def ties():
    a, b, *others = inputs(1, 3, 20, 30)
    return a.round(), (2 * b).round() / 2, *others


CASES = {
    "one token": inputs(1, 1, 1, 1),
    "one projection": inputs(2, 1, 6, 9),
    "many tiles": inputs(1, 9, 40, 131),
    "more sources": inputs(2, 3, 37, 5),
    "sharp": inputs(1, 3, 30, 20, spread=30.0),
    # exp(−300²) is 0, and (a − b)² in float32 is off by 0.005
    "far apart": inputs(1, 3, 30, 20, spread=0.005, offset=300.0),
    "ties": ties(),
    "strided": tuple(x.mT.contiguous().mT for x in inputs(1, 3, 7, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_matches_the_equations(run, case):
    tensors = CASES[case]
    assert_near(run(solve, *tensors), values(equations, *(x.double() for x in tensors)))


def test_permuted_targets_permute_the_result(run):
    a, b, source, coming = inputs(1, 2, 6, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved, to_a, to_b, to_source = run(solve, a, b, source, coming)
    permuted = run(solve, a, b[:, :, order], source, coming[:, order])
    assert_near(permuted, [moved[:, order], to_a, to_b[:, :, order], to_source])


def test_equal_projections_are_as_one(run):
    a, b, source, coming = inputs(1, 1, 6, 9)
    moved, to_a, to_b, to_source = run(solve, a, b, source, coming)
    found = run(solve, a.expand(1, 5, 6), b.expand(1, 5, 9), source, coming)
    assert_near(found, [moved, to_a.expand(1, 5, 6) / 5, to_b.expand(1, 5, 9) / 5, to_source])


def opcheck(device, a, b, source, coming):
    tensors = a.to(device).requires_grad_(), b.to(device).requires_grad_()
    # the fourth check, of compilation, is a part of the next test
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    return torch.library.opcheck(import_module(MODULE)._plan, tensors, test_utils=checks)


def test_is_a_proper_operator(run):
    assert set(run(opcheck, *inputs(1, 2, 3, 4)).values()) == {"SUCCESS"}


def compiled(device, *tensors):
    whole = torch.compile(import_module(MODULE).transported, backend="aot_eager", fullgraph=True, dynamic=True)
    return values(whole, *(x.to(device) for x in tensors))


def test_compiles_in_one_graph(run):
    tensors = inputs(1, 2, 3, 4)
    assert_near(run(compiled, *tensors), run(solve, *tensors))


def test_runs_without_data():
    with FakeTensorMode():
        shapes = [(2, 3, 5), (2, 3, 7), (2, 5, 4), (2, 7, 4)]
        found = values(import_module(MODULE).transported, *(torch.empty(shape) for shape in shapes))
    assert [tuple(x.shape) for x in found] == [(2, 7, 4), (2, 3, 5), (2, 3, 7), (2, 5, 4)]


@pytest.mark.parametrize("count", [1, 64])
def test_kernels_compile_for_a_gpu_that_is_not_there(monkeypatch, tmp_path, count):
    """The interpreter takes what the compiler refuses. Of integers, the compiler has a version for 1 and for others."""
    solver, launches = import_module(MODULE), []

    def record(kernel, *args, **options):
        launches.append((kernel, args, options.get("num_warps", 4)))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(solver, "_check", lambda a: None)
    monkeypatch.setattr(triton.JITFunction, "run", record)
    values(solver.transported, *inputs(1, count, count, count))
    assert len(launches) == 4
    for launch in launches:
        assert compile_for(*launch).asm["cubin"]


def compile_for(kernel, args, warps, capability=90):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    named = dict(zip(kernel.arg_names, args, strict=True))
    kinds = {name: "*fp32" if isinstance(x, torch.Tensor) else "i32" for name, x in named.items()}
    fixed = {p.name for p in kernel.params if p.is_constexpr or (kinds[p.name] == "i32" and named[p.name] == 1)}
    signature = kinds | dict.fromkeys(fixed, "constexpr")
    constants = {(kernel.arg_names.index(name),): named[name] for name in fixed}
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


@pytest.mark.gpu
def test_the_papers_size_fits():
    """B 8, N 4096, P 100, D 1024; some targets of one clip against the equations in float64."""
    a, b, source, coming = (x.cuda() for x in inputs(8, 100, 4096, 4096, spread=3.0, width=1024))
    torch.cuda.reset_peak_memory_stats()
    moved, _, to_b, _ = values(import_module(MODULE).transported, a, b, source, coming)
    assert torch.cuda.max_memory_allocated() <= 8e9
    some = slice(None, None, 512)
    part = a[:1], b[:1, :, some], source[:1], coming[:1, some]
    expected, _, expected_to_b, _ = values(equations, *(x.double() for x in part))
    assert_near([moved[:1, some], to_b[:1, :, some]], [expected, expected_to_b])


def test_refuses_the_cpu():
    with pytest.raises(TransporterError, match=r"solver: 'triton' runs on GPUs, .* on cpu; use streamed, or auto"):
        import_module(MODULE).transported(*inputs(1, 1, 2, 2)[:3])


def test_refuses_other_types():
    with pytest.raises(TransporterError, match=r"solver: 'triton' computes in float32, .* torch.float64"):
        import_module(MODULE).transported(*(x.double() for x in inputs(1, 1, 2, 2)[:3]))


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(TransporterError, match=r"solver: 'triton' needs its package; pip install 'transporter-pl"):
        import_module(MODULE)
