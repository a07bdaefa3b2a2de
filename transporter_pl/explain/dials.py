"""What a user turns: φ, and where in time and in the clip a concept acts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.explain.modulation import check_window

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Dial:
    """A concept of the bank at one strength, beside the pair whose φ is swept.

    Attributes:
        pair: "left:right".
        phi: φ: 0 leaves ε− as it is, 1 is the positive word, negative values move away from it.
        window: (low, high): it acts while low ≤ t ≤ high; sampling runs from t = 1 (noise) to 0.
        span: The frames it acts on, "2-6" (both included) or "0.25s-0.75s"; ``None`` is the whole clip.
        ramp: Over which its weight rises before the span and falls after it: "2" (frames) or "0.25s".

    Raises:
        TransporterError: If the pair is not two words, φ is not finite, or the window leaves [0, 1].
    """

    pair: str
    phi: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    span: str | None = None
    ramp: str = "0"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pair", Pair.parse(self.pair).name)
        object.__setattr__(self, "window", tuple(self.window))
        if not math.isfinite(self.phi):
            msg = f"phi: {self.phi} of {self.pair} is not finite; give a number, 0 for ε− and 1 for ε+"
            raise TransporterError(msg)
        check_window(self.window)

    def settings(self) -> list[tuple[str, str]]:
        """Where it acts, in words, as far as that is not everywhere."""
        low, high = self.window
        window = [("window", f"{low:g} ≤ t ≤ {high:g}")] if self.window != (0, 1) else []
        ramp = "" if self.ramp == "0" else f", ramp {self.ramp}"
        return [*window, *([("frames", f"{self.span}{ramp}")] if self.span else [])]

    def shown(self) -> str:
        """φ and where it acts, in words."""
        return ", ".join([f"φ = {self.phi:g}", *(f"{name} {value}" for name, value in self.settings())])


def check_phi(phi: Sequence[float]) -> None:
    """Refuse a sweep that can't be drawn.

    Raises:
        TransporterError: If there is no φ, one is not finite, or one comes twice.
    """
    shown = " ".join(f"{value:g}" for value in phi)
    if not len(phi) or not all(map(math.isfinite, phi)):
        msg = f"phi: {shown or 'no value'}; give finite numbers, 0 for the first word and 1 for the second"
        raise TransporterError(msg)
    if len({f"{value:g}" for value in phi}) < len(phi):
        msg = f"phi: {shown} holds a value twice; give each once"
        raise TransporterError(msg)


def check_dials(bank: ConceptBank, pair: Pair, also: Sequence[Dial]) -> None:
    """Refuse concepts that the bank does not hold, and one that is turned twice.

    Raises:
        TransporterError: If so.
    """
    names = [bank[name].pair.name for name in (pair.name, *(dial.pair for dial in also))]
    for name in names:
        if names.count(name) > 1:
            msg = f"also: {name!r} is turned twice; give each concept one dial"
            raise TransporterError(msg)


def beyond(bank: ConceptBank, pair: str, phi: float) -> str | None:
    """A warning where φ goes beyond 1 and beyond what the bank's own calibration says the concept can do."""
    calibration = bank[pair].calibration
    limit = None if calibration is None else calibration.saturation
    if limit is None or phi <= max(1.0, limit):
        return None
    return (
        f"φ = {phi:g} goes beyond φ = {limit:g}, where {pair} saturated when it was trained: further on, "
        "other things may move, and not the VLM's answer"
    )
