"""The port of the methods, their registry, and how a name in a config becomes one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.setup import Explained, Setup
from transporter_pl.evaluation.studio import Studio
from transporter_pl.options import check_options, plugin_class
from transporter_pl.registry import Registry

Need = Literal["coupling", "concepts", "cache"]
WORK = "work"  # folder of what is under way, in a cell's own


class Method(ABC):
    """Draws a video for every case; a subclass takes its options as arguments.

    Attributes:
        needs: What a VLM must have been given for it, see ``Explained``; what it draws depends on these alone.
        reference: Whether it is there for comparison, and no competitor: the table never calls it the best.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    reference: ClassVar[bool] = False

    def check(self, explained: Explained, setup: Setup) -> None:
        """Refuse what it can't draw with, before any weight is loaded.

        Raises:
            TransporterError: If the VLM lacks one of ``needs``; a subclass refuses more.
        """
        for need in self.needs:
            if getattr(explained, need) is None:
                msg = f"{need}: none is given, and {type(self).__name__} can't draw without; give one, or leave the "
                raise TransporterError(msg + "row out")

    def settings(self, setup: Setup) -> dict[str, Any]:
        """What it draws with besides its own options, such as another plug-in's, as JSON holds it; by default nothing.

        A cell that was drawn with others is not this one's. Cases, models and geometry are told already.
        """
        return {}

    @abstractmethod
    def draw(self, studio: Studio, cases: tuple[Case, ...], seed: int, folder: Path) -> Drawn:
        """Draw one video a case.

        Args:
            studio: The loaded models of one VLM; ``studio.drawn`` makes the result.
            cases: The K cases.
            seed: Seed of all chance.
            folder: The cell's own, for checkpoints from which an interrupted drawing goes on.

        Raises:
            TransporterError: If it can't; the cells of other rows are drawn nevertheless.
        """


methods: Registry[type[Method]] = Registry("methods")


def new_method(name: str, options: Mapping[str, Any]) -> Method:
    """The method of a registered name or class path.

    Raises:
        TransporterError: If the name is unknown or another kind of thing, it has no such option (lists those that it
            has), or an option is of another type than it takes, or out of its range.
    """
    kind = plugin_class(methods, Method, "method", name)
    check_options("method", name, kind, options, place="options")
    return kind(**options)
