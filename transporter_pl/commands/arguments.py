"""Arguments of a plain function, from its signature, a YAML file and the command line."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, get_loader, set_loader
from yaml import YAMLError

import transporter_pl
from transporter_pl.errors import TransporterError, did_you_mean
from transporter_pl.registry import datamodules

PACKAGED = Path(transporter_pl.__file__).parent / "configs"
# Kinds of YAML. In all of them a registered name may stand for the data's class path. A generator, a VLM and a geometry
# may stand together under ``backbones:``, so that one file serves all commands: each is an argument of the command
# itself, or of the model that a stage trains, or of the data that are encoded.
OWNERS: dict[str, dict[str, str]] = {
    "transporter": {},
    "transporter-stage": {"generator": "model", "vlm": "model", "video": "model"},
    "transporter-data": {"video": "data"},
    "transporter-explain": {},
}
# where ``video`` is a file, the geometry has a name of its own
NAMED = {"transporter-explain": {"video": "geometry"}}
MODES = {"data": "data", "explain": "geometry"}  # kind of YAML → the argument that its commands have
NUMBERS = (tuple[float, float], tuple[float, ...])  # types of options that take several
BACKBONES = ("generator", "vlm", "video")
NAME = re.compile(r"(?!(null|None)$)[A-Za-z]\w*(-\w+)*")  # and not a class path, a file or an inline mapping


def call(function: Callable[..., Any], prog: str, argv: list[str]) -> object:
    """Read the function's arguments and call it; ``--config`` may be given several times, later files win.

    Args:
        function: Typed and documented; dataclass arguments become ``--group.field``, a tuple of numbers takes several
            values, a list may be given as its only item ``{…}``, a bool is a flag.
        prog: What ``--help`` calls it.
        argv: The command line after that name.
    """
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    mode = next((f"transporter-{kind}" for kind, name in MODES.items() if name in parameters), "transporter")
    parser = ArgumentParser(prog=prog, description=summary, exit_on_error=False, parser_mode=mode)
    parser.add_argument("-c", "--config", action="config", help="YAML file, here or among the packaged ones")
    numbers = [name for name in parameters if hints[name] in NUMBERS]
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
    lists = {f"--{name}" for name in parameters if any(get_origin(part) is list for part in get_args(hints[name]))}
    mappings = {name for name in parameters if any(map(is_dataclass, get_args(hints[name])))}
    chosen = parser.instantiate(parser.parse_args(_as_wholes(_replace(argv, lists, _listed), mappings)))
    chosen.pop("config")
    return function(**{**vars(chosen), **{name: tuple(chosen[name]) for name in numbers}})


def call_one_of(
    command: str,
    description: str,
    functions: Mapping[str, Callable[..., None]],
    add_arguments: Callable[[str, ArgumentParser], None],
    argv: list[str],
) -> None:
    """Call one of the functions that a command with subcommands has.

    Args:
        command: The command's name.
        description: What ``--help`` says of it.
        functions: Subcommand → function, whose docstring begins with what ``--help`` says of that.
        add_arguments: Gives a subcommand's parser the function's arguments.
        argv: The command line, which begins with the command's name.
    """
    parser = ArgumentParser(prog=f"transporter {command}", description=description, exit_on_error=False)
    commands = parser.add_subcommands(title="commands", metavar="COMMAND")
    for name, function in functions.items():
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        own = ArgumentParser(description=summary, exit_on_error=False)
        own.add_argument("-c", "--config", action="config", help="YAML file")
        add_arguments(name, own)
        commands.add_subcommand(name, own, help=summary)
    chosen = parser.parse_args(argv[1:])
    given = vars(chosen[chosen.subcommand])
    functions[chosen.subcommand](**{name: value for name, value in given.items() if name != "config"})


def _as_wholes(argv: list[str], mappings: Set[str]) -> list[str]:
    """Empty a mapping of dataclasses before it is given again: an entry of a known key would keep its old fields."""
    if not mappings:
        return argv
    changed = []
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option in {"-c", "--config"}:
            again = mappings & _keys_of(Path(value if equals else following))
        else:
            again = mappings & {option.removeprefix("--")} if option.startswith("--") else set()
        changed += [*(f"--{name}={{}}" for name in sorted(again)), word]
    return changed


def _keys_of(file: Path) -> Set[str]:
    """What a YAML file names; whatever is wrong with it, the parser tells."""
    try:
        said = get_loader("yaml")(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError):
        return frozenset()
    return said.keys() if isinstance(said, dict) else frozenset()


def _listed(text: str) -> str:
    return f"[{text}]" if text.lstrip().startswith("{") else text


def _number(text: str | float) -> float:
    """Any number, infinite ones too: the function that gets it knows best what is wrong with them."""
    return float(text)


def packaged_configs() -> list[str]:
    """Names of the configs that come with the package, e.g. ``coupling/base.yaml``."""
    return sorted(p.relative_to(PACKAGED).as_posix() for p in PACKAGED.rglob("*.yaml"))


def find_configs(argv: list[str]) -> list[str]:
    """Replace every ``--config`` value that is no file here by the packaged file of that name.

    Raises:
        TransporterError: If there is neither (lists the packaged ones, suggests the nearest).
    """
    return _replace(argv, {"-c", "--config"}, _find)


def find_data(argv: list[str]) -> list[str]:
    """Replace every registered name after ``--data`` by its class path; YAML is treated alike when it is read.

    jsonargparse knows class paths alone, so the names are gone before it sees them.

    Raises:
        TransporterError: If a name is unknown (lists the registered ones, suggests the nearest).
    """
    return _replace(argv, {"--data", "--data.class_path", "--data.help"}, _class_path)


def _class_path(value: str) -> str:
    return datamodules.class_path(value) if NAME.fullmatch(value) else value


def _load(text: str, owners: Mapping[str, str], names: Mapping[str, str]) -> object:
    loaded = get_loader("yaml")(text)
    if not isinstance(loaded, dict):
        return loaded
    data, backbones = loaded.get("data"), loaded.pop("backbones", None)
    if isinstance(data, str):
        loaded["data"] = _class_path(data)
    elif isinstance(data, dict) and isinstance(data.get("class_path"), str):
        loaded["data"] = {**data, "class_path": _class_path(data["class_path"])}
    for name, value in _checked(backbones).items():
        if name in owners:
            owner = loaded[owners[name]] = loaded.get(owners[name]) or {}
            owner.setdefault("init_args", {})[name] = value
        else:
            loaded[names.get(name, name)] = value
    return loaded


def _checked(backbones: object) -> dict[str, object]:
    """What stands under ``backbones:``.

    Raises:
        TransporterError: If it is no mapping of a generator, a VLM and a geometry, each a mapping too.
    """
    parts = {} if backbones is None else backbones
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        msg = f"backbones: {backbones!r}; give generator: {{name, path}}, vlm: {{name, path}} and video: {{frames, …}}"
        raise TransporterError(msg)
    for name in parts:
        if name not in BACKBONES:
            msg = f"backbones: unknown {name!r}.{did_you_mean(str(name), BACKBONES)} Known: {', '.join(BACKBONES)}"
            raise TransporterError(msg)
    return parts


for _mode, _owners in OWNERS.items():
    set_loader(_mode, partial(_load, owners=_owners, names=NAMED.get(_mode, {})), exceptions=(YAMLError,))


@contextmanager
def backbones_in_their_place(command: str, argv: list[str]) -> Iterator[None]:
    """Say what is wrong with where a file of backbones stands; a parser only lists what it got.

    Raises:
        TransporterError: If the command takes none, or the file comes before what its parts belong to.
    """
    try:
        yield
    except ArgumentError as error:
        said = str(error)
        if not any(_names_backbones(path) for path in argv):
            raise
        if 'Parser key "data"' in said and not _names_data(said, argv):
            msg = "backbones: the geometry is the data's too; give that --config after --data or the file that names it"
        elif "generator.name' is not accepted" not in said:
            raise
        elif command in {"fit", "validate", "test"}:
            msg = "backbones: only a stage that loads them takes them, after the file that names it; Φ has its cache"
        else:
            msg = f"backbones: `transporter {command}` takes none; leave the file out"
        raise TransporterError(msg) from error


def _names_data(said: str, argv: list[str]) -> bool:
    """Whether an error speaks of a data set that was asked for, and not of the class that all of them derive from."""
    found = re.search(r"class_path '([\w.]+)'", said)
    known = [datamodules.class_path(name) for name in datamodules.names()]
    return found is not None and (found[1] in known or any(found[1] in word for word in argv))


def _names_backbones(path: str) -> bool:
    file = Path(path.rpartition("=")[2])
    return file.suffix in {".yaml", ".yml"} and file.is_file() and "backbones:" in file.read_text(encoding="utf-8")


def _replace(argv: list[str], options: Set[str], change: Callable[[str], str]) -> list[str]:
    """The command line with the values of some options changed."""
    changed, expected = [], False
    for word in argv:
        option, equals, value = word.partition("=")
        if expected:
            changed.append(change(word))
        elif equals and option in options:
            changed.append(f"{option}={change(value)}")
        else:
            changed.append(word)
        expected = not expected and word in options
    return changed


def _find(name: str) -> str:
    # the documentation writes configs/…, which is the folder's name in the repository
    packaged = PACKAGED / name.removeprefix("configs/")
    if Path(name).is_file():
        return name
    if packaged.is_file():
        return str(packaged)
    hint = did_you_mean(name, packaged_configs(), cutoff=0.4)
    msg = f"config: no file {name!r}.{hint} Packaged: {', '.join(packaged_configs()) or 'none'}"
    raise TransporterError(msg)
