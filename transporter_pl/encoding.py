"""What the frozen backbones say about a clip: the inputs and targets of the coupling network."""

from __future__ import annotations

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.samples import Clips, Encoded


def reencode(generator: GeneratorAdapter, vlm: VLMAdapter, latents: Tensor) -> Tensor:
    """z_Ξ→Ω = E_Ω(D_Ξ(z_Ξ)): latents (B, C, T', H', W') → tokens (B, N, D), differentiable."""
    return vlm.encode(generator.decode(latents))


@torch.no_grad()
def encode_video(generator: GeneratorAdapter, vlm: VLMAdapter, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Video (B, T, 3, H, W) → z_Ξ (B, C, T', H', W'), z_Ω (B, N, D) and z_Ξ→Ω (B, N, D)."""
    latents = generator.encode(video)
    return latents, vlm.encode(video), reencode(generator, vlm, latents)


@torch.no_grad()
def encode(generator: GeneratorAdapter, vlm: VLMAdapter, clips: Clips) -> Encoded:
    """Run every frozen encoder once over a batch of clips."""
    latents, tokens, reencoded = encode_video(generator, vlm, clips.video)
    condition = generator.encode_text(list(clips.captions))
    return Encoded(clips.ids, clips.captions, latents, condition, tokens, reencoded)
