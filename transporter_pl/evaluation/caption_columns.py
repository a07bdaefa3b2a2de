"""How near the VLM's captions of the videos are to ε+, the captions that they were drawn for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from transporter_pl.evaluation.columns import Column, fed, wanted
from transporter_pl.evaluation.encoders import EncoderColumn
from transporter_pl.metrics.captions import BLEU4, METEOR, SPICE, CaptionCosine, CIDErD

if TYPE_CHECKING:
    from torchmetrics import Metric

    from transporter_pl.evaluation.samples import Judged


class CaptionCos(EncoderColumn):
    """Cosine of the captions' embeddings."""

    label, decimals = "caption cos", 3

    def measure(self, judged: Judged) -> float:
        """In [-1, 1]."""
        return _compared(CaptionCosine(self.encoder(judged)), judged)


class WordColumn(Column):
    """A figure of words in common, times 100; a subclass names the metric that has it."""

    better, decimals = "up", 1
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
