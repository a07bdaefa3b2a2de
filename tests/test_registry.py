"""Names → plug-ins."""

from importlib.metadata import entry_points

import pytest

from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry

GROUPS = ("generators", "vlms", "transports", "divergences", "datamodules")


class Ours:
    """A plug-in of the user's own script."""


def test_decorator_registers():
    registry = Registry("tests")
    assert registry.register("ours")(Ours) is Ours
    assert registry.get("ours") is Ours
    assert registry.names() == ["ours"]


def test_class_path_resolves():
    assert Registry("tests").get("transporter_pl.registry.Registry") is Registry


def test_a_taken_name_is_refused():
    registry = Registry("tests")
    registry.register("ours")(Ours)
    with pytest.raises(TransporterError, match="'ours' is already taken"):
        registry.register("ours")(int)


def test_a_registered_entry_point_is_not_overridden():
    with pytest.raises(TransporterError, match="'wan' is already taken"):
        Registry("generators").register("wan")(Ours)


def test_the_same_class_may_come_again():
    """A notebook cell that is run twice."""
    registry = Registry("tests")
    registry.register("ours")(Ours)
    registry.register("ours")(Ours)


def test_unknown_name_lists_and_suggests():
    with pytest.raises(TransporterError) as raised:
        Registry("transports").get("zetta")
    assert str(raised.value).startswith("transports: unknown name 'zetta'. Did you mean 'zeta'?")
    assert "second_only" in str(raised.value)


def test_missing_package_names_the_pip_command():
    with pytest.raises(TransporterError, match="pip install no_such_package"):
        Registry("vlms").get("no_such_package.module.Class")


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, e.name) for g in GROUPS for e in entry_points(group=f"transporter_pl.{g}") if "transporter_pl" in e.value],
)
def test_every_registered_name_resolves(group, name):
    assert callable(Registry(group).get(name))
