"""The real clips of ε+, measured as if they had been drawn."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from transporter_pl.evaluation.methods.base import Method
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.studio import Studio


class Real(Method):
    """Gives every case its own real clip: what the columns say of what nobody drew."""

    reference: ClassVar[bool] = True

    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """The clips, (K, T, 3, H, W)."""
        return studio.drawn(torch.stack([case.real for case in cases]), cases, seed, seconds=0.0)
