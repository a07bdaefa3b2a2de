"""ζ-OT: learnable, entropy-regularised optimal transport over one-dimensional projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from transporter_pl.errors import TransporterError
from transporter_pl.precision import full_precision
from transporter_pl.transport.base import PlanTransport
from transporter_pl.transport.solvers import Solver, check_solver, dense, solve, streamed
from transporter_pl.transport.solvers.linear import TOLERANCE


class ZetaTransport(PlanTransport):
    """z̃_j = Σ_i T̃_ij ẑ1_i with T̃ = mean_ζ T_ζ (TRANSPORTER, arXiv 2511.18359, its ζ-OT).

    a_iζ = ⟨ẑ1_i, p1_ζ⟩, b_jζ = ⟨ẑ2_j, p2_ζ⟩, M_ijζ = (a_iζ − b_jζ)², T_ijζ ∝ exp(−M_ijζ / ς). The closed form
    normalises once, over the source tokens i of every target token j; so z̃_j is a barycentric image of ẑ1.

    Where the paper is silent: p1 and p2 start equal, with unit-variance projections, so that the plan pairs tokens of
    like content from the first step; ς is learned as log ς, and the projections' lengths sharpen the plan far sooner. A
    plan averaged over ζ is only as sharp as its one-dimensional plans, and N tokens on a line of unit variance are
    about 1/N apart; yet a start at a small ς pairs tokens before ẑ1 says anything, and learns more slowly.

    Args:
        width: Token width D.
        projections: P, the number of projection pairs.
        regularisation: ς > 0, in squared standard deviations of a token's feature; the start value if it is learned.
        learn_regularisation: Whether ς is learned.
        iterations: 0 for the closed form; k alternates k normalisations over j and over i (partial Sinkhorn), towards
            the plan whose rows and columns all sum to 1.
        solver: How the closed form is computed: ``dense`` (P plans of N × N kept by autograd), ``streamed`` (exact,
            block by block), ``triton`` (exact, fused, on a GPU), ``linear`` (interpolated, linear in N), or ``auto``.
        tolerance: Of ``linear``: the largest error of a token, relative to the largest norm of a token of ẑ1.

    Raises:
        TransporterError: If ς or the tolerance is not positive and finite, P not positive, ``iterations`` negative, the
            solver unknown, or one that can't iterate.
    """

    def __init__(
        self,
        width: int,
        projections: int = 100,
        regularisation: float = 0.1,
        learn_regularisation: bool = True,
        iterations: int = 0,
        solver: Solver = "auto",
        tolerance: float = TOLERANCE,
    ) -> None:
        super().__init__(width)
        _check(projections, regularisation, iterations, tolerance)
        check_solver(solver, iterations)
        self.iterations, self.solver, self.tolerance = iterations, solver, tolerance
        start = torch.randn(projections, width) / math.sqrt(width)
        self.first_projections = nn.Parameter(start)
        self.second_projections = nn.Parameter(start.clone())
        self.log_regularisation = nn.Parameter(
            torch.tensor(math.log(regularisation)), requires_grad=learn_regularisation
        )

    @property
    def regularisation(self) -> Tensor:
        """ς, a positive scalar."""
        return self.log_regularisation.exp()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """ẑ1 and ẑ2 (B, N, D) → z̃ (B, N, D); at least float32 inside, whatever the autocast."""
        with full_precision(first, second) as (source, target):
            a, b = self.projected(source, target)
            if not self.iterations:
                return solve(self.solver, a, b, source, self.tolerance).to(first.dtype)
            plan = dense.plan if self.solver == "dense" else streamed.plan
            return (plan(a, b, self.iterations) @ source).to(first.dtype)

    def plan(self, first: Tensor, second: Tensor) -> Tensor:
        """T̃ (B, N_i, N_j); every column sums to 1."""
        with full_precision(first, second) as (source, target):
            return streamed.plan(*self.projected(source, target), self.iterations).mT

    def projected(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """a_iζ / √ς and b_jζ / √ς, both (B, P, N)."""
        scale = torch.exp(-0.5 * self.log_regularisation.to(first))
        p1, p2 = (scale * p.to(first) for p in (self.first_projections, self.second_projections))
        return p1 @ first.mT, p2 @ second.mT


def _check(projections: int, regularisation: float, iterations: int, tolerance: float) -> None:
    if not (math.isfinite(regularisation) and regularisation > 0):
        msg = f"regularisation: ς = {regularisation} is not positive and finite; 0.1 is the default"
        raise TransporterError(msg)
    if projections < 1:
        msg = f"projections: P = {projections}; use at least 1, the paper's is 100"
        raise TransporterError(msg)
    if iterations < 0:
        msg = f"iterations: {iterations} is negative; use 0 for the closed form"
        raise TransporterError(msg)
    if not 0 < tolerance < math.inf:
        msg = f"tolerance: {tolerance} is not positive and finite; {TOLERANCE} is the default"
        raise TransporterError(msg)
