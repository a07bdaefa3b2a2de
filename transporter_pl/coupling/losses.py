"""The objective of the coupling network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from transporter_pl.coupling.relations import gram
from transporter_pl.samples import Coupled


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses, the paper's by default.

    Attributes:
        first: Weight of L1.
        second: Weight of L2.
        transport: Weight of L3.
    """

    first: float = 1.0
    second: float = 1.0
    transport: float = 1.0


@dataclass(frozen=True)
class CouplingLoss:
    """The three losses of Φ and their weighted sum, scalars.

    Attributes:
        first: L1 = mse(z_Ω, ẑ1).
        second: L2 = mse(H(z_Ω), H(ẑ2)).
        transport: L3 = mse(z_Ω, z̃) + mse(H(z_Ω), H(z̃)).
        total: The weighted sum.
    """

    first: Tensor
    second: Tensor
    transport: Tensor
    total: Tensor


def coupling_loss(
    coupled: Coupled, tokens: Tensor, weights: LossWeights | None = None, gram_normalisation: str = "width"
) -> CouplingLoss:
    """L = L1 + L2 + L3 (TRANSPORTER, arXiv 2511.18359), means over entries, at least float32 whatever the autocast.

    Args:
        coupled: ẑ1, ẑ2 and z̃, standardised.
        tokens: z_Ω, standardised, (B, N, D).
        weights: Weights of the sum; 1, 1, 1 if left out.
        gram_normalisation: As in ``gram``.
    """
    weights = weights or LossWeights()
    with torch.autocast(tokens.device.type, enabled=False):
        exact = torch.promote_types(tokens.dtype, torch.float32)
        target, first, second, moved = (x.to(exact) for x in (tokens, coupled.first, coupled.second, coupled.tokens))
        relations = gram(target, gram_normalisation)
        one = mse_loss(first, target)
        two = mse_loss(gram(second, gram_normalisation), relations)
        three = mse_loss(moved, target) + mse_loss(gram(moved, gram_normalisation), relations)
    total = weights.first * one + weights.second * two + weights.transport * three
    return CouplingLoss(one, two, three, total)
