"""Hyperparameters as checkpoints hold them, plain data that loads with ``weights_only=True``, and what stages ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import lightning as L  # noqa: N812

from transporter_pl.errors import TransporterError
from transporter_pl.files import check_folder

T = TypeVar("T")


def plain(value: object) -> object:
    """Dataclasses as dictionaries of their fields, also inside lists; anything else as it is."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def built(kind: type[T], value: object) -> T:
    """The inverse of ``plain``: a dataclass from itself, or from its fields."""
    return value if isinstance(value, kind) else kind(**cast("dict[str, object]", value))


def export_folder(stage: L.LightningModule, name: str) -> Path:
    """Where a stage writes what it has trained: its ``export``, by default the folder of that name in the run's.

    Raises:
        TransporterError: If a file stands there.
    """
    run = Path(stage.trainer.default_root_dir)
    return check_folder("export", stage.hparams["export"] or run / name)


def check_choices(stage: type, options: Mapping[str, Any]) -> None:
    """Refuse unknown choices, which only the command line's types show.

    Args:
        stage: A class whose ``__init__`` says what may be chosen, by ``Literal``.
        options: Its arguments.

    Raises:
        TransporterError: Naming the option, its value and the choices.
    """
    for name, hint in get_type_hints(stage.__init__).items():  # type: ignore[misc]
        if get_origin(hint) is Literal and options[name] not in get_args(hint):
            msg = f"{name}: unknown choice {options[name]!r}; choose {' or '.join(get_args(hint))}"
            raise TransporterError(msg)
