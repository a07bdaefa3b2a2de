"""Options of a plug-in that a config gives by name, held against its signature."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry

T = TypeVar("T")


def plugin_class(registry: Registry[type[T]], port: type, field: str, name: str) -> type[T]:
    """The class of a registered name or class path, which may name anything.

    Args:
        registry: Where names are looked up.
        port: What the class must derive from.
        field: What it is in a config.
        name: Registered name or class path.

    Raises:
        TransporterError: If the name is unknown or another kind of thing.
    """
    kind = registry.get(name)
    if not (isinstance(kind, type) and issubclass(kind, port)):
        msg = f"{field}: {name!r} is no {port.__name__}; give a registered name, or the class path of one"
        raise TransporterError(msg)
    return kind


def check_first(field: str, kind: type, argument: str, meaning: str) -> None:
    """Refuse a plug-in whose ``__init__`` does not begin with what it is built for.

    Raises:
        TransporterError: If so.
    """
    if next(iter(inspect.signature(kind).parameters), None) != argument:
        msg = f"{field}: the first argument of {kind.__name__} is not `{argument}`, {meaning}; let it be"
        raise TransporterError(msg)


def check_options(
    field: str,
    name: str,
    kind: type,
    options: Mapping[str, Any],
    given: Collection[str] = (),
    place: str | None = None,
) -> None:
    """Refuse options that a class does not have or lacks, or of another type than it takes, as far as plain types go.

    Args:
        field: What the class is in a config: ``transport`` has ``transport_options``.
        name: Its registered name.
        kind: The class.
        options: The options.
        given: Arguments of its ``__init__`` that are no options.
        place: Where the options stand in a config; by default beside the name, as ``transport_options`` does.

    Raises:
        TransporterError: Naming the first that is wrong, and what there is.
    """
    parameters = {key: one for key, one in inspect.signature(kind).parameters.items() if key not in given}
    known = list(parameters)
    hints, where = _hints(kind), place or f"{field}_options"
    for option, value in options.items():
        if option not in known:
            msg = f"{where}: {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}"
            rest = f". Another {field}'s, from a config, go with `{where}: {{}}`" if place is None else ""
            raise TransporterError(msg + rest)
        if not _fits(value, hints.get(option)):
            wanted = getattr(hints[option], "__name__", hints[option])
            msg = f"{where}.{option}: {value!r} is of the wrong type; give {name!r} a value of type {wanted}"
            raise TransporterError(msg)
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for option, one in parameters.items():
        if option not in options and one.default is one.empty and one.kind in single:
            msg = f"{where}.{option}: none is given, and {name!r} has no default for it; give one"
            raise TransporterError(msg)


def resolved(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a class: those that are given, and the defaults of the others.

    Args:
        kind: The class.
        options: Those that are given; an argument without default that is not among them is left out.
    """
    parameters = inspect.signature(kind).parameters.values()
    return {**{one.name: one.default for one in parameters if one.default is not one.empty}, **options}


def _hints(kind: type) -> dict[str, Any]:
    """Types of a class's arguments; none where some exist for type checkers alone."""
    try:
        return get_type_hints(kind.__init__)  # type: ignore[misc]
    except NameError:
        return {}


def _fits(value: object, hint: object) -> bool:
    """Whether a value is of an option's type, as far as plain ones go."""
    kinds: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
    if get_origin(hint) is Literal:
        return type(value) in {type(choice) for choice in get_args(hint)}
    return hint not in kinds or (isinstance(value, kinds[hint]) and (hint is bool or not isinstance(value, bool)))
