"""What travels through an evaluation: the cases, what a method drew for them, and what may be looked at to judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transporter_pl.concepts.pairs import Pair

if TYPE_CHECKING:
    from torch import Tensor

    from transporter_pl.adapters import VLMAdapter
    from transporter_pl.evaluation.cases import ReferenceClips


@dataclass(frozen=True)
class Case:
    """One contrast in one scene, and the real clip that shows how its positive caption looks.

    Attributes:
        pair: The two words.
        context: The caption with a slot for them.
        id: Name of the real clip.
        real: The real clip of ε+, (T, 3, H, W) in [0, 1].
    """

    pair: Pair
    context: str
    id: str
    real: Tensor

    @property
    def captions(self) -> tuple[str, str]:
        """ε− and ε+ in words."""
        return self.pair.captions(self.context)


@dataclass(frozen=True)
class Drawn:
    """What one method drew for K cases with one seed, and what the VLM says of it.

    Attributes:
        video: (K, T, 3, H, W) in [0, 1].
        captions: The VLM's captions of them: through Φ where the method has one, otherwise of the pixels.
        positive: P(token+) of the videos' pixels, (K,).
        start: P(token+) of the pixels of the K clips of ε− that the generator draws with the same seed, (K,).
        seconds: Wall-clock time of the drawing, training left out.
        forwards: The VLM's forward passes a video, all restarts together; 0 for what asks no VLM to draw.
    """

    video: Tensor
    captions: tuple[str, ...]
    positive: Tensor
    start: Tensor
    seconds: float
    forwards: int


@dataclass(frozen=True)
class Judged:
    """Everything that a column of a table may look at, of one method, VLM and seed.

    Attributes:
        cases: The K cases.
        drawn: What was drawn for them.
        start: The clips of ε− that the generator draws with the same seed, (K, T, 3, H, W); the same for all methods.
        references: Real clips that are none of the cases'; ``references.batches`` reads them, a few at a time.
        vlm: The VLM that is explained.
    """

    cases: tuple[Case, ...]
    drawn: Drawn
    start: Tensor
    references: ReferenceClips
    vlm: VLMAdapter
