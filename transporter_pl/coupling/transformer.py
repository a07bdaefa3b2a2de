"""Φ_Ω2: the structure among tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.embedding import TokenGrid
from transporter_pl.coupling.layers import LayerStack


class CouplingTransformer(nn.Module):
    """ẑ2 = Φ_Ω2(·), a pre-norm Transformer over the VLM's token grid (TRANSPORTER: 12 layers).

    From re-encoded tokens it predicts a correction, ẑ2 = z_Ξ→Ω + f(z_Ξ→Ω), and starts at none: its loss sees inner
    products only, which no rotation of ẑ2 changes, and this start leaves it no rotation to be lost in. From latents
    there is no such start.

    Args:
        config: The network's configuration.
    """

    def __init__(self, config: CouplingConfig) -> None:
        super().__init__()
        count, token_width = config.token_shape
        width = config.width
        self.reads_tokens = config.source == "reencoded"
        self.embedding = nn.Linear(token_width, width) if self.reads_tokens else TokenGrid(config, conditioned=False)
        self.positions = nn.Parameter(0.02 * torch.randn(count, width))
        self.layers = LayerStack(
            *(
                nn.TransformerEncoderLayer(
                    width, config.heads, config.expansion * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(config.transformer_layers)
            ),
            checkpointing=config.checkpointing,
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, token_width)
        if self.reads_tokens:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, latents: Tensor, condition: Tensor, reencoded: Tensor | None) -> Tensor:
        """Latents, condition, standardised re-encoded tokens (B, N, D) → standardised tokens ẑ2 (B, N, D)."""
        x = self.embedding(reencoded) if self.reads_tokens else self.embedding(latents, condition)
        correction: Tensor = self.head(self.norm(self.layers(x + self.positions)))
        return correction if reencoded is None or not self.reads_tokens else reencoded + correction
