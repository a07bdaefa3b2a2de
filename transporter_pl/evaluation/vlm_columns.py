"""Columns that the VLM answers, what it says of the videos and how it sees them, and what drawing them cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from transporter_pl.evaluation.columns import Column, batches, real_clips
from transporter_pl.metrics.similarity import EmbeddingSimilarity
from transporter_pl.metrics.token_gain import TokenGain

if TYPE_CHECKING:
    from transporter_pl.evaluation.samples import Judged


class Token(Column):
    """P(token+): mean probability of the positive token for the videos' pixels, at the contrast."""

    label, better, decimals = "P(token⁺)", "up", 3

    def measure(self, judged: Judged) -> float:
        """In [0, 1]."""
        return judged.drawn.positive.float().mean().item()


class TokenChange(Column):
    """ΔP(token+), against the clips of ε− that the generator draws with the same seed; see ``metrics.token_gain``."""

    label, better, decimals = "ΔP(token⁺)", "up", 3

    def measure(self, judged: Judged) -> float:
        """In [-1, 1]."""
        metric = TokenGain()
        metric.update(judged.drawn.positive.cpu(), judged.drawn.start.cpu())
        return float(metric.compute())


class Similarity(Column):
    """One figure of z_Ω of the videos against z_Ω of the real clips of ε+; see ``metrics.similarity``."""

    figure: ClassVar[str]
    temperature: float = 1.0

    def measure(self, judged: Judged) -> float:
        """As the metric has it."""
        return _similarities(judged, self.temperature)[self.figure]


class Cosine(Similarity):
    """Cosine of the tokens."""

    figure, label, better, decimals = "cos", "cos", "up", 3


class L1(Similarity):
    """L1 distance of the tokens, relative to the real clip's."""

    figure, label, better, decimals = "l1", "l1", "down", 3
    note = "l1 and l2 are relative to the norm of the real clip's tokens"


class L2(Similarity):
    """L2 distance of the tokens, relative to the real clip's."""

    figure, label, better, decimals = "l2", "l2", "down", 3
    note = L1.note


class KL(Similarity):
    """KL(real ‖ generated) of the tokens' softmax over features, in nats.

    Args:
        temperature: Of the softmax.
    """

    figure, label, better, decimals = "kl", "KL", "down", 3

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = EmbeddingSimilarity(temperature).temperature  # which refuses a bad one

    @property
    def note(self) -> str:
        """Direction and temperature."""
        return f"KL(real ‖ generated) of the softmax over a token's features, temperature {self.temperature:g}"


class Seconds(Column):
    """Wall-clock time of drawing one video, training left out."""

    label, decimals = "s / video", 2  # nobody's is the best: what was trained before is not in it

    @property
    def note(self) -> str:
        """What is in it."""
        return "s / video: of drawing alone, without the training of Φ and bank, of an ascent that of its steps"

    def measure(self, judged: Judged) -> float:
        """Seconds."""
        return judged.drawn.seconds / len(judged.cases)


class Forwards(Column):
    """The VLM's forward passes that drawing one video took."""

    label, decimals = "forwards / video", 0

    @property
    def note(self) -> str:
        """What is in it."""
        return "forwards / video: the VLM's, of drawing alone, without the training of Φ and bank"

    def measure(self, judged: Judged) -> float:
        """All restarts together."""
        return judged.drawn.forwards


# the columns of one table ask one after the other; weak, so that no VLM is kept
_found: WeakKeyDictionary[Judged, dict[float, dict[str, float]]] = WeakKeyDictionary()


def _similarities(judged: Judged, temperature: float) -> dict[str, float]:
    known = _found.setdefault(judged, {})
    if temperature not in known:
        known[temperature] = _compared(judged, temperature)
    return known[temperature]


def _compared(judged: Judged, temperature: float) -> dict[str, float]:
    metric = EmbeddingSimilarity(temperature).to(judged.vlm.device)
    for drawn, real in batches(judged.vlm.device, judged.drawn.video, real_clips(judged)):
        metric.update(judged.vlm.encode(drawn), judged.vlm.encode(real))
    return {name: float(value) for name, value in metric.compute().items()}
