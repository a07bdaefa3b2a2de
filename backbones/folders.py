"""Model folders: configs read without weights, files written aside and then moved into place."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from transporter_pl.backbones.shipped import advice
from transporter_pl.errors import TransporterError

if TYPE_CHECKING:
    from torch import Tensor

    from transporter_pl.samples import VideoSpec


def find_config(folder: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a local folder or hub repository, ``None`` if it has none of that name.

    Raises:
        TransporterError: If the hub can't be reached, or the file is no JSON object.
    """
    file = Path(folder) / name
    if not Path(folder).is_dir():
        with loading(folder):
            try:
                file = Path(hf_hub_download(folder, name))
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError) and not _any_cached(folder):
                    raise
                return None
    if not file.is_file():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        msg = f"path: {name} in {folder!r} is no JSON object ({error}); download the model again"
        raise TransporterError(msg) from error


def read_config(folder: str, name: str) -> dict[str, Any]:
    """A JSON file that the folder must have.

    Raises:
        TransporterError: If it has none.
    """
    config = find_config(folder, name)
    if config is None:
        msg = f"path: {folder!r} has no {name}; give a model folder in the hub's format"
        raise TransporterError(msg)
    return config


@contextmanager
def loading(folder: str) -> Iterator[None]:
    """Turn the hub's many errors into one that names the path.

    Raises:
        TransporterError: If the wrapped loading fails to find or read a file.
    """
    try:
        yield
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        there = "The folder is not whole" if Path(folder).is_dir() else advice(folder)
        fix = "or give another local folder, or a hub id that this machine can reach"
        msg = f"path: can't load {folder!r}. {there}; {fix} ({first})"
        raise TransporterError(msg) from error


@contextmanager
def saved_aside(path: str | Path) -> Iterator[Path]:
    """A temporary folder whose files replace those of ``path`` once the block has succeeded."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
        aside = Path(name)
        yield aside
        for file in sorted(p for p in aside.rglob("*") if p.is_file()):
            place = target / file.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)  # noqa: PTH105  (atomic on every platform)


def check_video(video: Tensor, spec: VideoSpec) -> None:
    """Refuse clips of another geometry than the adapter's; the backbones would drop frames or tokens silently.

    Raises:
        TransporterError: If the shape is not (B, T, 3, H, W) of the spec.
    """
    if video.ndim != 5 or tuple(video.shape[1:]) != (spec.frames, 3, spec.height, spec.width):
        msg = (
            f"video: shape {tuple(video.shape)}, but the adapter was loaded for {spec}, that is "
            f"(B, {spec.frames}, 3, {spec.height}, {spec.width}); resample the clips or load it for theirs"
        )
        raise TransporterError(msg)


def _any_cached(folder: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE) / f"models--{folder.replace('/', '--')}" / "snapshots").is_dir()
