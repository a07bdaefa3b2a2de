"""Folders of an evaluation: videos that were drawn, what they were drawn with, and the figures of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from fsspec.core import url_to_fs
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.figures import Figures, versions
from transporter_pl.files import replace_file
from transporter_pl.settings import check_recorded
from transporter_pl.video import to_bytes

VIDEO, FACTS, FIGURES, LOCK = "drawn.safetensors", "drawn.json", "figures.json", ".lock"
CONTENTS = {  # files that tell apart what was made under the same name
    "coupling": ("coupling.safetensors", "config.json"),
    "concepts": ("concepts.safetensors",),
    "cache": ("index.safetensors", "cache.json"),  # the index vouches for every byte of the shards
}
CALLED = {"cases": "data, pairs or scenes", "references": "data or references"}  # what decides on a field
Columns = Mapping[str, Mapping[str, Any]]  # of every column, all its options


def quantised(video: Tensor) -> Tensor:
    """The video as it is kept, in 256 steps, on the CPU; it is measured so whether or not it was just drawn."""
    return to_bytes(video).cpu().float() / 255


@contextmanager
def held(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Keep a folder from all other processes; yields whether it is ours. It is free again when a process ends.

    Args:
        folder: The folder, made if need be.
        wait: Whether to wait while another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def store(folder: Path, settings: Mapping[str, Any], video: Tensor, facts: Mapping[str, Any]) -> None:
    """Write videos (K, T, 3, H, W), and after them what they were drawn with; figures of others are removed."""
    (folder / FIGURES).unlink(missing_ok=True)
    whole = {"video": to_bytes(video).cpu().contiguous()}
    text = _json({"settings": settings, "facts": facts, "versions": versions()})
    replace_file(folder / VIDEO, lambda aside: save_file(whole, aside))
    replace_file(folder / FACTS, lambda aside: aside.write_text(text, encoding="utf-8"))


def stored(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The facts of videos that an earlier call has drawn with the same settings; ``None`` where there are none.

    Raises:
        TransporterError: If they are of other settings (names the first that differs), or can't be opened.
    """
    said = _read(folder / FACTS)
    was, facts = said.get("settings"), said.get("facts")
    if not (isinstance(was, dict) and isinstance(facts, dict) and _is_whole(folder / VIDEO)):
        return None
    check_recorded(folder / FACTS, was, json.loads(_json(settings)), CALLED)
    return dict(facts)


def computed_with(folder: Path, columns: Columns) -> list[dict[str, str]]:
    """Versions of what has drawn a folder's videos, and of what has measured each of the columns."""
    said = _read(folder / FIGURES)
    parts = [_read(folder / FACTS), *(said.get(_key(name, options), {}) for name, options in columns.items())]
    return [dict(part.get("versions", {})) for part in parts if isinstance(part, dict)]


def stored_video(folder: Path) -> Tensor:
    """The videos of a folder, (K, T, 3, H, W) in [0, 1].

    Raises:
        TransporterError: If they can't be read.
    """
    try:
        return load_file(folder / VIDEO)["video"].float() / 255
    except (OSError, KeyError, SafetensorError) as error:
        msg = f"out: {str(folder / VIDEO)!r} can't be read ({error}); delete {FACTS} beside it, and it is drawn again"
        raise TransporterError(msg) from error


def stored_figures(folder: Path, columns: Columns) -> Figures:
    """Those of the columns that were measured already, with the same options."""
    said = _read(folder / FIGURES)
    rows = {name: said.get(_key(name, options)) for name, options in columns.items()}
    known = {name: row for name, row in rows.items() if isinstance(row, dict) and {"value", "missing"} <= row.keys()}
    values = {name: row["value"] for name, row in known.items()}
    return Figures(values, {name: row["missing"] for name, row in known.items() if row["missing"]})


def add_figures(folder: Path, columns: Columns, figures: Figures) -> None:
    """Write figures beside those of other columns, or of other options, that were measured before."""
    file = folder / FIGURES
    known = _read(file)
    for name, value in figures.values.items():
        row = {"value": value, "missing": figures.missing.get(name, ""), "versions": versions()}
        known[_key(name, columns[name])] = row
    replace_file(file, lambda aside: aside.write_text(_json(known), encoding="utf-8"))


def forget_missing(folder: Path, columns: Columns) -> None:
    """Drop those of the columns that could not be computed: what they lacked may be there now.

    A cell that another process is at is left to it, and so are columns of other tables.
    """
    file = folder / FIGURES
    if not file.is_file():
        return
    with held(folder) as mine:
        if not mine:
            return
        known = _read(file)
        ours = {_key(name, options) for name, options in columns.items()}
        lacking = {key for key, row in known.items() if isinstance(row, dict) and row.get("missing")}
        kept = {key: row for key, row in known.items() if key not in ours & lacking}
        if kept != known:
            replace_file(file, lambda aside: aside.write_text(_json(kept), encoding="utf-8"))


def content_of(need: str, place: str | Path) -> str:
    """What was trained or made, told by its content, as it may be made anew under its old name.

    Args:
        need: ``coupling``, ``concepts`` or ``cache``.
        place: Its folder or URL. Where none of its files is, as at the Hub, the name has to do.
    """
    system, root = url_to_fs(str(place))
    files = [file for file in (f"{root}/{name}" for name in CONTENTS[need]) if system.exists(file)]
    return f"content {digest(map(system.cat_file, files))}" if files else str(place)


def digest(parts: Iterable[bytes]) -> str:
    """A short name that other parts, or parts in another order, do not have."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def _is_whole(file: Path) -> bool:
    """Whether a file is there and as long as it says."""
    try:
        with safe_open(file, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _key(name: str, options: Mapping[str, Any]) -> str:
    return json.dumps([name, options], sort_keys=True, ensure_ascii=False)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)  # an option's default may be any value


def _read(file: Path) -> dict[str, Any]:
    """What a file says; nothing where it isn't there, or isn't what we wrote: it is made anew then.

    Raises:
        TransporterError: If it can't be opened.
    """
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        return {}
    except OSError as error:
        msg = f"out: {str(file)!r} can't be read ({error}); see to it that it can, or delete it, and it is made again"
        raise TransporterError(msg) from error
    return said if isinstance(said, dict) else {}
