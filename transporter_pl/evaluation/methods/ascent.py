"""The baselines as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from transporter_pl.baselines.references import NATURAL, References
from transporter_pl.concepts.pairs import Pair
from transporter_pl.evaluation.methods.base import Method
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.evaluation.studio import Studio
from transporter_pl.files import delete
from transporter_pl.stages.alone import digest_of, train_alone
from transporter_pl.stages.baseline import BaselineStage

SEEDS = 1_000_000  # seeds of starts from one seed of the table to the next


class PixelAscent(Method):
    """Draws by a baseline.

    Where one looks at clips, they are the case's real clip of ε+, the clip of ε− that the generator draws, and the
    reference clips.

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
        self.arguments: dict[str, Any] = {
            **{"baseline": baseline, "options": dict(options or {}), "objective": objective},
            **{"forwards": forwards, "restarts": restarts},
        }

    def check(self, explained: Explained, setup: Setup) -> None:
        """Refuse what the stage refuses.

        Raises:
            TransporterError: If so.
        """
        super().check(explained, setup)
        BaselineStage(explained.vlm, setup.video, [Pair("no", "yes", ("{}",))], **self.arguments)

    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """The best restart of every case, so many cases at once that their restarts are a batch."""
        starts, videos, seconds, forwards, folders = studio.starts(cases, seed), [], 0.0, 0, []
        for rows in torch.split(torch.arange(len(cases)), max(1, studio.batch_size // self.restarts)):
            some = [cases[row] for row in rows.tolist()]
            stage = self._stage(studio, some, starts[rows], SEEDS * seed + int(rows[0]))
            folders.append(folder / digest_of(dict(stage.hparams)))
            seconds += train_alone(stage, folders[-1], studio.device)[0]
            videos.append(stage.reached.video.float().cpu())
            forwards = stage.forwards
        drawn = studio.drawn(torch.cat(videos), cases, seed, seconds, forwards)
        for part in folders:
            delete(part)
        return drawn

    def _stage(self, studio: Studio, cases: list[Case], starts: Tensor, seed: int) -> BaselineStage:
        """The drawing of some cases; a case has the same start however many are drawn at once."""
        pairs: list[Pair | str] = [replace(case.pair, contexts=(case.context,)) for case in cases]
        stage = BaselineStage(studio.explained.vlm, studio.video, pairs, seed=seed, **self.arguments)
        real = torch.stack([case.real for case in cases])
        stage.ask(studio.vlm, References(starts, real, studio.references[:NATURAL]))
        return stage
