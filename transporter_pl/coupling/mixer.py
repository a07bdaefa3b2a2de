"""Φ_Ω1: the global projection."""

from __future__ import annotations

from torch import Tensor, nn

from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.embedding import TokenGrid
from transporter_pl.coupling.layers import LayerStack


class MixerLayer(nn.Module):
    """One layer of an MLP-Mixer (Tolstikhin et al. 2021): x + MLP_tokens(LN x), then x + MLP_features(LN x).

    Args:
        tokens: Number of tokens N.
        width: Feature width; also the hidden width of the token MLP.
        hidden: Hidden width of the feature MLP.
    """

    def __init__(self, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.token_norm, self.feature_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_mlp = nn.Sequential(nn.Linear(tokens, width), nn.GELU(), nn.Linear(width, tokens))
        self.feature_mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) → (B, N, width)."""
        x = x + self.token_mlp(self.token_norm(x).mT).mT
        return x + self.feature_mlp(self.feature_norm(x))  # type: ignore[no-any-return]


class CouplingMixer(nn.Module):
    """ẑ1 = Φ_Ω1(z_Ξ, π_Ξ), an MLP-Mixer on the VLM's token grid (TRANSPORTER: 24 layers).

    Args:
        config: The network's configuration.
    """

    def __init__(self, config: CouplingConfig) -> None:
        super().__init__()
        count, token_width = config.token_shape
        self.embedding = TokenGrid(config, conditioned=True)
        self.layers = LayerStack(
            *(MixerLayer(count, config.width, config.expansion * config.width) for _ in range(config.mixer_layers)),
            checkpointing=config.checkpointing,
        )
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, token_width))

    def forward(self, latents: Tensor, condition: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') and condition (B, L, D_c) → standardised tokens ẑ1 (B, N, D)."""
        return self.head(self.layers(self.embedding(latents, condition)))  # type: ignore[no-any-return]
