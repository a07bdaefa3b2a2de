"""Arguments of a plain function, from its signature, a YAML file and the command line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

import transporter_pl
from transporter_pl.errors import TransporterError

PACKAGED = Path(transporter_pl.__file__).parent / "configs"


def call(function: Callable[..., Any], prog: str, argv: list[str]) -> object:
    """Read the function's arguments and call it; ``--config`` may be given several times, later files win.

    Args:
        function: Typed and documented; dataclass arguments become ``--group.field``, a tuple of numbers takes several
            values, a bool is a flag.
        prog: What ``--help`` calls it.
        argv: The command line after that name.
    """
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = ArgumentParser(prog=prog, description=summary, exit_on_error=False)
    parser.add_argument("-c", "--config", action="config", help="YAML file, here or among the packaged ones")
    parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    numbers = [name for name in parameters if hints[name] == tuple[float, ...]]
    flags = [name for name in parameters if hints[name] is bool]
    parser.add_function_arguments(function, skip={*numbers, *flags})
    described = {p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(function) or "").params}
    for name in numbers:
        default = list(parameters[name].default)
        parser.add_argument(
            f"--{name}", type=_number, nargs="+", default=default, metavar="NUMBER", help=described.get(name)
        )
    for name in flags:
        parser.add_argument(f"--{name}", action="store_true", help=described.get(name))
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
