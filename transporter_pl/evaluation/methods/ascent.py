"""The baselines as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from transporter_pl.baselines.base import Canvas, check_baseline, new_baseline
from transporter_pl.baselines.references import NATURAL, References
from transporter_pl.concepts.pairs import Pair
from transporter_pl.evaluation.methods.base import WORK, Method
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.evaluation.studio import Studio
from transporter_pl.files import delete
from transporter_pl.options import resolved
from transporter_pl.stages.alone import digest_of, train_alone
from transporter_pl.stages.baseline import BaselineStage

SEEDS = 1_000_000  # seeds of starts from one seed of the table to the next


class PixelAscent(Method):
    """Draws by a baseline.

    Where one looks at clips, they are those of ε− and of ε+ that the generator draws with the same seed, and the
    reference clips; nobody is shown the case's real clip, which the table holds drawn ones against.

    Args:
        baseline: Registered name of the baseline, or class path.
        objective: ``positive``: max ϑ+; ``moved``: ϑ− + Δϑ.
        forwards: Budget of the VLM's forward passes a video, all restarts together.
        restarts: How often each video is begun anew.
        options: The baseline's own.

    Raises:
        TransporterError: If a name, an option or a count is wrong.
    """

    def __init__(
        self,
        baseline: str,
        objective: Literal["positive", "moved"] = "positive",
        forwards: int = 512,
        restarts: int = 2,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.restarts = restarts
        self.baseline, self.options = baseline, dict(options or {})
        self.arguments: dict[str, Any] = {"baseline": baseline, "options": self.options, "objective": objective}
        self.arguments |= {"forwards": forwards, "restarts": restarts}

    def check(self, explained: Explained, setup: Setup) -> None:
        """Refuse what the stage refuses.

        Raises:
            TransporterError: If so.
        """
        super().check(explained, setup)
        BaselineStage(explained.vlm, setup.video, [Pair("no", "yes", ("{}",))], **self.arguments)
        any_clip = Canvas(setup.video, (0,)).noise().sigmoid()  # the options are what is held against it
        canvas = Canvas(setup.video, (0,), any_clip, any_clip, patch_size=(16, 16))  # a VLM is not loaded for it
        new_baseline(self.baseline, canvas, self.options)

    def settings(self, setup: Setup) -> dict[str, Any]:
        """All options of the baseline, those that were not given too."""
        return {"baseline": resolved(check_baseline(self.baseline, self.options), self.options)}

    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """The best restart of every case, so many cases at once that their restarts are a batch."""
        clips, videos, seconds, forwards = self._clips(studio, cases, seed), [], 0.0, 0
        for rows in torch.split(torch.arange(len(cases)), max(1, studio.batch_size // self.restarts)):
            some = [cases[row] for row in rows.tolist()]
            stage = self._stage(studio, some, SEEDS * seed + int(rows[0]))
            stage.ask(studio.vlm, clips.part(rows))
            work = folder / WORK / digest_of({**stage.hparams, "cases": [case.id for case in some]})
            seconds += train_alone(stage, work, studio.device)[0]
            videos.append(stage.reached.video.float().cpu())
            forwards = stage.forwards
        drawn = studio.drawn(torch.cat(videos), cases, seed, seconds, forwards)
        delete(folder / WORK)
        return drawn

    def _stage(self, studio: Studio, cases: list[Case], seed: int) -> BaselineStage:
        """The drawing of some cases; a case has the same start however many are drawn at once."""
        pairs: list[Pair | str] = [replace(case.pair, contexts=(case.context,)) for case in cases]
        return BaselineStage(studio.explained.vlm, studio.video, pairs, seed=seed, **self.arguments)

    def _clips(self, studio: Studio, cases: tuple[Case, ...], seed: int) -> References:
        """What the baseline or its objective looks at, and nothing else."""
        kind, moved = check_baseline(self.baseline, self.options), self.arguments["objective"] == "moved"
        return References(
            studio.starts(cases, seed) if moved else None,
            studio.ends(cases, seed) if moved or kind.needs_stimulus else None,
            studio.natural(NATURAL) if kind.needs_natural else None,
        )
