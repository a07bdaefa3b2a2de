"""Reads annotation files as what they are, JSON or a table, with the place of each row for error messages."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from transporter_pl.errors import TransporterError, did_you_mean


def read_json(field: str, path: str | Path) -> Any:  # noqa: ANN401  (whatever the file holds)
    """Content of a JSON file in UTF-8.

    Args:
        field: The argument that names the file, for the error.
        path: The file.

    Raises:
        TransporterError: If it can't be read.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{field}: {str(path)!r} can't be read as JSON ({error}); give the data set's own file, whole"
        raise TransporterError(msg) from error


def read_table(
    field: str, path: str | Path, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a table whose first line names the columns, each with its place in the file.

    Args:
        field: The argument that names the file, for the errors.
        path: CSV file in UTF-8, with or without a byte order mark.
        columns: Columns that have to be there.
        delimiter: What stands between them.

    Raises:
        TransporterError: If it can't be read, lacks a column, or a row has more or fewer fields than there are columns.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True, restkey="", restval=None)
            found = reader.fieldnames or ()
            for name in columns:
                if name not in found:
                    msg = f"{field}: {str(path)!r}, line 1: no column {name!r} but {', '.join(found) or 'nothing'}; "
                    raise TransporterError(msg + f"give a table with {', '.join(columns)}")
            for row in reader:
                place = f"{field}: {str(path)!r}, line {reader.line_num}"
                if "" in row or None in row.values():
                    msg = f"{place}: its fields are not {len(found)}, as line 1 has; correct or remove it"
                    raise TransporterError(msg)
                yield place, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{field}: {str(path)!r} can't be read as a table ({error}); give one in UTF-8"
        raise TransporterError(msg) from error


def read_lines(field: str, path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a file with one in JSON a line, each with its place in the file; empty lines are passed over.

    Args:
        field: The argument that names the file, for the errors.
        path: The file, in UTF-8.
        columns: Names that every object has to have.

    Raises:
        TransporterError: If it can't be read, or a line is no such object.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                place = f"{field}: {str(path)!r}, line {number}"
                if line.strip():
                    yield place, _object(line, columns, place)
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{field}: {str(path)!r} can't be read ({error}); give lines of JSON in UTF-8"
        raise TransporterError(msg) from error


def _object(line: str, columns: Sequence[str], place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        msg = f"{place} is no JSON ({error}); correct or remove it"
        raise TransporterError(msg) from error
    lacking = [name for name in columns if not isinstance(row, dict) or name not in row]
    if lacking:
        msg = f"{place}: no {lacking[0]!r} in it; give an object with {', '.join(columns)}"
        raise TransporterError(msg)
    return dict(row)


def seconds_of(row: Mapping[str, Any], column: str, place: str) -> float | None:
    """A time in a row, in seconds; ``None`` where the row has none.

    Args:
        row: The row.
        column: Name of the time.
        place: Where the row stands, for the error.

    Raises:
        TransporterError: If it is no finite number from 0.
    """
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        msg = f"{place}, {column}: {value!r} is no number of seconds from 0; correct it or leave it empty"
        raise TransporterError(msg)
    return seconds


def check_choice(field: str, value: str | int, choices: object) -> None:
    """Refuse a value that is none of a ``Literal``'s.

    Raises:
        TransporterError: Naming those that there are.
    """
    if value not in get_args(choices):
        known = [str(choice) for choice in get_args(choices)]
        msg = f"{field}: unknown {value!r}.{did_you_mean(str(value), known)} Known: {', '.join(known)}"
        raise TransporterError(msg)
