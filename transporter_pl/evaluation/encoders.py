"""Columns that need an encoder of their own, each of which is loaded once a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from transporter_pl.evaluation.columns import Column
from transporter_pl.metrics.encoders import Encoder, text_encoders
from transporter_pl.metrics.missing import MissingPart
from transporter_pl.registry import Registry

if TYPE_CHECKING:
    import torch

    from transporter_pl.evaluation.samples import Judged

T = TypeVar("T")


def once(load: Callable[..., T]) -> Callable[..., T]:
    """``cache`` that remembers a ``MissingPart``, too: no other cell waits again for weights that can't be had."""

    @cache
    def tried(*given: Any) -> tuple[T | None, str]:  # noqa: ANN401  (what ``load`` takes)
        try:
            return load(*given), ""
        except MissingPart as error:
            return None, str(error)  # its words alone: its traceback holds all that was at work

    @wraps(load)
    def loaded(*given: Any) -> T:  # noqa: ANN401
        found, missing = tried(*given)
        if found is None:
            raise MissingPart(missing)
        return found

    return loaded


class EncoderColumn(Column):
    """A column that sees with another encoder than the VLM's.

    Args:
        encoder: Registered name or class path of the encoder.
        path: Its weights; by default those that judge the VLM, usually the same for all.

    Attributes:
        encoders: Where its name is looked up.
    """

    better: ClassVar[Literal["up", "down"] | None] = "up"
    encoders: ClassVar[Registry[Any]] = text_encoders

    def __init__(self, encoder: str = "clip", path: str | None = None) -> None:
        self.kind, self.path = self.encoders.get(encoder), path

    @property
    def note(self) -> str:
        """Whose features they are."""
        return f"{self.label} on {self.kind.label}" + (f", {PurePath(self.path).name}" if self.path else "")

    def encoder(self, judged: Judged) -> Any:  # noqa: ANN401  (of the kind that ``encoders`` has)
        """The encoder with its weights, on the device of the VLM that is judged."""
        path = self.kind.path_for(judged.vlm) if self.path is None else self.path
        return _loaded(self.kind, path, judged.vlm.device)


@once  # by the class: one that is both kinds of encoder is loaded once
def _loaded(kind: type[Encoder], path: str | None, device: torch.device) -> Encoder:
    return kind.from_pretrained(path, device)
