"""What the generator itself draws of ε+, the VLM unasked."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from transporter_pl.evaluation.methods.base import Method
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.studio import Studio


class Generator(Method):
    """Samples ε+ with the noise that the clip of ε− is sampled with: how far words alone can take the generator."""

    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """The videos, (K, T, 3, H, W)."""
        studio.generator  # noqa: B018  (loaded before the clock starts, also where the clips of ε− lie in their file)
        studio.starts(cases, seed)
        begun = perf_counter()
        condition = studio.conditions([case.captions[1] for case in cases])
        video = studio.decode(studio.sample(condition, seed))
        return studio.drawn(video, cases, seed, seconds=perf_counter() - begun)
