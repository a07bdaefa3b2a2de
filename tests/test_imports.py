"""What may import what, and what must stay unloaded."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKS = {"backbones", "datamodules", "configs"}
HEAVY = ("torch", "transformers", "diffusers", "lightning", "matplotlib", "av", "scipy")


def core_files():
    return [p for p in (ROOT / "transporter_pl").rglob("*.py") if p.relative_to(ROOT).parts[1] not in LINKS]


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def strings(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_core_names_no_plug_in():
    """Neither in an import nor in a string, which importlib would import just as well."""
    for path in core_files():
        for plugins in ("transporter_pl.backbones", "transporter_pl.datamodules"):
            found = [text for text in {*imported(path), *strings(path)} if re.search(rf"{plugins}\b", text)]
            assert not found, f"{path} names {found}"


def test_only_backbones_import_model_libraries():
    for path in [*core_files(), *(ROOT / "datamodules").rglob("*.py")]:
        found = [n for n in imported(path) if n.split(".")[0] in {"transformers", "diffusers"}]
        assert not found, f"{path} imports {found}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["fti"]])
def test_command_line_starts_light(arguments):
    code = f"""
import json, sys
from transporter_pl.cli import main
main({arguments!r})
print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_what_python_offers_is_imported_when_it_is_asked_for():
    code = f"""
import sys
import transporter_pl
print([m for m in {HEAVY!r} if m in sys.modules])
from transporter_pl import Dial, Explainer
print(Dial("left:right").phi, Explainer.__name__, hasattr(transporter_pl, "Explorer"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]", "1.0 Explainer False"]


@pytest.mark.parametrize("folder", ["backbones", "datamodules"])
def test_bare_import_fails_loudly(folder):
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert f"import transporter_pl.{folder}" in done.stderr


def test_plug_ins_are_importable_by_their_names():
    code = "import transporter_pl.backbones.shipped, transporter_pl.datamodules, transporter_pl.configs"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_dependencies_are_what_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    optional = project["optional-dependencies"]
    extras = {re.match(r"[\w-]+", line)[0] for line in (*optional["phi4"], *optional["triton"], *optional["metrics"])}
    sources = [*core_files(), *(p for folder in LINKS for p in (ROOT / folder).rglob("*.py"))]
    packages = {n.partition(".")[0] for path in sources for n in imported(path)} - {"transporter_pl"}
    known = packages_distributions()
    needed = {known[name][0].lower().replace("_", "-") for name in packages - sys.stdlib_module_names}
    # Lightning's logger and diffusers' loading of Wan need these without an import of ours
    assert declared == needed - extras | {"tensorboard", "accelerate"}
