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
def encode(generator: GeneratorAdapter, vlm: VLMAdapter, clips: Clips) -> Encoded:
    """Run every frozen encoder once over a batch of clips."""
    latents = generator.encode(clips.video)
    return Encoded(
        ids=clips.ids,
        captions=clips.captions,
        latents=latents,
        condition=generator.encode_text(list(clips.captions)),
        tokens=vlm.encode(clips.video),
        reencoded=reencode(generator, vlm, latents),
    )
