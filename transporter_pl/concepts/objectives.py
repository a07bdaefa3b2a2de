"""What a concept vector minimises, and the divergence Δϑ that dials it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.concepts.divergences import Divergence
from transporter_pl.concepts.pairs import Contrast
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.explain.modulation import Modulation, modulate


@dataclass(frozen=True)
class Points:
    """M intermediate latents and what the frozen generator says there.

    Attributes:
        latents: z_t, (M, C, T', H', W').
        t: Their times, (M,).
        context: Row of each point's context in the table of conditions, (M,).
        velocity: v− = G(z_t, ε−, t), (M, C, T', H', W').
        change: Δv = G(z_t, ε+, t) − G(z_t, ε−, t), (M, C, T', H', W').
    """

    latents: Tensor
    t: Tensor
    context: Tensor
    velocity: Tensor
    change: Tensor

    def __len__(self) -> int:
        """Number of points."""
        return len(self.t)

    def __getitem__(self, rows: Tensor | slice) -> Points:
        """Some of the points."""
        return Points(*(field[rows] for field in vars(self).values()))

    def to(self, device: torch.device) -> Points:
        """The points on a device."""
        return Points(*(field.to(device) for field in vars(self).values()))


def velocity_objective(
    generator: GeneratorAdapter, points: Points, condition: Tensor, vector: Tensor, phi: Tensor
) -> tuple[Tensor, Tensor]:
    """L = ‖ sg[G(z_t, ε−, t) + φ Δv] − G(z_t, ε− + φ q, t) ‖² (the paper's L_q), mean over elements, no guidance.

    At φ = 1 it is 0 for q = ε+ − ε−. Between 0 and 1 the target is the interpolated velocity: that is what makes the
    dial continuous, and what the plain difference need not do.

    Args:
        generator: The frozen generator G.
        points: B points, with v− and Δv.
        condition: ε− of each point, (B, L, D_c).
        vector: q of each point, (B, L, D_c) or (B, 1, D_c).
        phi: φ of each point, (B,).

    Returns:
        The loss of each point, (B,), and what it is at q = 0, ‖φ Δv‖², (B,).
    """
    step = phi[:, None, None, None, None] * points.change
    moved = generator.velocity(points.latents, modulate(condition, [Modulation(vector, phi)]), points.t)
    loss = (points.velocity + step - moved).square().flatten(1).mean(1)
    return loss, step.square().flatten(1).mean(1)


@torch.no_grad()
def token_divergence(
    bridge: Bridge, points: Points, ends: Tensor, contrast: Contrast, prompt: str | None, divergence: Divergence
) -> Tensor:
    """Δϑ = d(ϑ−, ϑ+) between what the VLM reads in both paths' clean estimates x̂0 = z_t − t v, through Φ.

    Both start from the same z_t, so Δϑ is large where t is, and nears 0 with t.

    Args:
        bridge: Generator, Φ and VLM.
        points: B points of one context.
        ends: ε− and ε+ of the context, (2, L, D_c).
        contrast: Where the context's two captions part.
        prompt: The question; ``None`` takes the VLM's own.
        divergence: d, e.g. ``hellinger``.

    Returns:
        (B,).
    """
    t = points.t[:, None, None, None, None]
    estimates = [points.latents - t * v for v in (points.velocity, points.velocity + points.change)]
    tokens = bridge.tokens(torch.cat(estimates), ends.repeat_interleave(len(points), 0))
    negative, positive = bridge.vlm.logits(tokens, prompt, contrast.prefix).float().softmax(-1).chunk(2)
    return divergence(negative, positive)
