"""How near what the VLM says is to what it should say."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchmetrics import MeanMetric, Metric
from torchmetrics.text import BLEUScore

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.encoders import ImageTextEncoder
from transporter_pl.metrics.missing import MissingPart

LIBRARY = "pycocoevalcap"


class CaptionCosine(MeanMetric):
    """cos of the two captions' embeddings, mean over captions. The paper does not say whose embeddings: name yours.

    Args:
        encoder: What the captions are seen with.
    """

    def __init__(self, encoder: ImageTextEncoder) -> None:
        super().__init__(nan_strategy="disable")
        self.encoder = encoder

    def update(self, said: list[str], wanted: list[str]) -> None:  # type: ignore[override]
        """Add what was said and what was wanted, one each a video."""
        check_captions(said, wanted)
        super().update(cosine_similarity(self.encoder.texts(said).float(), self.encoder.texts(wanted).float()))


class BLEU4(BLEUScore):
    """100 BLEU@4 over all captions together, not smoothed (Papineni et al. 2002), of ``plain`` words."""

    def __init__(self) -> None:
        super().__init__(n_gram=4)

    def update(self, said: list[str], wanted: list[str]) -> None:  # type: ignore[override]
        """Add what was said and what was wanted, one each a video."""
        check_captions(said, wanted)
        super().update([plain(caption) for caption in said], [[plain(caption)] for caption in wanted])

    def compute(self) -> Tensor:
        """In [0, 100]."""
        return 100 * super().compute()


class CaptionMetric(Metric, ABC):
    """A score that needs all captions at once, by the scorers of MS COCO (``pycocoevalcap``).

    They take ``plain`` words: the PTB tokeniser that usually comes before them is a Java program, and may cut
    contractions and hyphens otherwise.

    Attributes:
        scorer: Module and class.
        least: Fewest captions that have a score.

    Raises:
        MissingPart: If the library, or what else the score needs, is not here.
    """

    higher_is_better = True
    full_state_update = False
    scorer: ClassVar[tuple[str, str]]
    least: ClassVar[int] = 1
    said: list[Tensor]
    wanted: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.kind = self._scorer()
        for name in ("said", "wanted"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, said: list[str], wanted: list[str]) -> None:
        """Add what was said and what was wanted, one each a video."""
        check_captions(said, wanted)
        self.said.append(_packed(said).to(self.device))
        self.wanted.append(_packed(wanted).to(self.device))

    def compute(self) -> Tensor:
        """100 times the score, as papers print it.

        Raises:
            TransporterError: If there are too few captions.
        """
        said, wanted = _unpacked(self.said), _unpacked(self.wanted)
        if len(said) < self.least:
            msg = f"captions: {len(said)} are too few for {type(self).__name__}; give at least {self.least}"
            raise TransporterError(msg)
        numbers = {i: [caption] for i, caption in enumerate(said)}
        return torch.tensor(100 * self.score({i: [caption] for i, caption in enumerate(wanted)}, numbers))

    @abstractmethod
    def score(self, wanted: dict[int, list[str]], said: dict[int, list[str]]) -> float:
        """The score of captions by number."""

    def _scorer(self) -> Any:  # noqa: ANN401  (the library has no types)
        module, name = self.scorer
        try:
            return getattr(importlib.import_module(f"{LIBRARY}.{module}"), name)
        except ImportError as error:
            msg = f'{name}: {LIBRARY} is not installed; get it by `pip install "transporter-pl[metrics]"`'
            raise MissingPart(msg) from error


class CIDErD(CaptionMetric):
    """100 CIDEr-D (arXiv 1411.5726), of at most 1000: n-grams, weighed by how few of the wanted captions have them.

    What all the wanted captions have in common counts for nothing.

    Raises:
        MissingPart: As ``CaptionMetric``.
    """

    scorer = "cider.cider", "Cider"
    least = 2

    def score(self, wanted: dict[int, list[str]], said: dict[int, list[str]]) -> float:
        """The mean over captions, in [0, 10]."""
        return float(self.kind().compute_score(wanted, said)[0])


class METEOR(CaptionMetric):
    """100 METEOR 1.5 (Denkowski and Lavie 2014), in [0, 100]; its Java program takes up to 2 GB of memory.

    Raises:
        MissingPart: As ``CaptionMetric``, or if there is no Java.
    """

    scorer = "meteor.meteor", "Meteor"

    def __init__(self) -> None:
        super().__init__()
        _check_java("METEOR")

    def score(self, wanted: dict[int, list[str]], said: dict[int, list[str]]) -> float:
        """The score of all captions together, in [0, 1].

        Raises:
            TransporterError: If the program fails.
        """
        scorer = _started(self.kind)
        try:
            return float(scorer.compute_score(wanted, said)[0])
        except (ValueError, OSError) as error:  # what a program that ended did not write is no number
            scorer.lock.release()  # which it keeps, and waits for when it is deleted
            _started.cache_clear()
            msg = f"METEOR: its Java program failed ({error}); see that 2 GB of memory are free"
            raise TransporterError(msg) from error


class SPICE(CaptionMetric):
    """100 SPICE (arXiv 1607.08822), in [0, 100]; its Java program takes up to 8 GB of memory.

    Raises:
        MissingPart: As ``CaptionMetric``, or if there is no Java or not the language model of its parser.
    """

    scorer = "spice.spice", "Spice"

    def __init__(self) -> None:
        super().__init__()
        _check_java("SPICE")
        model = Path(sys.modules[self.kind.__module__].__file__ or "").parent / "lib/stanford-corenlp-3.6.0-models.jar"
        if not model.is_file():
            msg = f"SPICE: no file {str(model)!r}; get it by `python -m {LIBRARY}.spice.get_stanford_models`"
            raise MissingPart(msg)

    def score(self, wanted: dict[int, list[str]], said: dict[int, list[str]]) -> float:
        """The mean over captions, in [0, 1].

        Raises:
            TransporterError: If the program fails.
        """
        try:
            return float(self.kind().compute_score(wanted, said)[0])
        except subprocess.CalledProcessError as error:
            msg = f"SPICE: its Java program failed ({error}); it is of 2016, try Java 8"
            raise TransporterError(msg) from error


@cache
def _started(kind: Callable[[], Any]) -> Any:  # noqa: ANN401  (the library has no types)
    """A scorer with its program, which takes a quarter of a minute to read its tables: once a process."""
    return kind()


def plain(caption: str) -> str:
    """A caption's words in lower case, without punctuation, one blank between them."""
    return " ".join(re.findall(r"[\w'-]*\w[\w'-]*", caption.lower()))


def check_captions(said: list[str], wanted: list[str]) -> None:
    """Refuse another number of captions than were wanted.

    Raises:
        TransporterError: If so.
    """
    if len(said) != len(wanted):
        msg = f"said: {len(said)} captions, {len(wanted)} were wanted; give one of each a video"
        raise TransporterError(msg)


def _check_java(metric: str) -> None:
    if shutil.which("java") is None:
        msg = f"{metric}: there is no `java`; get it by `apt install default-jre-headless`, or as your system has it"
        raise MissingPart(msg)


def _packed(captions: list[str]) -> Tensor:
    """Captions as numbers, which processes can exchange: UTF-8, a line each."""
    lines = "".join(f"{plain(caption)}\n" for caption in captions)
    # floats: of this type is what a process without captions gives
    return torch.tensor(list(lines.encode()), dtype=torch.float32)


def _unpacked(packed: list[Tensor] | Tensor) -> list[str]:
    """The inverse: a list as it was gathered here, or one tensor once processes have exchanged theirs."""
    numbers = torch.cat(packed) if isinstance(packed, list) and packed else packed
    return bytes(int(n) for n in numbers).decode().split("\n")[:-1]
