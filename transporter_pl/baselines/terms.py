"""What keeps a drawn video natural: plain functions of pixels and of a VLM's layers, one number a video."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def total_variation(video: Tensor) -> Tensor:
    """Mean |x_{i+1} − x_i| down and across each frame, of both together: (B, T, 3, H, W) → (B,)."""
    down, across = video.diff(dim=-2), video.diff(dim=-1)
    return down.abs().flatten(1).mean(1) + across.abs().flatten(1).mean(1)


def l2(video: Tensor) -> Tensor:
    """Euclidean norm ‖x‖₂ of a whole video, as in the released code of LEAPS: (B, …) → (B,).

    No mean is taken, so that it grows with the root of the number of pixels.
    """
    norm: Tensor = torch.linalg.vector_norm(video.flatten(1), dim=1)
    return norm


def patch_borders(video: Tensor, patch: tuple[float, float]) -> Tensor:
    """Patch prior of GradViT (arXiv 2203.11894): what jumps where two patches meet, (B, T, 3, H, W) → (B,).

    Σ_k ‖x[kP] − x[kP − 1]‖₂ over the borders k of a frame's rows, and the same over its columns; mean over frames.
    Where the VLM resizes frames, P may be no whole number; kP is rounded.

    Args:
        video: Pixels.
        patch: Height and width P of a patch, in pixels.
    """
    tall, wide = (_borders(side, p) for side, p in zip(video.shape[-2:], patch, strict=True))
    down, across = video.diff(dim=-2)[..., tall, :], video.diff(dim=-1)[..., wide]
    rows: Tensor = torch.linalg.vector_norm(down, dim=(2, 4)).sum(-1)
    columns: Tensor = torch.linalg.vector_norm(across, dim=(2, 3)).sum(-1)
    return (rows + columns).mean(1)


def _borders(side: int, patch: float) -> list[int]:
    """The last pixel of every patch but the last."""
    count = math.ceil(side / patch)
    return sorted({last for k in range(1, count) if 0 <= (last := round(k * patch) - 1) < side - 1})


def jaccard_dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 − ⟨a, b⟩ / (‖a‖² + ‖b‖² − ⟨a, b⟩), the Jaccard index of real vectors as a dissimilarity: (…, D) → (…).

    0 for equal vectors, 1 for orthogonal ones, at most 4/3, for opposite ones of one length; the same when both are
    scaled alike. On indicator vectors ⟨a, b⟩ counts the intersection and the denominator the union (Tanimoto's form).
    LEAPS names the Jaccard vector similarity without an equation, and this form takes negative entries too.
    """
    inner = (a * b).sum(-1)
    # as (‖a − b‖²) / (‖a − b‖² + ⟨a, b⟩): two near vectors lose no digits; the denominator is at least ¾ of ‖a − b‖²
    apart = (a - b).square().sum(-1)
    return apart / (apart + inner).clamp_min(torch.finfo(a.dtype).tiny)


def priming(layers: Sequence[Tensor], stimulus: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """L_prim of LEAPS (arXiv 2303.09941): (1/L) Σ_l λ_l · JVS(μ(z_l(x)), μ(z_l(v))), each (B, n_l, D_l) → (B,).

    μ is the mean over the places of a layer, JVS ``jaccard_dissimilarity``.

    Args:
        layers: z_l(x) of the drawn videos.
        stimulus: z_l(v) of the stimulus videos.
        weights: λ_l, one a layer.
    """
    pairs = zip(layers, stimulus, weights, strict=True)
    terms = [λ * jaccard_dissimilarity(x.float().mean(1), v.float().mean(1)) for x, v, λ in pairs]
    return torch.stack(terms).mean(0)


def coherence(moments: Tensor, margin: float) -> Tensor:
    """R_coh of LEAPS (arXiv 2303.09941): neighbours in time together, others apart, (B, G, F) → (B,).

    d(s, t) for consecutive moments, max(0, δ − d(s, t)) for others; each is averaged over its pairs, as the paper does
    not say how they add up. d is ‖z_s − z_t‖₁ / F, so that one δ serves every number of features F; the paper has no F.

    Args:
        moments: Embeddings z_t of G moments.
        margin: δ.
    """
    count = moments.shape[1]
    distance = torch.cdist(moments, moments, p=1) / moments.shape[-1]
    near = distance.diagonal(1, -2, -1).mean(-1)
    first, second = torch.triu_indices(count, count, 2, device=moments.device)
    far = (margin - distance[:, first, second]).clamp_min(0).sum(-1)
    return near + far / max(1, len(first))
