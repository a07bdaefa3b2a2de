"""Solvers of ζ-OT side by side, forward and backward: seconds, memory, error, and what they can't go below.

    python benchmarks/transport.py                    # two CPU cores: about ten minutes
    python benchmarks/transport.py --device cuda

A row is one solver on one problem, in a process of its own, so that its peak of memory is its own; the rows of a table
take turns, and their medians are compared. What they can't go below comes from the same run: the time of exponentials
in cache and of multiply-adds in a large matrix product, or the time to move the bytes that can't stay in cache.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from transporter_pl.commands.arguments import call
from transporter_pl.transport.solvers import dense, linear, streamed
from transporter_pl.transport.solvers.chebyshev import centred, grid_of

MIB, SHORT = 2**20, 10.0


@dataclass(frozen=True)
class Problem:
    """Projections of unit variance over √ς, and standardised tokens."""

    batch: int
    tokens: int
    projections: int
    width: int
    regularisation: float = 1.0

    def inputs(self, device: str) -> list[Tensor]:
        draws = torch.Generator().manual_seed(0)
        a, b, source = (torch.randn(shape, generator=draws) for shape in self.shapes)
        a, b = (x / self.regularisation**0.5 for x in (a, b))
        return [x.to(device).requires_grad_() for x in (a, b, source)]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        projected = self.batch, self.projections, self.tokens
        return [projected, projected, (self.batch, self.tokens, self.width)]

    @property
    def pairs(self) -> int:
        return self.batch * self.projections * self.tokens**2

    @property
    def products(self) -> int:
        """Multiply-adds of one product of T̃ with the tokens."""
        return self.batch * self.tokens**2 * self.width

    def __str__(self) -> str:
        return f"B {self.batch}, N {self.tokens}, P {self.projections}, D {self.width}, ς {self.regularisation:g}"


@dataclass(frozen=True)
class Found:
    """Of one run: seconds of both passes, bytes at the peak above the inputs, and z̃'s norm and first tokens."""

    seconds: float
    peak: int
    sample: Tensor


def pot(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    """POT's batched Sinkhorn, cut off after its first iteration: the nearest it has to the closed form."""
    import ot

    costs = (a[:, :, :, None] - b[:, :, None, :]).square().flatten(0, 1)
    plans = ot.solve_batch(costs, 1.0, method="log_sinkhorn", max_iter=1, grad="autodiff").plan
    plan = plans.unflatten(0, a.shape[:2]).mean(1)
    return (plan / plan.sum(1, keepdim=True)).mT @ source


def geomloss(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    """geomloss' Sinkhorn divergence of the projections: it gives a loss and no plan, so the tokens take no part."""
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=0.5**0.5, debias=False, backend="tensorized")
    return loss(a.flatten(0, 1)[..., None], b.flatten(0, 1)[..., None]).sum() + 0 * source[:, :1]


def triton(a: Tensor, b: Tensor, source: Tensor) -> Tensor:
    from transporter_pl.transport.solvers.triton import transported

    return transported(a, b, source)


SOLVERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dense": dense.transported,
    "streamed": streamed.transported,
    "linear": linear.transported,
    "triton": triton,
    "POT, 1 iteration": pot,
    "geomloss": geomloss,
}


def once(name: str, problem: Problem, device: str, threads: int) -> Found:
    """A solver in this process, weighed and timed; a short run is timed when memory is warm, in its second go."""
    torch.set_num_threads(threads)
    small = Problem(1, 64, 2, 8)
    for warmed in ("streamed", name):  # the first falls back on the other, and what an operation loads is loaded once
        both_passes(SOLVERS[warmed], small.inputs(device))
    inputs = problem.inputs(device)
    before = used(device)
    start = clock(device)
    moved = both_passes(SOLVERS[name], inputs)
    seconds, most = clock(device) - start, peak(device) - before
    if seconds < SHORT:
        seconds = timed(lambda: both_passes(SOLVERS[name], inputs), device, 1)
    return Found(seconds, most, moved[0, :256].detach().cpu())


def both_passes(solver: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]) -> Tensor:
    moved = solver(*inputs)
    torch.autograd.grad(moved.square().sum(), inputs)
    return moved


def used(device: str) -> int:
    """Bytes in use; the peak begins anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


def resident(field: str) -> int:
    """What Linux says of this process' memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Rates:
    """Seconds of one exponential, one multiply-add, and one byte that is read or written."""

    exponential: float
    multiply_add: float
    byte: float


def rates(device: str) -> Rates:
    values, matrix, long = (torch.rand(n, device=device) for n in (2**17, 2**24, 2**27))
    square, out, copy = matrix.view(4096, 4096), torch.empty_like(values), torch.empty_like(long)
    exponential = min(timed(lambda: torch.exp(values, out=out), device, 50) for _ in range(5)) / len(values)
    multiply_add = min(timed(lambda: square @ square, device, 1) for _ in range(3)) / 4096**3
    return Rates(exponential, multiply_add, min(timed(lambda: copy.copy_(long), device, 1) for _ in range(3)) / 2**30)


def timed(run: Callable[[], object], device: str, count: int) -> float:
    start = clock(device)
    for _ in range(count):
        run()
    return (clock(device) - start) / count


def compare(problem: Problem, names: list[str], runs: int, device: str, threads: int, costs: Rates) -> Table:
    """A table of solvers on one problem; the first row is what the others are held against."""
    found: dict[str, list[Found | str]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                try:
                    found[name].append(alone.apply(once, (name, problem, device, threads)))
                except (RuntimeError, ImportError) as error:  # out of memory, or not installed
                    found[name].append(str(error).partition("\n")[0][:40])
    nodes = nodes_of(problem)
    title = f"{problem}, r {nodes}, on {device}"
    table = Table("solver", "s", "at least s", "MiB", "of the first's time", "of its memory", "off by", title=title)
    first = found[names[0]]
    for name in names:
        table.add_row(name, *cells(found[name], first, floor(problem, name, nodes, costs), compared=name != "geomloss"))
    return table


def cells(own: list, first: list, least: float, compared: bool) -> list[str]:
    failed = [f for f in own if isinstance(f, str)]
    if failed:
        return [failed[0]]
    seconds, memory = (statistics.median(getattr(f, of) for f in own) for of in ("seconds", "peak"))
    row = [f"{seconds:.3g}", f"{least:.2g}", f"{memory / MIB:.0f}"]
    if any(isinstance(f, str) for f in first):
        return row
    base = [statistics.median(getattr(f, of) for f in first) for of in ("seconds", "peak")]
    right = first[0].sample
    off = f"{((own[0].sample - right).norm() / right.norm()).item():.1e}" if compared else ""
    return [*row, f"{seconds / base[0]:.3f}", f"{memory / max(1, base[1]):.3f}", off]


def floor(problem: Problem, name: str, nodes: int, costs: Rates) -> float:
    """Seconds that both passes take at least: exponentials and multiply-adds, or bytes, whichever takes longer.

    An entry of T_ζ that does not stay in cache is written and read once in either pass. geomloss anneals in some twenty
    rounds, over whole matrices.
    """
    exponentials = {"dense": 1, "streamed": 2, "triton": 4, "POT, 1 iteration": 3, "geomloss": 20}
    moved = {"dense": 4, "POT, 1 iteration": 12, "geomloss": 40}
    plans = 4 * problem.batch * problem.tokens**2 if name == "triton" else 0  # T̃ and G
    a, b, source = (torch.empty(shape, device="meta") for shape in problem.shapes)
    if name == "linear" and not linear.nodes_pay(nodes, a, b, source):
        name = "streamed"  # which it falls back on
    if name in exponentials:
        compute = problem.pairs * exponentials[name] * costs.exponential
        compute += 3 * problem.products * costs.multiply_add * (name != "geomloss")
        return max(compute, 4 * (problem.pairs * moved.get(name, 0) + 2 * plans) * costs.byte)
    entries = problem.batch * problem.projections * nodes * problem.tokens
    compute = 6 * entries * problem.width * costs.multiply_add + 4 * entries * costs.exponential
    return max(compute, 4 * 12 * entries * costs.byte)


def nodes_of(problem: Problem) -> int:
    a, b, _ = problem.inputs("cpu")
    with torch.no_grad():
        clips = zip(a, b, strict=True)
        return max(grid_of(*centred(*clip), linear.SPARE * linear.TOLERANCE).count for clip in clips)


def bench(device: str = "cpu", threads: int = 2, runs: int = 3, fast: bool = False) -> None:
    """Solvers of ζ-OT side by side, forward and backward: seconds, memory, error, and what they can't go below.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads.
        runs: Runs of every row.
        fast: Small problems, to see that everything runs.
    """
    torch.set_num_threads(threads)
    console, costs = Console(width=130), rates(device)
    console.print(" ".join(f"{name} {1e9 * value:.3g} ns" for name, value in vars(costs).items()))
    short, middle, long = (128, 128, 256) if fast else (1024, 4096, 16384)
    exact = ["dense", "streamed", "linear", "POT, 1 iteration", "geomloss"]
    tables = [(Problem(1, short, 100, 512), exact if device == "cpu" else [*exact, "triton"])]
    if device == "cuda":
        others = ["triton", "linear", "dense", "POT, 1 iteration", "geomloss"]
        tables.append((Problem(8, middle, 100, 1024), ["streamed", *others]))
    for regularisation in (1.0, 0.1):
        tables += [(Problem(1, n, 100, 512, regularisation), ["streamed", "linear"]) for n in (middle, long)]
    for problem, names in tables:
        console.print(compare(problem, names, runs, device, threads, costs))


if __name__ == "__main__":
    call(bench, "benchmarks/transport.py", sys.argv[1:])
