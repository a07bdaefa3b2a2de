"""How far apart two token distributions are: Δϑ between the VLM's readings of two videos."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from transporter_pl.registry import Registry

Divergence = Callable[[Tensor, Tensor], Tensor]

divergences: Registry[Divergence] = Registry("divergences")


def hellinger(p: Tensor, q: Tensor) -> Tensor:
    """Hellinger distance ‖√p − √q‖₂ / √2 (the paper's Δϑ), symmetric, in [0, 1].

    Args:
        p: Probabilities, (..., V).
        q: Probabilities, (..., V).

    Returns:
        (...).
    """
    distance: Tensor = torch.linalg.vector_norm(_safe(p).sqrt() - _safe(q).sqrt(), dim=-1) / 2**0.5
    return distance.clamp(max=1)


def js(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, in bits: symmetric, in [0, 1].

    Bits instead of nats, so that the largest value is 1 and it can serve as φ as Hellinger's does.

    Args:
        p: Probabilities, (..., V).
        q: Probabilities, (..., V).

    Returns:
        (...).
    """
    p, q = _safe(p), _safe(q)
    middle = (p + q) / 2
    nats = (p * (p.log() - middle.log()) + q * (q.log() - middle.log())).sum(-1) / 2
    return (nats / math.log(2)).clamp(0, 1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p‖q) = Σ p ln(p/q) in nats: not symmetric, ≥ 0, unbounded.

    Called with p = ϑ− and q = ϑ+. Where q is 0 it counts as the smallest normal number, so that the value is finite.

    Args:
        p: Probabilities, (..., V).
        q: Probabilities, (..., V).

    Returns:
        (...).
    """
    p, q = _safe(p), _safe(q)
    return (p * (p.log() - q.log())).sum(-1).clamp_min(0)


def _safe(p: Tensor) -> Tensor:
    """Single precision at least, and the smallest normal number in place of what underflowed."""
    # √ and ln have an infinite slope at 0; a clamped value has none
    return (p if p.dtype == torch.float64 else p.float()).clamp_min(torch.finfo(torch.float32).tiny)
