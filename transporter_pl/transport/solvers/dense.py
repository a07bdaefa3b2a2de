"""ζ-OT as its equations are written: all P plans at once, differentiated by autograd."""

from __future__ import annotations

from torch import Tensor


def transported(a: Tensor, b: Tensor, source: Tensor, iterations: int = 0) -> Tensor:
    """z̃_j = Σ_i T̃_ij ẑ1_i; keeps B·P·N_i·N_j numbers several times over.

    Args:
        a: Projected sources over √ς, (B, P, N_i).
        b: Projected targets over √ς, (B, P, N_j).
        source: ẑ1, (B, N_i, D).
        iterations: As in ``plan``.

    Returns:
        z̃, (B, N_j, D).
    """
    return plan(a, b, iterations) @ source


def plan(a: Tensor, b: Tensor, iterations: int = 0) -> Tensor:
    """T̃ = mean_ζ T_ζ, T_ijζ ∝ exp(−(a_iζ − b_jζ)²), every target's weights summing to 1; targets first, (B, N_j, N_i).

    Args:
        a: Projected sources over √ς, (B, P, N_i).
        b: Projected targets over √ς, (B, P, N_j).
        iterations: Normalisations over j and over i that go before the last, over i.
    """
    # i last: softmax is fastest along contiguous memory
    log_kernel = (a[:, :, None, :] - b[:, :, :, None]).square().neg()
    for _ in range(iterations):
        log_kernel = log_kernel.log_softmax(-1).log_softmax(-2)
    return log_kernel.softmax(-1).mean(1)
