"""Φ between its two frozen backbones: from latents straight to what the VLM reads."""

from __future__ import annotations

from pathlib import PurePath
from typing import Self

from torch import Tensor, nn

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.encoding import reencode
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Coupled


class Bridge(nn.Module):
    """Generator Ξ, VLM Ω and the trained Φ between them, all frozen; gradients flow through, from tokens to latents.

    Args:
        generator: Ξ.
        vlm: Ω.
        network: Φ, trained for both.

    Raises:
        TransporterError: If Φ was trained for other backbones, another geometry or other shapes (names both).
    """

    def __init__(self, generator: GeneratorAdapter, vlm: VLMAdapter, network: CouplingNetwork) -> None:
        super().__init__()
        _check(generator, vlm, network)
        self.generator, self.vlm = generator, vlm
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever Lightning asks for."""
        return super().train(False)

    def couple(self, latents: Tensor, condition: Tensor) -> Coupled:
        """z_Ξ (B, C, T', H', W') and π_Ξ (B, L, D_c) → ẑ1, ẑ2 and z̃; decodes and re-encodes where Φ_Ω2 asks for it."""
        reencoded = reencode(self.generator, self.vlm, latents) if self.network.needs_reencoded else None
        coupled: Coupled = self.network(latents, condition, reencoded)
        return coupled

    def tokens(self, latents: Tensor, condition: Tensor) -> Tensor:
        """z_Ξ (B, C, T', H', W') and π_Ξ (B, L, D_c) → z̃_Ω (B, N, D), for ``vlm.logits`` and ``vlm.caption``."""
        return self.couple(latents, condition).tokens


def _check(generator: GeneratorAdapter, vlm: VLMAdapter, network: CouplingNetwork) -> None:
    config, origin = network.config, network.origin
    pairs: list[tuple[str, object, object]] = []
    if origin is not None:
        # a checkpoint keeps its name where it moves, be it a hub id, a shipped one or a local folder
        pairs += [
            ("generator", PurePath(origin.generator).name, PurePath(generator.source).name),
            ("vlm", PurePath(origin.vlm).name, PurePath(vlm.source).name),
            ("video", str(origin.video), str(generator.video)),
        ]
    pairs += [
        ("latents", tuple(config.latent_shape), tuple(generator.latent_shape)),
        ("condition", tuple(config.condition_shape), tuple(generator.condition_shape)),
        ("tokens", tuple(config.token_shape), tuple(vlm.token_shape)),
    ]
    for name, trained, given in pairs:
        if trained != given:
            msg = f"{name}: the coupling network was trained for {trained}, not {given}; use what it was trained for, "
            msg += "or train it anew"
            raise TransporterError(msg)
