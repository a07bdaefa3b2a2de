"""Does the number on the dial mean anything? What a sweep of φ did to the VLM's answer, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import correlation, fmean
from typing import Self

from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError

MOVED = 0.1  # Hellinger's Δϑ of a word that comes from nothing to 2 %, or goes from 50 to 64 %
GAIN = 0.05  # share of the largest Δϑ that is no gain
SURE = 0.5  # probability from which the VLM is said to say a word
SAME = 4  # decimals in which probabilities that are the same agree; what differs beyond is rounding


@dataclass(frozen=True)
class Calibration:
    """What the VLM says along a sweep of φ, the noise held; all fields have one number for each of P values of φ.

    Two routes lead to its answer, independent of each other: through Φ, and by decoding and encoding again.

    Attributes:
        phi: The φ values, ascending, 0 among them.
        negative: P(token−) through Φ, in [0, 1].
        positive: P(token+) through Φ, in [0, 1].
        coupled: Hellinger's Δϑ from the video of φ = 0, through Φ, in [0, 1].
        reencoded: The same, decoded and encoded again.
        elsewhere: How much else of the video of φ = 0 changed, see ``explain.preservation``; 0 is nothing.

    Raises:
        TransporterError: If φ is not ascending, lacks 0, or a field has another length.
    """

    phi: tuple[float, ...]
    negative: tuple[float, ...]
    positive: tuple[float, ...]
    coupled: tuple[float, ...]
    reencoded: tuple[float, ...]
    elsewhere: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            object.__setattr__(self, name, tuple(float(value) for value in values))
            if len(values) != len(self.phi):
                msg = f"calibration: {len(values)} values of {name} for {len(self.phi)} of φ; give one for each"
                raise TransporterError(msg)
        if 0 not in self.phi or list(self.phi) != sorted(set(self.phi)):
            msg = f"calibration: φ is {_shown(self.phi)}; give each value once, in ascending order, with 0 among them"
            raise TransporterError(msg)

    @classmethod
    def mean(cls, several: Sequence[Calibration]) -> Calibration:
        """The mean of calibrations of one sweep: over seeds, contexts or pairs.

        Raises:
            TransporterError: If there is none, or their φ differ.
        """
        sweeps = {c.phi for c in several}
        if len(sweeps) != 1:
            shown = " and ".join(map(_shown, sorted(sweeps))) or "none"
            msg = f"calibration: a mean of sweeps over φ = {shown}; give sweeps over the same values"
            raise TransporterError(msg)
        columns = {f.name: zip(*(getattr(c, f.name) for c in several), strict=True) for f in fields(cls)}
        return cls(**{name: tuple(fmean(values) for values in rows) for name, rows in columns.items()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> Self:
        """The inverse of ``as_dict``."""
        return cls(**{name: tuple(column) for name, column in values.items()})

    def as_dict(self) -> dict[str, list[float]]:
        """The fields as lists, for JSON."""
        return {name: list(column) for name, column in asdict(self).items()}

    @property
    def monotonicity(self) -> float:
        """Spearman's ρ of φ and P(token+) − P(token−), in [−1, 1]; 0 where nothing changes.

        1 says that every turn of the dial brings the VLM nearer to the positive word. Differences below 1e-4 are ties.
        """
        contrast = [round(p - n, SAME) for p, n in zip(self.positive, self.negative, strict=True)]
        return correlation(_ranks(self.phi), _ranks(contrast)) if len(set(contrast)) > 1 else 0.0

    @property
    def saturation(self) -> float | None:
        """The smallest φ > 0 from which Δϑ through Φ never gains more than 5 % of its largest value at any φ > 0.

        ``None`` where that is the last φ alone, as Δϑ still gained on the way to it, and where nothing moved through Φ.
        """
        above = [(phi, moved) for phi, moved in zip(self.phi, self.coupled, strict=True) if phi > 0]
        most = max((moved for _, moved in above), default=0.0)
        if most < MOVED:
            return None
        for index, (phi, moved) in enumerate(above[:-1]):
            if max(later for _, later in above[index:]) - moved <= GAIN * most:
                return phi
        return None

    @property
    def moved(self) -> bool:
        """Whether Δϑ reaches 0.1 at some φ by both routes, through Φ and decoded and encoded again."""
        return max(map(min, self.coupled, self.reencoded)) >= MOVED

    def sentence(self, pair: Pair) -> str:
        """What the sweep of a pair did, in one plain sentence."""
        coupled = max(self.coupled)
        if not self.moved:
            where = self.phi.index(self._where_most())
            already = self.positive[self.phi.index(0)] > SURE
            said = f" The VLM says “{pair.positive}” already at φ = 0." if already else ""
            return _not_moved(pair, self.coupled[where], self.reencoded[where], self.phi[where]) + said
        if self.monotonicity <= 0:
            return (
                f"{pair.name} moved the VLM's answer by {coupled:.2f} (of at most 1), but not towards "
                f"“{pair.positive}”: P(“{pair.positive}”) − P(“{pair.negative}”) does not grow with φ."
            )
        if max(self.positive) - self.positive[self.phi.index(0)] < GAIN:
            return (
                f"{pair.name} moved the VLM's answer by {coupled:.2f} (of at most 1), but not to “{pair.positive}”: "
                f"P(“{pair.positive}”) is at most {max(self.positive):.2f}."
            )
        limit = "" if self.saturation is None else f", and Δϑ grows no more beyond φ = {self.saturation:g}"
        return (
            f"{pair.name} moved the VLM's answer: P(“{pair.positive}”) goes from {self.positive[0]:.2f} to "
            f"{self.positive[-1]:.2f} as φ goes from {self.phi[0]:g} to {self.phi[-1]:g}{limit}."
        )

    def _where_most(self) -> float:
        """The φ of the largest Δϑ of both routes; the one furthest from 0 where several have it."""
        either = map(max, self.coupled, self.reencoded)
        return max(zip(either, map(abs, self.phi), self.phi, strict=True))[-1]


def _not_moved(pair: Pair, coupled: float, reencoded: float, where: float) -> str:
    """The sentence of a concept that did not move the VLM's answer by both routes."""
    if coupled >= MOVED:
        said = f"Φ reads a change that the decoded video does not show (Δϑ {coupled:.2f} against {reencoded:.2f}"
        return f"{pair.name} moved one route alone: {said}, of at most 1)."
    if reencoded >= MOVED:
        said = f"the decoded video shows a change that Φ does not read (Δϑ {reencoded:.2f} against {coupled:.2f}"
        return f"{pair.name} moved one route alone: {said}, of at most 1)."
    most = max(coupled, reencoded)
    return f"{pair.name} did nothing: at φ = {where:g} the VLM's answer is {most:.2f} from where it was (of at most 1)."


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; ties share the mean of theirs."""
    return [(sum(v < value for v in values) + sum(v <= value for v in values) + 1) / 2 for value in values]


def _shown(phi: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in phi) or "empty"
