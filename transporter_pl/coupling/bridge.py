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
        TransporterError: If Φ was made for other backbones or weights, another geometry or other shapes (names both).
    """
    config = network.config
    check_same(network.origin, Shapes(config.latent_shape, config.condition_shape, config.token_shape), origin, shapes)


def check_same(made_by: Origin | None, made_for: Shapes, origin: Origin, shapes: Shapes) -> None:
    """As ``check_fit``, for a Φ of which no more is known than what it was made for, such as a checkpoint's.

    Args:
        made_by: The backbones it was trained with, ``None`` where that is not known.
        made_for: Their shapes.
        origin: The backbones that it shall serve.
        shapes: What they give.

    Raises:
        TransporterError: As ``check_fit``.
    """
    made = _shapes(made_for) if made_by is None else _settings(made_by) | _shapes(made_for)
    given = _settings(origin) | _shapes(shapes)
    for name, was in made.items():
        if was != given[name]:
            msg = f"{name}: the coupling network was made for {was}, not {given[name]}; use what it was made for, "
            msg += "or train another"
            raise TransporterError(msg)
    if made_by is not None:
        check_weights("coupling network", (made_by.generator_weights, made_by.vlm_weights), origin)


def _settings(origin: Origin) -> dict[str, object]:
    """What a user sets, by its name on the command line."""
    video = {f"video.{name}": value for name, value in vars(origin.video).items()}
    return {"generator": checkpoint_name(origin.generator), "vlm": checkpoint_name(origin.vlm), **video}


def _shapes(shapes: Shapes) -> dict[str, object]:
    return {name: tuple(shape) for name, shape in vars(shapes).items()}
