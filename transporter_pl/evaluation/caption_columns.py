"""How near the VLM's captions of the videos are to ε+, the captions that they were drawn for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from transporter_pl.evaluation.columns import Column, fed, wanted
from transporter_pl.evaluation.encoders import text_encoder
from transporter_pl.metrics.captions import BLEU4, METEOR, SPICE, CaptionCosine, CIDErD
from transporter_pl.metrics.encoders import text_encoders

if TYPE_CHECKING:
    from torchmetrics import Metric

    from transporter_pl.evaluation.samples import Judged


class CaptionCos(Column):
    """Cosine of the captions' embeddings.

    Args:
        encoder: Registered name or class path of the encoder of texts.
        path: Its weights; by default its own.
    """

    label, better, decimals = "caption cos", "up", 3

    def __init__(self, encoder: str = "clip", path: str | None = None) -> None:
        self.kind, self.name, self.path = text_encoders.get(encoder), encoder, path

    @property
    def note(self) -> str:
        """The encoder."""
        return f"{self.label}: {self.kind.label}"

    def measure(self, judged: Judged) -> float:
        """In [-1, 1]."""
        device = judged.vlm.device
        return _compared(CaptionCosine(text_encoder(self.name, self.path, device)), judged)


class WordColumn(Column):
    """A figure of words in common; a subclass names the metric that has it."""

    better, decimals = "up", 3
    metric: ClassVar[type[Metric]]

    def measure(self, judged: Judged) -> float:
        """As the metric has it."""
        return _compared(self.metric(), judged)


class BLEU(WordColumn):
    """BLEU@4."""

    label, metric = "BLEU@4", BLEU4


class CIDEr(WordColumn):
    """CIDEr-D."""

    label, metric = "CIDEr-D", CIDErD


class Meteor(WordColumn):
    """METEOR."""

    label, metric = "METEOR", METEOR


class Spice(WordColumn):
    """SPICE."""

    label, metric = "SPICE", SPICE


def _compared(metric: Metric, judged: Judged) -> float:
    return float(fed(metric, judged.vlm.device, judged.drawn.captions, wanted(judged)).compute())
