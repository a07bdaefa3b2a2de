"""The documentation's commands parse, with the files that it shows, and its Python names what it imports."""

import ast
import builtins
import re
import shlex
from pathlib import Path

import pytest

from transporter_pl.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page):
    """The words of every ``transporter`` command in the page's shell blocks."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("transporter ")]


def write_files(page, folder):
    """Every YAML block that begins with its name, ``# mine.yaml: …``."""
    for block in blocks(page, "yaml"):
        name = re.match(r"# (\S+\.yaml):", block)
        if name:
            (folder / name[1]).write_text(block, encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(p, c, id=f"{p.name}: {shlex.join(c)}"[:70]) for p in PAGES for c in commands(p)]
)
def test_commands_parse(page, words, tmp_path, monkeypatch, capsys):
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([*words[1:], "--print_config"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_imports_what_it_names(page):
    for block in blocks(page, "python"):
        tree, known = ast.parse(block), dict(vars(builtins))
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import)]
        exec(compile(ast.Module(imports, []), page.name, "exec"), known)
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        made |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        assert {node.id for node in names} - made - known.keys() == set()


def test_there_are_commands_to_parse():
    assert all(commands(ROOT / page) for page in ("README.md", "docs/quick-start.md"))
