"""Files that appear, or change, only as a whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transporter_pl.errors import TransporterError


def check_folder(field: str, folder: str | Path) -> Path:
    """The folder, if it is one or can be made; to be asked before the long work whose result goes there.

    Raises:
        TransporterError: If a file stands in its place, or of one above it, or nothing can be written there.
    """
    path = Path(folder)
    place = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not place.is_dir():
        msg = f"{field}: {str(place)!r} is a file; give a folder"
        raise TransporterError(msg)
    try:
        with tempfile.TemporaryFile(dir=place):  # permissions alone don't tell: a disk may be full or read-only
            return path
    except OSError as error:
        msg = f"{field}: can't write to {str(place)!r} ({error.strerror}); give another folder"
        raise TransporterError(msg) from error


def replace_file(file: Path, write_aside: Callable[[Path], Any]) -> None:
    """Write a file aside and rename it; nothing else in its folder, which is made if need be, is touched.

    Args:
        file: Where it shall be.
        write_aside: Writes it to the path that it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as name:
        aside = Path(name) / file.name
        aside.touch()
        mode = aside.stat().st_mode
        write_aside(aside)
        aside.chmod(mode)  # safetensors would let nobody else read it
        os.replace(aside, file)  # noqa: PTH105  (atomic on every platform)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
