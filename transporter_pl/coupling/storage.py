"""The folder of a coupling network: ``coupling.safetensors`` and ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.samples import Origin, VideoSpec

WEIGHTS, DESCRIPTION = "coupling.safetensors", "config.json"


def write(folder: str | Path, config: CouplingConfig, origin: Origin | None, weights: dict[str, Tensor]) -> None:
    """Write the folder; a file appears, or changes, only as a whole."""
    folder = Path(folder)
    description = {"coupling": asdict(config), "origin": None if origin is None else asdict(origin)}
    text = json.dumps(description, indent=1, ensure_ascii=False)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    replace_file(folder / WEIGHTS, lambda aside: save_file(tensors, aside))
    replace_file(folder / DESCRIPTION, lambda aside: aside.write_text(text, encoding="utf-8"))


def read(folder: str | Path) -> tuple[CouplingConfig, Origin | None, dict[str, Tensor]]:
    """Read what ``write`` wrote.

    Raises:
        TransporterError: If the folder is missing, or holds something else.
    """
    with _told(Path(folder)):
        return *_described(Path(folder)), load_file(Path(folder) / WEIGHTS)


def read_origin(folder: str | Path) -> Origin | None:
    """What the network was trained with, without its weights.

    Raises:
        TransporterError: If the folder is missing, or holds something else.
    """
    with _told(Path(folder)):
        return _described(Path(folder))[1]


def _described(folder: Path) -> tuple[CouplingConfig, Origin | None]:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return CouplingConfig(**_tuples(description["coupling"])), origin_from(description["origin"])


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say in one line what is wrong with a folder that can't be read."""
    fix = "give the coupling folder that a coupling training has written"
    if not folder.is_dir():
        msg = f"coupling: no folder {str(folder)!r}; {fix}"
        raise TransporterError(msg)
    try:
        yield
    except (OSError, KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        msg = f"coupling: {str(folder)!r} holds no coupling network ({error}); {fix}"
        raise TransporterError(msg) from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def origin_from(fields: dict[str, Any] | None) -> Origin | None:
    """The inverse of ``asdict``, where there is an origin."""
    return None if fields is None else Origin(**{**fields, "video": VideoSpec(**fields["video"])})
