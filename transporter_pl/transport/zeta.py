"""ζ-OT: learnable, entropy-regularised optimal transport over one-dimensional projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transporter_pl.errors import TransporterError
from transporter_pl.transport.base import Transport

# Entries of B·N·N·(ζ at once): small enough for a CPU's cache, where a larger tensor takes twice as long
CHUNK = 2**22


class ZetaTransport(Transport):
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

    Raises:
        TransporterError: If ς is not positive and finite, P not positive, or ``iterations`` negative.
    """

    def __init__(
        self,
        width: int,
        projections: int = 100,
        regularisation: float = 0.1,
        learn_regularisation: bool = True,
        iterations: int = 0,
    ) -> None:
        super().__init__(width)
        _check(projections, regularisation, iterations)
        self.iterations = iterations
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

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor | None]:
        """ẑ1 and ẑ2 (B, N, D) → z̃ (B, N, D) and T̃ (B, N, N); at least float32 inside, whatever the autocast."""
        with torch.autocast(first.device.type, enabled=False):
            exact = torch.promote_types(first.dtype, torch.float32)
            source, target = first.to(exact), second.to(exact)
            plan = self.plan(source, target)
            return (plan.mT @ source).to(first.dtype), plan

    def plan(self, first: Tensor, second: Tensor) -> Tensor:
        """T̃ (B, N_i, N_j); every column sums to 1."""
        scale = torch.exp(-0.5 * self.log_regularisation).to(first.dtype)
        a = scale * (first @ self.first_projections.to(first.dtype).mT).mT  # (B, P, N_i)
        b = scale * (second @ self.second_projections.to(first.dtype).mT).mT  # (B, P, N_j)
        at_once = max(1, CHUNK // (a.shape[0] * a.shape[2] * b.shape[2]))
        if at_once >= a.shape[1]:
            return self._summed(a, b) / a.shape[1]
        total = torch.zeros((), dtype=a.dtype, device=a.device)
        for some_a, some_b in zip(torch.split(a, at_once, 1), torch.split(b, at_once, 1), strict=True):
            total = total + checkpoint(self._summed, some_a, some_b, use_reentrant=False)
        return total / a.shape[1]

    def _summed(self, a: Tensor, b: Tensor) -> Tensor:
        """Σ_ζ T_ζ (B, N_i, N_j) of projections divided by √ς."""
        # i last: softmax is fastest along contiguous memory
        log_kernel = (a[:, :, None, :] - b[:, :, :, None]).square().neg()
        for _ in range(self.iterations):
            log_kernel = log_kernel.log_softmax(-1).log_softmax(-2)
        return log_kernel.softmax(-1).sum(1).mT


def _check(projections: int, regularisation: float, iterations: int) -> None:
    if not (math.isfinite(regularisation) and regularisation > 0):
        msg = f"regularisation: ς = {regularisation} is not positive and finite; 0.1 is the default"
        raise TransporterError(msg)
    if projections < 1:
        msg = f"projections: P = {projections}; use at least 1, the paper's is 100"
        raise TransporterError(msg)
    if iterations < 0:
        msg = f"iterations: {iterations} is negative; use 0 for the closed form"
        raise TransporterError(msg)
