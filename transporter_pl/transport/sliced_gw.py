"""Sliced Gromov-Wasserstein: a plan from relations alone, that learns nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from transporter_pl.errors import TransporterError
from transporter_pl.transport.base import PlanTransport


class SlicedGW(PlanTransport):
    """T̃ = mean_θ of the permutations that match ⟨ẑ1_i, θ⟩ to ⟨ẑ2_j, θ⟩ (Vayer et al. 2019, TRANSPORTER's "sGW OT").

    Gromov-Wasserstein compares distances within either set: it asks for the order σ that minimises
    Σ_ij ((a_i − a_j)² − (b_σi − b_σj)²)². On a line, Vayer et al. take the better of two orders, both sorted alike or
    one against the other. That is a heuristic: from seven points on another order can be better (Beinert et al. 2023),
    though among points at random none was found that is. And sliced Gromov-Wasserstein is a distance, not a plan; the
    average of the directions' permutations is ours.

    The permutations pass no gradient, so Φ_Ω2 learns from its own loss alone and ẑ1 through the sums over the plan.

    Args:
        width: Token width D.
        projections: Number of directions θ, drawn once from the unit sphere.
        seed: Seed of the draw.

    Raises:
        TransporterError: If there is no direction.
    """

    directions: Tensor

    def __init__(self, width: int, projections: int = 100, seed: int = 0) -> None:
        super().__init__(width)
        if projections < 1:
            msg = f"projections: {projections}; use at least 1, 100 is the default"
            raise TransporterError(msg)
        draws = torch.randn(projections, width, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        self.register_buffer("directions", normalize(draws, dim=-1))

    @torch.no_grad()
    def plan(self, first: Tensor, second: Tensor) -> Tensor:
        """ẑ1 and ẑ2 (B, N, D) → T̃ (B, N_i, N_j); rows and columns sum to 1."""
        directions = self.directions.to(first.dtype)
        a, sources = (first @ directions.mT).mT.sort(-1)  # (B, P, N)
        b, targets = (second @ directions.mT).mT.sort(-1)
        against = match(a, b.flip(-1)) > match(a, b)
        targets = torch.where(against[..., None], targets.flip(-1), targets)
        batch, _, count = a.shape
        plan = torch.zeros(batch, count * count, dtype=a.dtype, device=a.device)
        plan.scatter_add_(1, (sources * count + targets).flatten(1), torch.ones_like(a).flatten(1))
        return plan.view(batch, count, count) / len(directions)


def match(a: Tensor, b: Tensor) -> Tensor:
    """Σ_ij (a_i − a_j)² (b_i − b_j)² / 2, up to what no order changes: the more, the better a and b (..., N) match.

    With both centred it is N Σ_i a_i² b_i² + 2 (Σ_i a_i b_i)² and a constant, so N numbers do instead of N².
    """
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    return a.shape[-1] * (a * b).square().sum(-1) + 2 * (a * b).sum(-1).square()
