"""Settings that a result was made with, held against those that are asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transporter_pl.errors import TransporterError


def dotted(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted names, items of lists by their numbers; what is empty is a value."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        parts = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(parts, dict) and parts:
            flat |= dotted(parts, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_recorded(file: Path, was: Mapping[str, Any], now: Mapping[str, Any], called: Mapping[str, str]) -> None:
    """Refuse a result of other settings; both are compared as JSON holds them, and what is ``None`` may be left out.

    Args:
        file: Where the result is recorded.
        was: The settings that it was made with.
        now: Those that are asked for.
        called: What users know a field as, by the first part of its dotted name; by default by that name.

    Raises:
        TransporterError: Naming the first field that differs.
    """
    before, after = dotted(was), dotted(now)
    emptied = {name for one in (before, after) for name, value in one.items() if value in ({}, [])}
    for field in sorted({**after, **before}, key=emptied.__contains__):  # these are told by what they held
        if before.get(field) != after.get(field):
            msg = f"{called.get(field.split('.')[0], field)}: {str(file)!r} was made with {before.get(field)!r}, not "
            msg += f"{after.get(field)!r}; give another folder as out, or delete that file, and it is made again"
            raise TransporterError(msg)
