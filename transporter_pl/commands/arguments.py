"""Arguments of a plain function, from its signature, a YAML file and the command line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser

import transporter_pl
from transporter_pl.errors import TransporterError

PACKAGED = Path(transporter_pl.__file__).parent / "configs"


def call(function: Callable[..., Any], name: str, argv: list[str]) -> object:
    """Read the function's arguments and call it; ``--config`` may be given several times, later files win.

    Args:
        function: Typed and documented; dataclass arguments become ``--group.field``, a tuple of numbers takes several
            values.
        name: What ``--help`` calls it.
        argv: The command line after that name.
    """
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = ArgumentParser(prog=name, description=summary, exit_on_error=False)
    parser.add_argument("-c", "--config", action="config", help="YAML file, here or among the packaged ones")
    hints = get_type_hints(function)
    numbers = {
        name: p for name, p in inspect.signature(function).parameters.items() if hints[name] == tuple[float, ...]
    }
    parser.add_function_arguments(function, skip=set(numbers))
    for option, parameter in numbers.items():
        parser.add_argument(f"--{option}", type=_number, nargs="+", default=list(parameter.default), metavar="NUMBER")
    chosen = parser.instantiate(parser.parse_args(argv))
    chosen.pop("config")
    return function(**{**vars(chosen), **{name: tuple(chosen[name]) for name in numbers}})


def _number(text: str | float) -> float:
    """Any number, infinite ones too: the function that gets it knows best what is wrong with them."""
    return float(text)


def packaged_configs() -> list[str]:
    """Names of the configs that come with the package, e.g. ``shapemotion/coupling.yaml``."""
    return sorted(p.relative_to(PACKAGED).as_posix() for p in PACKAGED.rglob("*.yaml"))


def find_configs(argv: list[str]) -> list[str]:
    """Replace every ``--config`` value that is no file here by the packaged file of that name.

    Raises:
        TransporterError: If there is neither (lists the packaged ones, suggests the nearest).
    """
    found, expected = [], False
    for word in argv:
        option, equals, value = word.partition("=")
        if expected:
            found.append(_find(word))
        elif equals and option in {"-c", "--config"}:
            found.append(f"{option}={_find(value)}")
        else:
            found.append(word)
        expected = not expected and word in {"-c", "--config"}
    return found


def _find(name: str) -> str:
    # the documentation writes configs/…, which is the folder's name in the repository
    packaged = PACKAGED / name.removeprefix("configs/")
    if Path(name).is_file():
        return name
    if packaged.is_file():
        return str(packaged)
    near = difflib.get_close_matches(name, packaged_configs(), n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    msg = f"config: no file {name!r}.{hint} Packaged: {', '.join(packaged_configs()) or 'none'}"
    raise TransporterError(msg)
