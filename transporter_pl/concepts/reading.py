"""What the VLM reads in the generator's clean estimates, through Φ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transporter_pl.concepts.divergences import Divergence
from transporter_pl.concepts.pairs import Contrast
from transporter_pl.concepts.points import Points
from transporter_pl.coupling.bridge import Bridge


@torch.no_grad()
def token_divergence(
    bridge: Bridge,
    points: Points,
    ends: Tensor,
    contrasts: Sequence[Contrast],
    prompt: str | None,
    divergence: Divergence,
) -> Tensor:
    """Δϑ = d(ϑ−, ϑ+) between what the VLM reads in both paths' clean estimates x̂0 = z_t − t v, through Φ.

    Both start from the same z_t, so Δϑ is large where t is, and nears 0 with t.

    Args:
        bridge: Generator, Φ and VLM.
        points: B points.
        ends: ε− and ε+ of each point, (B, 2, L, D_c).
        contrasts: Where the two captions of each part.
        prompt: The question; ``None`` takes the VLM's own.
        divergence: d, e.g. ``hellinger``.

    Returns:
        (B,).
    """
    t = points.t[:, None, None, None, None]
    estimates = [points.latents - t * v for v in (points.velocity, points.velocity + points.change)]
    tokens = bridge.tokens(torch.cat(estimates), ends.transpose(0, 1).flatten(0, 1))
    answers = [contrast.prefix for contrast in contrasts] * 2
    negative, positive = bridge.vlm.logits(tokens, prompt, answers).float().softmax(-1).chunk(2)
    return divergence(negative, positive)
