"""Files that appear, or change, only as a whole."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from transporter_pl.errors import TransporterError

ASIDE = ".part-"  # begins the names of what is not written yet
DAY = 24 * 3600


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
    """Write a file aside, flush it to the disk, and rename it; nothing else in its folder, made if need be, is touched.

    Args:
        file: Where it shall be.
        write_aside: Writes it to the path that it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = f"{ASIDE}{socket.gethostname()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=mine) as name:
        aside = Path(name) / file.name
        aside.touch()
        mode = aside.stat().st_mode
        write_aside(aside)
        aside.chmod(mode)  # safetensors would let nobody else read it
        _flush(aside)  # or a power cut might leave the name, and nothing behind it
        os.replace(aside, file)  # noqa: PTH105  (atomic on every platform)
    _flush(file.parent)


def abandoned(folder: Path) -> list[Path]:
    """What ``replace_file`` has begun in a folder and nobody goes on with, as its process was killed.

    Of another machine's processes nothing is known: what they have begun counts after a day.
    """
    found = sorted(folder.glob(f"{ASIDE}*"))
    return [path for path in found if not _is_alive(path)]


def _is_alive(aside: Path) -> bool:
    host, _, rest = aside.name.removeprefix(ASIDE).rpartition("-")[0].rpartition("-")
    if host == socket.gethostname():
        return rest.isdigit() and psutil.pid_exists(int(rest))
    try:
        return time.time() - aside.stat().st_mtime < DAY
    except FileNotFoundError:  # it is done
        return True


def _flush(path: Path) -> None:
    """Have the disk hold a file, or a folder's names."""
    if path.is_dir() and os.name == "nt":  # there, folders can't be opened
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
