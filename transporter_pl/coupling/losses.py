"""The objective of the coupling network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import mse_loss

from transporter_pl.coupling.relations import gram
from transporter_pl.precision import full_precision
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
    """The three losses of Φ and their weighted sum, scalars; ``None`` for a part that Φ does not have.

    Attributes:
        first: L1 = mse(z_Ω, ẑ1).
        second: L2 = mse(H(z_Ω), H(ẑ2)).
        transport: L3 = mse(z_Ω, z̃) + mse(H(z_Ω), H(z̃)).
        total: The weighted sum.
    """

    first: Tensor | None
    second: Tensor | None
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
    with full_precision(tokens, coupled.tokens) as (target, moved):
        relations = gram(target, gram_normalisation)
        one = None if coupled.first is None else mse_loss(coupled.first.to(target), target)
        two = None if coupled.second is None else mse_loss(gram(coupled.second, gram_normalisation), relations)
        three = mse_loss(moved, target) + mse_loss(gram(moved, gram_normalisation), relations)
    total = weights.transport * three
    for weight, part in ((weights.first, one), (weights.second, two)):
        total = total if part is None else total + weight * part
    return CouplingLoss(one, two, three, total)
