"""The coupling network Φ: Mixer, Transformer and transport."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from transporter_pl.coupling import storage
from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.mixer import CouplingMixer
from transporter_pl.coupling.transformer import CouplingTransformer
from transporter_pl.errors import TransporterError
from transporter_pl.precision import full_precision
from transporter_pl.samples import Coupled, Origin
from transporter_pl.transport import new_transport


class CouplingNetwork(nn.Module):
    """z̃ = OT(ẑ1, ẑ2) with ẑ1 = Φ_Ω1(z_Ξ, π_Ξ) and ẑ2 = Φ_Ω2(z_Ξ→Ω or z_Ξ) (TRANSPORTER, arXiv 2511.18359).

    Inside, tokens are standardised per feature, (z − token_mean) / token_std: a VLM's features differ in scale by
    orders of magnitude, and its largest ones would own the losses and the transport's projections.

    Args:
        config: Shapes and options.
    """

    token_mean: Tensor
    token_std: Tensor

    def __init__(self, config: CouplingConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Origin | None = None
        width = config.token_shape[1]
        self.transport = new_transport(config.transport, width, config.transport_options)
        self.mixer = CouplingMixer(config) if "first" in self.transport.reads else None
        self.transformer = CouplingTransformer(config) if "second" in self.transport.reads else None
        self.register_buffer("token_mean", torch.zeros(width))
        self.register_buffer("token_std", torch.ones(width))
        _without_scalars(self)

    @property
    def needs_reencoded(self) -> bool:
        """Whether Φ_Ω2, or the transport itself, reads the re-encoded tokens."""
        read_by_second = self.transformer is not None and self.transformer.reads_tokens
        return read_by_second or "reencoded" in self.transport.reads

    @property
    def has_statistics(self) -> bool:
        """Whether the tokens' statistics are those of data: a new network's are 0 and 1."""
        return bool(self.token_mean.any() or (self.token_std != 1).any())

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation of every feature of z_Ω from data; a constant feature keeps its unit.

        Raises:
            TransporterError: If either is not (D,), not finite, or a deviation is negative.
        """
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.token_mean.shape or not value.isfinite().all():
                wanted = tuple(self.token_mean.shape)
                msg = f"token {name}: shape {tuple(value.shape)}; give finite values of shape {wanted}"
                raise TransporterError(msg)
        if (std < 0).any():
            msg = f"token std: {std.min():g} is negative; give standard deviations"
            raise TransporterError(msg)
        self.token_mean.copy_(mean)
        self.token_std.copy_(torch.where(std > 1e-6 * std.max(), std, 1.0))

    def standardise(self, tokens: Tensor) -> Tensor:
        """Tokens of any type → the network's own, with zero mean and unit variance per feature, (B, N, D)."""
        return (tokens.to(self.token_mean) - self.token_mean) / self.token_std

    def standardised(self, latents: Tensor, condition: Tensor, reencoded: Tensor | None = None) -> Coupled:
        """As ``forward``, with all tokens of the result standardised; what the loss compares."""
        self._check(latents, condition, reencoded)
        # the backbones may be of half precision, whatever Φ is of
        latents, condition = latents.to(self.token_mean), condition.to(self.token_mean)
        exact = None if reencoded is None else self.standardise(reencoded)
        first = None if self.mixer is None else self.mixer(latents, condition)
        second = None if self.transformer is None else self.transformer(latents, condition, exact)
        return Coupled(tokens=self.transport(*self._read(first, second, exact)), first=first, second=second)

    @torch.no_grad()
    def plan(self, coupled: Coupled, reencoded: Tensor | None = None) -> Tensor | None:
        """T̃ (B, N_i, N_j) to look at, ``None`` where the transport has none.

        Args:
            coupled: What ``standardised`` returned.
            reencoded: z_Ξ→Ω as it went in there.
        """
        exact = None if reencoded is None else self.standardise(reencoded)
        with full_precision(*self._read(coupled.first, coupled.second, exact)) as read:
            return self.transport.plan(*read)

    def _read(self, first: Tensor | None, second: Tensor | None, reencoded: Tensor | None) -> list[Tensor]:
        """What the transport reads, in its order."""
        made = {"first": first, "second": second, "reencoded": reencoded}
        return [tokens for name in self.transport.reads if (tokens := made[name]) is not None]

    def forward(self, latents: Tensor, condition: Tensor, reencoded: Tensor | None = None) -> Coupled:
        """Couple latents to the VLM's token space.

        Inputs may be of any floating-point type; what comes out is of the network's own.

        Args:
            latents: z_Ξ, (B, C, T', H', W').
            condition: π_Ξ, (B, L, D_c).
            reencoded: z_Ξ→Ω, (B, N, D); only where ``needs_reencoded``.

        Returns:
            ẑ1, ẑ2 and z̃ in the VLM's own units, (B, N, D).

        Raises:
            TransporterError: If a shape is not the one that the network was built for.
        """
        inner = self.standardised(latents, condition, reencoded)
        first, second = (None if x is None else self._own_units(x) for x in (inner.first, inner.second))
        return Coupled(tokens=self._own_units(inner.tokens), first=first, second=second)

    def _own_units(self, tokens: Tensor) -> Tensor:
        return tokens * self.token_std + self.token_mean

    def _check(self, latents: Tensor, condition: Tensor, reencoded: Tensor | None) -> None:
        if self.needs_reencoded and reencoded is None:
            msg = "reencoded: missing, but this network reads it; give E_Ω(D_Ξ(z_Ξ)), or use a Bridge"
            raise TransporterError(msg)
        for name, value, shape in (
            ("latents", latents, self.config.latent_shape),
            ("condition", condition, self.config.condition_shape),
            ("reencoded", reencoded, self.config.token_shape),
        ):
            if value is not None and tuple(value.shape[1:]) != tuple(shape):
                msg = (
                    f"{name}: shape {tuple(value.shape)}, but the network was built for (B, "
                    f"{', '.join(map(str, shape))}); use the backbones and the video geometry it was trained with"
                )
                raise TransporterError(msg)

    def save(self, folder: str | Path) -> None:
        """Write ``coupling.safetensors`` and ``config.json``; each file appears, or changes, only as a whole."""
        storage.write(folder, self.config, self.origin, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read a folder that ``save`` wrote.

        Raises:
            TransporterError: If the folder is missing or holds no coupling network.
        """
        config, origin, weights = storage.read(folder)
        network = cls(config)
        network.origin = origin
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            msg = f"coupling: the weights in {str(folder)!r} are not those of its config.json; write the folder anew"
            raise TransporterError(msg) from error
        return network


def _without_scalars(network: nn.Module) -> None:
    """Give scalar parameters, such as ς, one dimension, as scalars can't be sharded; older files hold them as such."""
    scalars = {name for name, parameter in network.named_parameters() if not parameter.ndim}
    for name in scalars:
        owner, _, own = name.rpartition(".")
        scalar = network.get_parameter(name)
        setattr(network.get_submodule(owner), own, nn.Parameter(scalar.detach().reshape(1), scalar.requires_grad))

    def read(_: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for name in scalars & {key.removeprefix(prefix) for key in state}:
            state[prefix + name] = state[prefix + name].reshape(1)

    network.register_load_state_dict_pre_hook(read)  # type: ignore[no-untyped-call]
