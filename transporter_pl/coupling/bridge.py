"""Φ between its two frozen backbones: from latents straight to what the VLM reads."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.encoding import reencode
from transporter_pl.errors import TransporterError
from transporter_pl.origin import check_weights, checkpoint_name, origin_of
from transporter_pl.samples import Coupled, Origin, Shapes


class Bridge(nn.Module):
    """Generator Ξ, VLM Ω and the trained Φ between them, all frozen; gradients flow through, from tokens to latents.

    Args:
        generator: Ξ.
        vlm: Ω.
        network: Φ, trained for both.
        origin: What the two are, where that is known already; by default their weights are read to tell.

    Attributes:
        origin: The two backbones, with fingerprints of their weights.

    Raises:
        TransporterError: If Φ was trained for other backbones or other weights of theirs, another geometry or other
            shapes (names both).
    """

    def __init__(
        self, generator: GeneratorAdapter, vlm: VLMAdapter, network: CouplingNetwork, origin: Origin | None = None
    ) -> None:
        super().__init__()
        self.origin = origin_of(generator, vlm) if origin is None else origin
        shapes = Shapes(generator.latent_shape, generator.condition_shape, vlm.token_shape)
        check_fit(network, self.origin, shapes)
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
        return self.couple(latents, condition).tokens.to(self.vlm.dtype)


def check_fit(network: CouplingNetwork, origin: Origin, shapes: Shapes) -> None:
    """Compare Φ with two backbones, of which no more than names and shapes need be known.

    Args:
        network: Φ.
        origin: The backbones that it shall serve, and their geometry; weights are compared where both know theirs.
        shapes: What they give.

    Raises:
        TransporterError: If Φ was trained for other backbones or weights, another geometry or other shapes (names
            both).
    """
    config, trained_for = network.config, network.origin
    pairs: list[tuple[str, object, object]] = []
    if trained_for is not None:
        pairs += [
            ("generator", checkpoint_name(trained_for.generator), checkpoint_name(origin.generator)),
            ("vlm", checkpoint_name(trained_for.vlm), checkpoint_name(origin.vlm)),
            ("video", str(trained_for.video), str(origin.video)),
        ]
    pairs += [
        ("latents", tuple(config.latent_shape), tuple(shapes.latents)),
        ("condition", tuple(config.condition_shape), tuple(shapes.condition)),
        ("tokens", tuple(config.token_shape), tuple(shapes.tokens)),
    ]
    for name, trained, given in pairs:
        if trained != given:
            msg = f"{name}: the coupling network was trained for {trained}, not {given}; use what it was trained for, "
            msg += "or train it anew"
            raise TransporterError(msg)
    if trained_for is not None:
        check_weights("coupling network", (trained_for.generator_weights, trained_for.vlm_weights), origin)
