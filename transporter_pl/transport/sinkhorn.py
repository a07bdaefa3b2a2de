"""Full entropic optimal transport between whole tokens, through POT."""

from __future__ import annotations

import math

import ot
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.transport.base import PlanTransport


class SinkhornTransport(PlanTransport):
    """T̃ = N argmin_T ⟨T, M⟩ + ς Σ T log T, M_ij = ‖ẑ1_i − ẑ2_j‖² / D, both marginals uniform (Cuturi 2013).

    What ζ-OT's closed form leaves out: every source must be used as often as any other. Solved by POT in the
    logarithmic domain and differentiated through all iterations, which keeps two B×N×N of each. Their number is fixed:
    a solver that ends by its error would make a clip's tokens depend on the others of its batch.

    100 iterations suffice at ς = 0.1: measured on a small VLM's tokens, and on random ones that are scattered, of few
    dimensions or in clusters, N = 36 to 1024, z̃ is within 0.2 % of its limit, and within 1.5 % where there are
    clusters. A smaller ς takes more of them: at ς = 0.01 it is within 10 % and 40 %.

    Args:
        width: Token width D.
        regularisation: ς > 0, in squared standard deviations of a token's feature.
        iterations: Number of iterations; each normalises rows and columns.

    Raises:
        TransporterError: If an option is not positive.
    """

    def __init__(self, width: int, regularisation: float = 0.1, iterations: int = 100) -> None:
        super().__init__(width)
        if not 0 < regularisation < math.inf:
            msg = f"regularisation: ς = {regularisation} is not positive and finite; 0.1 is the default"
            raise TransporterError(msg)
        if iterations < 1:
            msg = f"iterations: {iterations}; use at least 1, 100 is the default"
            raise TransporterError(msg)
        self.regularisation, self.iterations = regularisation, iterations

    def plan(self, first: Tensor, second: Tensor) -> Tensor:
        """ẑ1 and ẑ2 (B, N, D) → T̃ (B, N_i, N_j); columns sum to 1, rows as nearly as the iterations make them."""
        costs = ot.dist_batch(first, second) / self.width
        # POT's default would detach the plan from the graph
        solved = ot.solve_batch(
            costs, self.regularisation, method="log_sinkhorn", max_iter=self.iterations, tol=0.0, grad="autodiff"
        )
        plan: Tensor = solved.plan
        return plan * second.shape[1]
