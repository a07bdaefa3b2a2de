"""One registry for every kind of plug-in: entry points, a decorator, or a class path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Generic, TypeVar

from transporter_pl.errors import TransporterError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names → plug-ins of one kind.

    A name resolves through the decorator ``@registry.register("name")`` in the user's own script, an entry point in
    the group ``transporter_pl.<kind>`` (ours are registered the same way as a stranger's package), or a class path
    ``package.module.Class``. Listing names imports nothing.

    Args:
        kind: Plural noun, e.g. ``"vlms"``; also the end of the entry-point group.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.group = kind, f"transporter_pl.{kind}"
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a plug-in under a name; a package may give that name to the same one as entry point.

        Raises:
            TransporterError: If the name is taken by another plug-in.
        """

        def add(plugin: T) -> T:
            taken, entry = self._registered.get(name), self._entry(name)
            again = taken is None or getattr(taken, "__qualname__", taken) == getattr(plugin, "__qualname__", plugin)
            given = entry is None or f"{entry.module}.{entry.attr}" == _class_path(plugin)
            if not again or not given:
                msg = f"{self.kind}: the name {name!r} is already taken; choose another"
                raise TransporterError(msg)
            self._registered[name] = plugin
            return plugin

        return add

    def names(self) -> list[str]:
        """Known names, sorted; nothing is imported."""
        return sorted({*self._registered, *entry_points(group=self.group).names})

    def get(self, name: str) -> T:
        """The plug-in of a name or class path.

        Raises:
            TransporterError: If the name is unknown (lists the known ones, suggests the nearest), two packages give
                it, or its import fails (names the package to install, if one is missing).
        """
        if name in self._registered:
            return self._registered[name]
        entry = self._entry(name)
        module, _, attribute = self.class_path(name).rpartition(".")
        try:
            if entry is not None:
                return entry.load()  # type: ignore[no-any-return]
            return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
        except (ImportError, AttributeError, SyntaxError) as error:
            msg = f"{self.kind}: {name!r} can't be imported: {error}; {_advice(error, entry)}"
            raise TransporterError(msg) from error

    def class_path(self, name: str) -> str:
        """``package.module.Class`` of a name, or the class path itself; nothing is imported.

        Raises:
            TransporterError: If the name is unknown, or two packages give it.
        """
        if name in self._registered:
            return _class_path(self._registered[name])
        entry = self._entry(name)
        if entry is not None:
            return f"{entry.module}.{entry.attr}"
        if "." in name and all(part.isidentifier() for part in name.split(".")):
            return name
        raise TransporterError(self._unknown(name))

    def _entry(self, name: str) -> EntryPoint | None:
        found = tuple(entry_points(group=self.group, name=name))
        if len(found) > 1:
            packages = " and ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in found))
            msg = f"{self.kind}: the name {name!r} comes from {packages}; uninstall one, or give a class path"
            raise TransporterError(msg)
        return found[0] if found else None

    def _unknown(self, name: str) -> str:
        known = self.names()
        hint = did_you_mean(name, known)
        return f"{self.kind}: unknown name {name!r}.{hint} Known: {', '.join(known) or 'none'}; or give a class path"


def _class_path(plugin: object) -> str:
    return f"{plugin.__module__}.{plugin.__qualname__}"  # type: ignore[attr-defined]


def _advice(error: ImportError | AttributeError | SyntaxError, entry: EntryPoint | None) -> str:
    """What to do about a failed import; pip can help only where a whole package is missing."""
    if isinstance(error, SyntaxError):
        return f"mend {error.filename}"
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package and package not in sys.modules and find_spec(package) is None:
        own = "" if entry else f"if {package} is yours, put its folder on PYTHONPATH, else "
        return f"{own}try: pip install {package}"
    if entry is not None:
        return f"upgrade {entry.dist.name if entry.dist else entry.module}, or what it needs"
    return "correct the class path"


# the other kinds have a class of ours, and their registry stands beside it; these are Lightning's data modules, and the
# clips that ``transporter encode`` reads
datamodules: Registry[type] = Registry("datamodules")
