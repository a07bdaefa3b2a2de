"""What else changed? The distance between two videos outside the place where they differ most."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from transporter_pl.adapters import VLMAdapter

SHARE = 1 / 2  # of the largest change: from here on, a pixel belongs to the region of change
MARGIN = 1 / 16  # of the shorter side, by which the region is grown: a change of pixels has soft edges


@torch.no_grad()
def elsewhere(vlm: VLMAdapter, reference: Tensor, videos: Tensor, batch_size: int = 8) -> Tensor:
    """Perceptual distance outside the change, as LPIPS, but with the VLM's own visual features.

    In each video the region of change is replaced by the reference's pixels, and what is left is compared:

        d = mean over tokens of 1 − cos(E_Ω(composite), E_Ω(reference)) ∈ [0, 2]

    0 says that nothing else changed. A video that changed everywhere alike is all region, and has 0 too.

    Args:
        vlm: The VLM Ω.
        reference: The video of φ = 0, (T, 3, H, W) in [0, 1].
        videos: P videos, (P, T, 3, H, W) in [0, 1].
        batch_size: Videos that are encoded at once.

    Returns:
        d, (P,), on the CPU.
    """
    reference = reference.to(vlm.device)
    target, distances = vlm.encode(reference[None]).float(), []
    for part in torch.split(videos, batch_size):
        video = part.to(vlm.device)
        composite = torch.where(change_region(reference, video)[:, :, None], reference, video)
        distance = _cosine_distance(vlm.encode(composite).float(), target)
        # rows of a batch may differ in their last bits
        distances.append((distance * (composite != reference).flatten(1).any(1)).cpu())
    return torch.cat(distances)


def change_region(reference: Tensor, videos: Tensor) -> Tensor:
    """Pixels whose colour moved at least half as far as the one that moved furthest, and a margin round them.

    Not the pixels that hold most of the change in sum: a faint change of a whole background would be among them, and
    count as the change itself instead of what else changed.

    Args:
        reference: (T, 3, H, W).
        videos: (P, T, 3, H, W).

    Returns:
        Whether a pixel belongs to it, (P, T, H, W).
    """
    change = (videos.float() - reference.float()).square().sum(2)
    largest = change.amax((1, 2, 3), keepdim=True)
    region = (change >= SHARE**2 * largest) & (change > 0)
    margin = round(MARGIN * min(change.shape[-2:]))
    return F.max_pool2d(region.float(), 2 * margin + 1, stride=1, padding=margin) > 0


def _cosine_distance(tokens: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens of 1 − cos, (B, N, D) → (B,); as half a squared distance, which is 0 for what is the same."""
    return (F.normalize(tokens, dim=-1) - F.normalize(target, dim=-1)).square().sum(-1).mean(1) / 2
