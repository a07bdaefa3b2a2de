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
from transporter_pl.samples import Coupled, Origin, TokenStatistics
from transporter_pl.transport import new_transport


class CouplingNetwork(nn.Module):
    """z̃ = OT(ẑ1, ẑ2) with ẑ1 = Φ_Ω1(z_Ξ, π_Ξ) and ẑ2 = Φ_Ω2(z_Ξ→Ω or z_Ξ) (TRANSPORTER, arXiv 2511.18359).

    Inside, tokens are standardised per feature, (z − token_mean) / token_std: a VLM's features differ in scale by
    orders of magnitude, and its largest ones would own the losses and the transport's projections.

    A token that is the same in every clip, such as Phi 4 MM's separators, is not learned but kept, in ẑ1, ẑ2 and z̃: a
    VLM takes its bearings from them, and one that was never shown others may not survive a small error there.

    Args:
        config: Shapes and options.
    """

    token_mean: Tensor
    token_std: Tensor
    token_fixed: Tensor
    token_values: Tensor

    def __init__(self, config: CouplingConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Origin | None = None
        count, width = config.token_shape
        self.transport = new_transport(config.transport, width, config.transport_options)
        self.mixer = CouplingMixer(config) if "first" in self.transport.reads else None
        self.transformer = CouplingTransformer(config) if "second" in self.transport.reads else None
        self.register_buffer("token_mean", torch.zeros(width))
        self.register_buffer("token_std", torch.ones(width))
        self.register_buffer("token_fixed", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("token_values", torch.zeros(count, width))
        _without_scalars(self)
        self.register_load_state_dict_pre_hook(_without_fixed)  # type: ignore[no-untyped-call]

    @property
    def needs_reencoded(self) -> bool:
        """Whether Φ_Ω2, or the transport itself, reads the re-encoded tokens."""
        read_by_second = self.transformer is not None and self.transformer.reads_tokens
        return read_by_second or "reencoded" in self.transport.reads

    @property
    def has_statistics(self) -> bool:
        """Whether the tokens' statistics are those of data: a new network's are 0 and 1."""
        return bool(self.token_mean.any() or (self.token_std != 1).any())

    def set_statistics(self, statistics: TokenStatistics) -> None:
        """Take from data what their tokens have in common.

        Raises:
            TransporterError: If one is of another shape, not finite, or a deviation not above 0.
        """
        own = {"mean": self.token_mean, "std": self.token_std, "fixed": self.token_fixed, "tokens": self.token_values}
        given = {name: getattr(statistics, name) for name in own}
        for name, value in given.items():
            if value is not None and (value.shape != own[name].shape or not value.isfinite().all()):
                wanted = tuple(own[name].shape)
                msg = f"token {name}: shape {tuple(value.shape)}; give finite values of shape {wanted}"
                raise TransporterError(msg)
        if (statistics.std <= 0).any():
            msg = f"token std: {statistics.std.min():g} is not above 0; a feature that never changes has 1"
            raise TransporterError(msg)
        for name, value in given.items():
            own[name].copy_(torch.zeros_like(own[name]) if value is None else value)
        self.token_values.copy_(self.standardise(self.token_values))  # as they are put in place in every step

    def standardise(self, tokens: Tensor) -> Tensor:
        """Tokens of any type → the network's own, with zero mean and unit variance per feature, (B, N, D)."""
        return (tokens.to(self.token_mean) - self.token_mean) / self.token_std

    def standardised(self, latents: Tensor, condition: Tensor, reencoded: Tensor | None = None) -> Coupled:
        """As ``forward``, with all tokens of the result standardised; what the loss compares."""
        self._check(latents, condition, reencoded)
        # the backbones may be of half precision, whatever Φ is of
        latents, condition = latents.to(self.token_mean), condition.to(self.token_mean)
        exact = None if reencoded is None else self.standardise(reencoded)
        first = None if self.mixer is None else self._kept(self.mixer(latents, condition))
        second = None if self.transformer is None else self._kept(self.transformer(latents, condition, exact))
        moved = self._kept(self.transport(*self._read(first, second, exact)))
        return Coupled(tokens=moved, first=first, second=second)

    def _kept(self, tokens: Tensor) -> Tensor:
        """Standardised tokens, with those that are the same in every clip in their places."""
        return torch.where(self.token_fixed[:, None], self.token_values.to(tokens.dtype), tokens)

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


def _without_fixed(network: CouplingNetwork, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Older files know of no token that is the same in every clip."""
    state.setdefault(f"{prefix}token_fixed", torch.zeros_like(network.token_fixed))
    state.setdefault(f"{prefix}token_values", torch.zeros_like(network.token_values))


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
