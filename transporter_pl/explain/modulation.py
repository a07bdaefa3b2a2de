"""How concepts move the generator: strength, time window and frames, any number of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError


@dataclass(frozen=True)
class Modulation:
    """One concept vector q at strength φ, and where it acts.

    Attributes:
        vector: q, (L, D_c) or (D_c,), or one for each of B clips, (B, L, D_c).
        phi: φ, a number or one for each of B clips, (B,). Any finite value: 0 leaves ε− as it is, 1 is the positive
            word, negative values move away from it.
        window: (low, high): the concept acts while low ≤ t ≤ high. Sampling runs from t = 1 (noise) to 0, so
            (0.7, 1) moves the large scale and (0, 0.3) the detail.
        frames: Weight in [0, 1] of every latent frame, T' numbers, that blends the velocity without the concept (0)
            and with it (1); ``None`` moves all frames through the condition alone.

    Raises:
        TransporterError: If φ is not finite, the window is empty or leaves [0, 1], or a frame weight leaves [0, 1].
    """

    vector: Tensor
    phi: Tensor | float
    window: tuple[float, float] = (0.0, 1.0)
    frames: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        phi = torch.as_tensor(self.phi)
        if not bool(phi.isfinite().all()):
            msg = f"phi: {phi.tolist()} is not finite; give finite numbers, 0 for ε− and 1 for ε+"
            raise TransporterError(msg)
        check_window(self.window)
        if self.frames is not None and not all(0 <= weight <= 1 for weight in self.frames):
            msg = f"frames: {self.frames} leaves [0, 1]; give one weight in [0, 1] for every latent frame"
            raise TransporterError(msg)

    def acts(self, t: float) -> bool:
        """Whether t lies in the window."""
        low, high = self.window
        return low <= t <= high

    def of(self, rows: Tensor) -> Modulation:
        """The concept for some of the clips."""
        phi = torch.as_tensor(self.phi)
        vector = self.vector[rows] if self.vector.ndim > 2 else self.vector
        return replace(self, vector=vector, phi=phi[rows] if phi.ndim else phi)

    def key(self, row: int) -> tuple[float, int]:
        """What tells one clip from another as far as the concept is concerned."""
        phi = torch.as_tensor(self.phi)
        return float(phi[row] if phi.ndim else phi), row if self.vector.ndim > 2 else 0


def check_window(window: tuple[float, float]) -> None:
    """Refuse a window that is empty, or leaves [0, 1].

    Raises:
        TransporterError: If so.
    """
    if not (len(window) == 2 and 0 <= window[0] <= window[1] <= 1):
        shown = " ".join(f"{value:g}" for value in window)
        msg = f"window: {shown} is no part of [0, 1]; give (low, high) with 0 ≤ low ≤ high ≤ 1, t running from 1 "
        raise TransporterError(msg + "(noise) to 0")


def modulate(condition: Tensor, modulations: Sequence[Modulation]) -> Tensor:
    """ε− + Σ_o φ_o q_o (the paper's inference), wherever and whenever the concepts act.

    Args:
        condition: ε−, (B, L, D_c).
        modulations: The concepts.

    Returns:
        (B, L, D_c).
    """
    for m in modulations:
        phi = torch.as_tensor(m.phi).to(condition).reshape(-1, 1, 1)
        condition = condition + phi * m.vector.to(condition)
    return condition


@dataclass(frozen=True)
class Layers:
    """The conditions whose velocity fields one denoising step blends.

    Attributes:
        conditions: The base, then one for each distinct set of frame weights, (B, L, D_c) each.
        weights: The frame weights of each condition after the base, T' numbers each.
    """

    conditions: tuple[Tensor, ...]
    weights: tuple[tuple[float, ...], ...]

    @classmethod
    def at(cls, t: float, condition: Tensor, modulations: Sequence[Modulation]) -> Layers:
        """The layers of the concepts that act at time t.

        Concepts without frame weights move the base. Those that share their frame weights share a layer, which stands
        upon the base.
        """
        active = [m for m in modulations if m.acts(t)]
        base = modulate(condition, [m for m in active if m.frames is None])
        weights = tuple(dict.fromkeys(m.frames for m in active if m.frames is not None))
        upon = (modulate(base, [m for m in active if m.frames == w]) for w in weights)
        return cls((base, *upon), weights)

    def blend(self, velocities: Sequence[Tensor]) -> Tensor:
        """Blend the velocities: v = v_0 + Σ_k w_k (v_k − v_0), w_k along the frames.

        One layer of weight 0 or 1 is v_0 or v_1; layers on different frames don't touch each other; where layers
        overlap, their changes add up.

        Args:
            velocities: One field a condition, (B, C, T', H', W') each.
        """
        base, *upon = velocities
        velocity = base
        for weights, field in zip(self.weights, upon, strict=True):
            velocity = velocity + base.new_tensor(weights)[:, None, None] * (field - base)
        return velocity


def check_frames(modulations: Sequence[Modulation], frames: int) -> None:
    """Compare every concept's frame weights with the number of latent frames T'.

    Raises:
        TransporterError: If their number differs.
    """
    for m in modulations:
        if m.frames is not None and len(m.frames) != frames:
            msg = f"frames: {len(m.frames)} weights for {frames} latent frames; give {frames}"
            raise TransporterError(msg)


def check_rows(modulations: Sequence[Modulation], rows: int) -> None:
    """Compare what concepts have for each clip with the number of clips B.

    Raises:
        TransporterError: If there are φ or vectors for another number of clips.
    """
    for m in modulations:
        phi = torch.as_tensor(m.phi)
        counts = {"phi": len(phi) if phi.ndim else rows, "vector": len(m.vector) if m.vector.ndim > 2 else rows}
        for name, count in counts.items():
            if count != rows:
                msg = f"{name}: {count} for {rows} clips; give one for each, or a single one for all"
                raise TransporterError(msg)
