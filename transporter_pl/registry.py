"""One registry for every kind of plug-in: entry points, a decorator, or a class path."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from transporter_pl.errors import TransporterError

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
        self.kind = kind
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a plug-in under a name.

        Raises:
            TransporterError: If the name is taken by another plug-in.
        """

        def add(plugin: T) -> T:
            taken = self._registered.get(name)
            same = getattr(taken, "__qualname__", taken) == getattr(plugin, "__qualname__", plugin)
            if name in self._entry_points() or (taken is not None and not same):
                msg = f"{self.kind}: the name {name!r} is already taken; choose another"
                raise TransporterError(msg)
            self._registered[name] = plugin
            return plugin

        return add

    def names(self) -> list[str]:
        """Known names, sorted; nothing is imported."""
        return sorted({*self._registered, *self._entry_points()})

    def get(self, name: str) -> T:
        """The plug-in of a name or class path.

        Raises:
            TransporterError: If the name is unknown (lists the known ones, suggests the nearest), or its import fails
                because a package is missing (names the package).
        """
        if name in self._registered:
            return self._registered[name]
        entry = self._entry_points().get(name)
        try:
            if entry is not None:
                return entry.load()  # type: ignore[no-any-return]
            if "." in name:
                module, _, attribute = name.rpartition(".")
                return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
        except (ImportError, AttributeError) as error:
            msg = f"{self.kind}: {name!r} is known but can't be imported: {error}"
            if isinstance(error, ModuleNotFoundError) and error.name:
                msg += f"; try: pip install {error.name.split('.')[0]}"
            raise TransporterError(msg) from error
        raise TransporterError(self._unknown(name))

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {e.name: e for e in entry_points(group=f"transporter_pl.{self.kind}")}

    def _unknown(self, name: str) -> str:
        known = self.names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{self.kind}: unknown name {name!r}.{hint} Known: {', '.join(known) or 'none'}; or give a class path"
