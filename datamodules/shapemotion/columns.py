"""Columns that need no model: the reader sees in the pixels what the world's words say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import FACTORS, factor_of
from transporter_pl.evaluation.columns import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from transporter_pl.evaluation.samples import Case, Judged


class ReadsPositive(Column):
    """Share of the videos in which the reader sees one whole object, with the positive word of the case's pair."""

    label, better, decimals = "shows ε+", "up", 2

    def measure(self, judged: Judged) -> float:
        """In [0, 1]."""
        seen = read(judged.drawn.video)
        columns, positive = _targets(judged.cases)
        shown = seen.words.gather(1, columns.to(seen.words.device))[:, 0].cpu() == positive
        return (shown & seen.whole.cpu()).float().mean().item()


class Whole(Column):
    """Share of the videos in which the reader sees one whole object."""

    label, better, decimals = "whole", "up", 2

    def measure(self, judged: Judged) -> float:
        """In [0, 1]."""
        return read(judged.drawn.video).whole.float().mean().item()


class Kept(Column):
    """Share of the other factors, those that the pair does not name, that read as in the clip of ε−."""

    label, better, decimals = "kept", "up", 2

    def measure(self, judged: Judged) -> float:
        """In [0, 1]."""
        same = read(judged.drawn.video).words == read(judged.start).words
        columns, _ = _targets(judged.cases)
        others = torch.ones_like(same).scatter(1, columns.to(same.device), False)
        return same[others].float().mean().item()


def _targets(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """Column (K, 1) of each case's factor in ``Reading.words``, and its positive word there (K,).

    Raises:
        TransporterError: If a pair is not two words of one factor.
    """
    found = [factor_of(case.pair.name) for case in cases]
    columns = torch.tensor([list(FACTORS).index(factor) for factor, _, _ in found])
    return columns[:, None], torch.tensor([positive for _, _, positive in found])
