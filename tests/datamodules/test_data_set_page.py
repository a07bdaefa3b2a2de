"""What docs/extending/add-a-data-set.md shows works as it stands there, and its table is complete."""

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from transporter_pl.cli import main
from transporter_pl.datamodules.clips import CaptionedClips
from transporter_pl.errors import TransporterError
from transporter_pl.registry import datamodules
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

PAGE = (Path(__file__).parents[2] / "docs" / "extending" / "add-a-data-set.md").read_text(encoding="utf-8")
SPEC = VideoSpec(frames=3, height=16, width=16, fps=8.0)


def _block(language, holding=""):
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(text for text in found if holding in text)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The page's example, imported from its file; nothing of it stays."""
    monkeypatch.setattr(datamodules, "_registered", {})
    monkeypatch.syspath_prepend(tmp_path)
    source = _block("python", "class ")
    (tmp_path / "transporter_egoclip.py").write_text(source, encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)).startswith("transporter_egoclip.py: ")
    yield importlib.import_module("transporter_egoclip")
    sys.modules.pop("transporter_egoclip")


@pytest.fixture
def table(tmp_path):
    levels = torch.arange(32.0)[:, None, None, None].expand(-1, 3, 16, 16) / 32
    write_video(tmp_path / "videos" / "one.mp4", levels, SPEC.fps, quality=0)
    rows = ["one\t1.0\t2.0\ta person runs", "one\t2.5\t3.5\tand stands", "gone\t0\t1\tnobody"]
    (tmp_path / "egoclip.csv").write_text("\n".join(["video_uid\tclip_start\tclip_end\tclip_text", *rows]))
    return tmp_path / "egoclip.csv"


def test_the_example_reads_clips(example, table):
    data = example.EgoClips(table.parent / "videos", table, SPEC)
    assert data.ids == ("one_1.000_2.0", "one_2.500_3.5")
    assert data.missing == ("gone_0.000_1.0",)
    assert data[1].captions == ("and stands",)
    torch.testing.assert_close(data[1].video[:, 0, 0, 0], torch.arange(20, 23) / 32, atol=1.5 / 255, rtol=0)


def test_the_example_says_what_is_wrong(example, table):
    table.write_text(table.read_text().replace("2.5", "soon"))
    with pytest.raises(TransporterError, match=r"egoclip\.csv', line 3, clip_start: 'soon' is no number of seconds"):
        example.EgoClips(table.parent / "videos", table, SPEC)


def test_its_name_and_its_class_path_stand_in_configs(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path.yaml").write_text(_block("yaml", "class_path"))
    (tmp_path / "name.yaml").write_text(_block("yaml", "class_path").replace("transporter_egoclip.EgoClips", "egoclip"))
    for name in ("path", "name"):
        layers = ["--config", f"{name}.yaml", "--config", "backbones/wan2.2-5b_phi4mm.yaml"]
        assert main(["encode", *layers, "--out", "cache", "--print_config"]) == 0, capsys.readouterr().err
        data = yaml.safe_load(capsys.readouterr().out)["data"]
        assert data["class_path"] == "transporter_egoclip.EgoClips"
        assert data["init_args"]["video"]["height"] == 448


def test_its_entry_point_is_its_class(example):
    project = tomllib.loads(_block("toml"))
    entry = project["project"]["entry-points"]["transporter_pl.datamodules"]["egoclip"]
    assert entry == f"{example.__name__}:{example.EgoClips.__name__}"
    assert project["tool"]["setuptools"]["py-modules"] == [example.__name__]


def test_the_table_has_every_reader():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Ours")[1], re.MULTILINE)
    assert sorted(rows) == sorted(
        name for name in datamodules.names() if issubclass(datamodules.get(name), CaptionedClips)
    )
