"""A stack of layers whose activations may be computed anew in the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LayerStack(nn.Sequential):
    """Layers one after another.

    Args:
        layers: The layers, (B, N, width) → (B, N, width) each.
        checkpointing: Whether training keeps what goes into each layer alone, and computes it again for its gradients.
    """

    def __init__(self, *layers: nn.Module, checkpointing: bool) -> None:
        super().__init__(*layers)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) → (B, N, width)."""
        kept = self.checkpointing and torch.is_grad_enabled()
        for layer in self:
            x = checkpoint(layer, x, use_reentrant=False) if kept else layer(x)
        return x
