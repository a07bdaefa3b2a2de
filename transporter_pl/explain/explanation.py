"""What an explanation holds, and how it shows itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair


@dataclass(frozen=True)
class Reading:
    """What the VLM says about the P videos of a sweep, by one route.

    Attributes:
        captions: Its captions.
        negative: P(token−), the probability of the negative word's token at the contrast, (P,).
        positive: P(token+), (P,).
        divergence: Δϑ from the video of φ = 0, (P,).
    """

    captions: tuple[str, ...]
    negative: Tensor
    positive: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class Answer:
    """What the VLM says about one video, by one route.

    Attributes:
        caption: Its caption.
        negative: P(token−).
        positive: P(token+).
        divergence: Δϑ from the video of φ = 0.
    """

    caption: str
    negative: float
    positive: float
    divergence: float


@dataclass(frozen=True)
class Sample:
    """One video of a sweep.

    Attributes:
        phi: φ.
        video: (T, 3, H, W) in [0, 1].
        coupled: What the VLM says of its latents, through Φ.
        reencoded: What it says of its pixels.
        elsewhere: How much else changed from φ = 0, see ``explain.preservation``.
    """

    phi: float
    video: Tensor
    coupled: Answer
    reencoded: Answer
    elsewhere: float


@dataclass(frozen=True)
class Explanation:
    """A sweep of φ for one pair, caption and seed.

    Attributes:
        pair: The words.
        context: The caption, with a slot where the pair's words belong.
        seed: Seed of the noise, the same for every φ.
        phi: The φ values, (P,).
        video: D_Ξ(z), (P, T, 3, H, W) in [0, 1].
        coupled: The VLM's reading through Φ.
        reencoded: Its reading of the decoded videos, encoded again.
        elsewhere: How much else changed from φ = 0, (P,), see ``explain.preservation``.
        calibration: What the dial did, over all φ that were drawn, 0 among them.
        fps: Frames per second.
        made_with: Names and values: generator, VLM, other concepts.
        warnings: What to know before believing it.
    """

    pair: Pair
    context: str
    seed: int
    phi: Tensor
    video: Tensor
    coupled: Reading
    reencoded: Reading
    elsewhere: Tensor
    calibration: Calibration
    fps: float
    made_with: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line, without tensors."""
        phi = " ".join(f"{value:g}" for value in self.phi.tolist())
        return f"<{self.pair.name}, φ = {phi}: {self.sentence}>"

    @property
    def caption(self) -> str:
        """The caption of ε−, with the negative word."""
        return self.pair.captions(self.context)[0]

    @property
    def sentence(self) -> str:
        """Did it move? In one plain sentence."""
        return self.calibration.sentence(self.pair)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The videos one by one."""
        columns = (
            self.phi.tolist(),
            self.video,
            _answers(self.coupled),
            _answers(self.reencoded),
            self.elsewhere.tolist(),
        )
        return tuple(Sample(*row) for row in zip(*columns, strict=True))

    def save(self, folder: str | Path) -> Path:
        """Write mp4s, pictures, figures as JSON and the page that shows it all.

        Args:
            folder: Made if it is not there; videos of an earlier explanation in it go.

        Returns:
            The page.
        """
        from transporter_pl.report.folder import write_report

        return write_report(folder, self)

    def filmstrip(self, path: str | Path = "filmstrip.png") -> Path:
        """Write the sweep as one picture, φ down and time across; png, svg or pdf by the ending."""
        from transporter_pl.report.filmstrip import filmstrip

        filmstrip(path, self.video, self.phi.tolist(), self.fps)
        return Path(path)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from transporter_pl.report.notebook import notebook_html

        return notebook_html(self)


def _answers(reading: Reading) -> Iterator[Answer]:
    numbers = (getattr(reading, name).tolist() for name in ("negative", "positive", "divergence"))
    return (Answer(*row) for row in zip(reading.captions, *numbers, strict=True))
