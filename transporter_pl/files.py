"""Files that appear, or change, only as a whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(file: Path, write_aside: Callable[[Path], Any]) -> None:
    """Write a file aside and rename it; nothing else in its folder, which is made if need be, is touched.

    Args:
        file: Where it shall be.
        write_aside: Writes it to the path that it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as name:
        aside = Path(name) / file.name
        write_aside(aside)
        os.replace(aside, file)  # noqa: PTH105  (atomic on every platform)
