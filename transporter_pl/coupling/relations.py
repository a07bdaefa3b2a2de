"""Relations among tokens: the matrix of their pairwise inner products."""

from __future__ import annotations

from torch import Tensor

from transporter_pl.precision import full_precision


def gram(tokens: Tensor, normalisation: str = "width") -> Tensor:
    """H(z) = z zᵀ / D (TRANSPORTER, arXiv 2511.18359, without the division by D).

    Divided by D, its entries are of order 1 for standardised tokens of any width. Blind to rotations: H(z R) = H(z)
    for every orthogonal R (D, D).

    Args:
        tokens: z, (B, N, D).
        normalisation: ``width`` divides by D, ``none`` does not.

    Returns:
        (B, N, N), at least float32 whatever the autocast.
    """
    with full_precision(tokens) as (exact,):
        products = exact @ exact.mT
    return products / tokens.shape[-1] if normalisation == "width" else products
