"""Names → plug-ins."""

import json
from importlib.metadata import entry_points

import pytest

from transporter_pl.commands.listing import KINDS
from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry, datamodules
from transporter_pl.transport.mean import MeanTransport

GROUPS = (*KINDS, "commands", "checkpoints")


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


def test_what_a_package_gives_may_be_decorated_too():
    """So the same file serves as a script and, later, as a package."""
    registry = Registry("transports")
    registry.register("mean")(MeanTransport)
    assert registry.get("mean") is MeanTransport
    with pytest.raises(TransporterError, match="'zeta' is already taken"):
        registry.register("zeta")(MeanTransport)


def test_unknown_name_lists_and_suggests():
    with pytest.raises(TransporterError) as raised:
        Registry("transports").get("zetta")
    assert str(raised.value).startswith("transports: unknown name 'zetta'. Did you mean 'zeta'?")
    assert "second_only" in str(raised.value)


def test_missing_package_names_the_pip_command():
    with pytest.raises(TransporterError, match=r"can't be imported: .*try: pip install no_such_package$") as raised:
        Registry("vlms").get("no_such_package.module.Class")
    assert "; if no_such_package is yours, put its folder on PYTHONPATH, else try" in str(raised.value)


def test_a_file_that_python_can_not_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "spoilt.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TransporterError, match=r"vlms: 'spoilt.Mine' can't be imported: .*; mend .*spoilt\.py$"):
        Registry("vlms").get("spoilt.Mine")


@pytest.mark.parametrize("path", ["transporter_pl.registri.Registry", "transporter_pl.registry.Registri", "json.no.C"])
def test_a_typo_is_nothing_that_pip_can_help(path):
    with pytest.raises(TransporterError, match=r"can't be imported: .*; correct the class path$") as raised:
        Registry("vlms").get(path)
    assert "pip" not in str(raised.value)
    assert "known" not in str(raised.value)


@pytest.mark.parametrize("path", [".zeta", "zeta.", "./zeta"])
def test_what_is_no_class_path_is_an_unknown_name(path):
    with pytest.raises(TransporterError, match=f"unknown name '{path}'"):
        Registry("transports").get(path)


def test_one_name_of_two_packages_is_refused(tmp_path, monkeypatch):
    for package in ("first", "second"):
        folder = tmp_path / f"{package}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        listed = f"ours = {package}.module:Class\nonly_{package} = json:loads\n"
        (folder / "entry_points.txt").write_text(f"[transporter_pl.tests]\n{listed}")
    with (tmp_path / "second-1.dist-info" / "entry_points.txt").open("a") as file:
        file.write("broken = json:no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("tests")
    with pytest.raises(TransporterError, match="tests: the name 'ours' comes from first and second; uninstall one"):
        registry.get("ours")
    assert registry.get("only_first") is json.loads  # the others stay of use
    assert registry.names() == ["broken", "only_first", "only_second", "ours"]
    with pytest.raises(TransporterError, match=r"'broken' can't be imported: .*; upgrade second, or what it needs$"):
        registry.get("broken")


def test_class_path_of_a_name():
    registry = Registry("transports")
    registry.register("ours")(Ours)
    assert registry.class_path("ours") == f"{__name__}.Ours"
    assert registry.class_path("zeta") == "transporter_pl.transport.zeta.ZetaTransport"
    assert registry.class_path("my_package.Mine") == "my_package.Mine"
    assert datamodules.class_path("cache") == "transporter_pl.datamodules.cache.datamodule.CacheDataModule"


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, e.name) for g in GROUPS for e in entry_points(group=f"transporter_pl.{g}") if "transporter_pl" in e.value],
)
def test_every_registered_name_resolves(group, name):
    assert callable(Registry(group).get(name)) or group == "commands"
