"""What an explanation is asked for; all that can be told before a model is loaded is checked here."""

from __future__ import annotations

from dataclasses import dataclass

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.dials import SWEEP, Dial, beyond, check_dials, check_phi
from transporter_pl.explain.modulation import check_window
from transporter_pl.explain.spans import check_span
from transporter_pl.explain.starting import Start, check_start
from transporter_pl.samples import VideoSpec


@dataclass(frozen=True)
class Request:
    """A sweep of φ for one pair; the fields are ``Explainer.explain``'s arguments.

    Attributes:
        caption: A caption with the pair's negative word, or with the slot {} in its place; ``None`` takes the pair's
            own where it was written as a template, then the VLM's of a clip, then the first that was learned.
        pair: The pair that is swept.
        phi: The φ values.
        seed: Seed of the noise.
        steps: Denoising steps.
        guidance: Guidance scale; ``None`` takes the generator's own.
        prompt: The question; ``None`` takes the VLM's own.
        window: Times in which the pair acts.
        span: Frames that it acts on.
        ramp: How its weight rises before the span and falls after it.
        also: Other concepts.
        start: How a clip is begun with.
        depth: How far back towards noise.
        batch_size: Videos at once.

    Raises:
        TransporterError: If φ, window, start, depth or a count is wrong.
    """

    caption: str | None
    pair: Pair
    phi: tuple[float, ...] = SWEEP
    seed: int = 0
    steps: int = 20
    guidance: float | None = None
    prompt: str | None = None
    window: tuple[float, float] = (0.0, 1.0)
    span: str | None = None
    ramp: str = "0"
    also: tuple[Dial, ...] = ()
    start: Start = "noised"
    depth: float = 0.8
    batch_size: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "phi", tuple(float(value) + 0.0 for value in self.phi))  # -0 is 0
        object.__setattr__(self, "also", tuple(self.also))
        if self.caption is None and self.pair.contexts:
            object.__setattr__(self, "caption", self.pair.contexts[0])
        check_counts(steps=self.steps, guidance=self.guidance, batch_size=self.batch_size)
        check_phi(self.phi)
        check_start(self.start, self.depth)
        check_window(self.window)

    @property
    def main(self) -> Dial:
        """Where the pair that is swept acts, at φ = 1."""
        return Dial(self.pair.name, 1.0, self.window, self.span, self.ramp)

    @property
    def swept(self) -> tuple[float, ...]:
        """The φ values that are drawn: 0 comes last where it is not among those asked for."""
        return self.phi if 0 in self.phi else (*self.phi, 0.0)

    def check(self, bank: ConceptBank, video: VideoSpec, from_clip: bool) -> None:
        """Compare it with what there is.

        Args:
            bank: The concepts.
            video: Geometry of the videos.
            from_clip: Whether there is a clip, of which the VLM can say a caption.

        Raises:
            TransporterError: If the bank lacks a pair or has no caption, a concept is turned twice, a span lies beyond
                the clip, or the caption lacks the word.
        """
        check_dials(bank, self.pair, self.also)
        for dial in (self.main, *self.also):
            check_span(dial.span, dial.ramp, video)
        if self.caption is not None:
            self.pair.context(self.caption)
        elif not from_clip and not bank[self.pair].pair.contexts:
            name, word = self.pair.name, self.pair.negative
            msg = f"caption: the bank holds no caption for {name!r}; give one with the word {word!r}"
            raise TransporterError(msg)

    def warnings(self, bank: ConceptBank) -> tuple[str, ...]:
        """What to know before believing the result: each φ beyond what its concept can do."""
        asked = [(self.pair.name, max(self.phi)), *((dial.pair, dial.phi) for dial in self.also)]
        return tuple(filter(None, (beyond(bank, name, phi) for name, phi in asked)))

    @property
    def fields(self) -> int:
        """Velocities of each clip in a step, at most: its own, that of the empty caption, one for each span."""
        return 2 + len({(dial.span, dial.ramp) for dial in (self.main, *self.also) if dial.span})

    def settings(self, from_clip: bool) -> list[tuple[str, str]]:
        """Names and values, as far as they are not in the captions and φ."""
        also = [(f"also {dial.pair}", dial.shown()) for dial in self.also]
        clip = [("from a clip", f"{self.start}, depth {self.depth:g}")] if from_clip else []
        own = [(name, f"{value}") for name, value in (("guidance", self.guidance), ("prompt", self.prompt)) if value]
        return [("steps", str(self.steps)), *own, *self.main.settings(), *also, *clip]


def as_pair(pair: str | tuple[str, str] | Pair) -> Pair:
    """The pair of "left:right" or of a template, of two words, or itself.

    Raises:
        TransporterError: If it is not two words.
    """
    if isinstance(pair, Pair):
        return pair
    return Pair.parse(pair) if isinstance(pair, str) else Pair(*pair)
