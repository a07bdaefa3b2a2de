"""A wheel built from the tree holds the tree, and works where it is installed."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from transporter_pl.backbones.shipped import shipped_names

ROOT = Path(__file__).parents[1]
FOLDERS = {  # folder in the tree → in the wheel
    "transporter_pl": "transporter_pl",
    "backbones": "transporter_pl/backbones",
    "datamodules": "transporter_pl/datamodules",
    "configs": "transporter_pl/configs",
}


def tree_files(root, folder):
    """Files under a folder, links and caches left out."""
    return {
        p.relative_to(root / folder).as_posix()
        for p in (root / folder).rglob("*")
        if p.is_file()
        and not any((root / folder / q).is_symlink() for q in p.relative_to(root / folder).parents)
        and "__pycache__" not in p.parts
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, as building leaves traces in the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's content, which is what installing a pure wheel is."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_wheel_holds_the_tree(wheel):
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {f"{target}/{name}" for folder, target in FOLDERS.items() for name in tree_files(ROOT, folder)}
    assert sorted(held - expected) == []
    assert sorted(expected - held) == []


def test_wheel_has_licence_and_entry_points(wheel):
    archive = zipfile.ZipFile(wheel)
    described = {n.partition(".dist-info/")[2]: n for n in archive.namelist() if ".dist-info/" in n}
    assert "licenses/LICENSE" in described
    assert "transporter = transporter_pl.cli:main" in archive.read(described["entry_points.txt"]).decode()


def test_every_package_is_a_package():
    for folder in FOLDERS:
        for path in {(ROOT / folder / n).parent for n in tree_files(ROOT, folder) if n.endswith(".py")}:
            assert (path / "__init__.py").is_file(), f"{path.relative_to(ROOT)} has no __init__.py"


def test_package_list_is_the_tree():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        (Path(target) / Path(name).parent).as_posix().replace("/", ".")
        for folder, target in FOLDERS.items()
        for name in tree_files(ROOT, folder)
        if name.endswith("__init__.py")
    }
    assert listed == found


def test_installed_wheel_runs_outside_the_tree(installed, tmp_path):
    """Registry, configs and checkpoints are found where the wheel lies, not in the tree."""
    code = """
import sys, transporter_pl
from transporter_pl.cli import main
print(transporter_pl.__file__)
main(["--help"])
sys.exit(main(["list"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(installed), "PATH": "", "COLUMNS": "200", "PYTHONUTF8": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert "shapemotion/pretrain_vae.yaml" in done.stdout
    assert "captioned videos → latent cache" in done.stdout  # a plug-in's command
    assert all(name in done.stdout for name in shipped_names())
