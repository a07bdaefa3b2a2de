"""What a coupling network is built from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from transporter_pl.errors import TransporterError
from transporter_pl.samples import Shapes


@dataclass(frozen=True)
class CouplingOptions:
    """What a user may choose about Φ; the depths are the paper's, widths are not given there.

    Attributes:
        width: Hidden width of Mixer and Transformer.
        mixer_layers: Layers of Φ_Ω1.
        transformer_layers: Layers of Φ_Ω2.
        heads: Attention heads of Φ_Ω2.
        expansion: Hidden width of the feature MLPs, in widths.
        patch: Patch of the latents that becomes one input token, in (T', H', W').
        source: What Φ_Ω2 reads: the ``reencoded`` tokens z_Ξ→Ω, or the ``latents``.
        transport: Registered name or class path of the transport.
        transport_options: Its own options.
        gram: Normalisation of H(z): ``width`` divides z zᵀ by D, so that one learning rate serves any D; ``none``
            leaves it as the paper writes it.
        checkpointing: Whether the layers' activations are computed anew in the backward pass: less memory, a third more
            time.
    """

    width: int = 512
    mixer_layers: int = 24
    transformer_layers: int = 12
    heads: int = 8
    expansion: int = 4
    patch: tuple[int, int, int] = (1, 1, 1)
    source: Literal["reencoded", "latents"] = "reencoded"
    transport: str = "zeta"
    transport_options: dict[str, Any] = field(default_factory=dict)
    gram: Literal["width", "none"] = "width"
    checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't be built.

        Raises:
            TransporterError: If a value is out of its range.
        """
        for name in ("width", "mixer_layers", "transformer_layers", "heads", "expansion"):
            if getattr(self, name) < 1:
                msg = f"{name}: {getattr(self, name)} is too small; use at least 1"
                raise TransporterError(msg)
        if self.width % self.heads:
            msg = f"heads: {self.heads} heads don't divide the width {self.width}; change either"
            raise TransporterError(msg)
        for name, known in (("source", ("reencoded", "latents")), ("gram", ("width", "none"))):
            if getattr(self, name) not in known:
                msg = f"{name}: {getattr(self, name)!r} is unknown; use {' or '.join(known)}"
                raise TransporterError(msg)


@dataclass(frozen=True, kw_only=True)
class CouplingConfig(CouplingOptions):
    """Φ as a whole: the options, and the shapes of what it joins.

    Attributes:
        latent_shape: (C, T', H', W') of one clip's latents.
        condition_shape: (L, D_c) of one caption's condition.
        token_shape: (N, D) of one clip's tokens.
    """

    latent_shape: tuple[int, int, int, int]
    condition_shape: tuple[int, int]
    token_shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Check the options, and the patch against the latents.

        Raises:
            TransporterError: If the patch does not divide the latent grid.
        """
        super().__post_init__()
        if any(size % side for size, side in zip(self.latent_shape[1:], self.patch, strict=True)):
            msg = f"patch: {self.patch} does not divide the latent grid {tuple(self.latent_shape[1:])}; choose divisors"
            raise TransporterError(msg)

    @classmethod
    def of(cls, shapes: Shapes, options: CouplingOptions) -> Self:
        """The configuration for the shapes of a data set."""
        return cls(
            latent_shape=shapes.latents,
            condition_shape=shapes.condition,
            token_shape=shapes.tokens,
            **asdict(options),
        )
