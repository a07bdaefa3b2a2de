"""From latents, and the condition, to the VLM's token grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from transporter_pl.coupling.config import CouplingConfig


class TokenGrid(nn.Module):
    """Patch-embed the latents and mix the patches linearly into N tokens, h = W [E_z(z_Ξ); E_π(π_Ξ)] + b.

    The condition enters as extra tokens before that mixing: the paper gives it to Φ_Ω1 and does not say how.

    Args:
        config: The network's configuration.
        conditioned: Whether the rows of the condition join the patches.
    """

    def __init__(self, config: CouplingConfig, *, conditioned: bool) -> None:
        super().__init__()
        channels, *grid = config.latent_shape
        rows, condition_width = config.condition_shape
        patches = math.prod(size // side for size, side in zip(grid, config.patch, strict=True))
        self.patches = nn.Conv3d(channels, config.width, kernel_size=config.patch, stride=config.patch)
        self.condition = nn.Linear(condition_width, config.width) if conditioned else None
        self.resample = nn.Linear(patches + (rows if conditioned else 0), config.token_shape[0])

    def forward(self, latents: Tensor, condition: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') and condition (B, L, D_c) → (B, N, width)."""
        tokens = self.patches(latents).flatten(2).mT
        if self.condition is not None:
            tokens = torch.cat([tokens, self.condition(condition)], 1)
        return self.resample(tokens.mT).mT  # type: ignore[no-any-return]
