import os
import socket
import subprocess

import pytest

from transporter_pl.cli import main
from transporter_pl.errors import TransporterError
from transporter_pl.files import abandoned, check_folder, replace_file


def test_a_file_is_written_or_replaced_and_nothing_else_is_touched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for text in ("one", "two"):
        replace_file(tmp_path / "file", lambda aside, text=text: aside.write_text(text))
        assert (tmp_path / "file").read_text() == text
    replace_file(tmp_path / "deep" / "down" / "file", lambda aside: aside.write_text("deep"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "file", "mine"]
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    def fails(aside):
        aside.write_text("half")
        message = "disk full"
        raise OSError(message)

    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "file", fails)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_where_a_file_is_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert check_folder("out", tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TransporterError, match=r"^out: '.*file' is a file; give a folder$"):
            check_folder("out", place)


@pytest.mark.parametrize(
    "line",
    [
        ["clips", "--config", "shapemotion/clips.yaml", "--folder"],
        ["explain", "--config", "shapemotion/explain.yaml", "--pair", "left:right", "--out"],
        ["fit", "--config", "shapemotion/concept.yaml", "--trainer.logger", "false", "--model.export"],
    ],
)
def test_commands_refuse_a_file_as_their_folder_before_they_start(line, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*line, str(tmp_path / "file")]) == 2
    assert f"{line[-1].rpartition('.')[2].lstrip('-')}: '{tmp_path / 'file'}' is a file" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path, capsys):
    layers = ["--config", "coupling/base.yaml", "--config", "scale/laptop.yaml"]
    line = ["validate", *layers, "--data.path", str(tmp_path)]
    assert main([*line, "--ckpt_path", "nope.ckpt"]) == 2
    assert "error: ckpt_path: no file 'nope.ckpt'" in capsys.readouterr().err


def test_a_folder_that_nothing_can_be_written_to_is_refused():
    with pytest.raises(TransporterError, match=r"out: can't write to '/proc' \(.*\); give another folder"):
        check_folder("out", "/proc/no/such/place")


@pytest.mark.parametrize(
    "line",
    [
        ["explain", "--config", "shapemotion/explain.yaml", "--pair", "left:right", "--out"],
        ["plan", "--config", "backbones/shapemotion_gemma3.yaml", "--out"],
        ["clips", "--config", "shapemotion/clips.yaml", "--folder"],
        ["demo", "--fast", "--out"],
    ],
)
def test_commands_refuse_such_a_folder_before_they_start(line, capsys):
    assert main([*line, "/proc/no/such/place/file.json"]) == 2
    assert "can't write to '/proc'" in capsys.readouterr().err.splitlines()[-1]


def test_what_a_killed_process_has_begun_is_abandoned_and_what_a_living_one_has_is_not(tmp_path):
    with subprocess.Popen(["true"]) as process:
        pass
    host = socket.gethostname()
    names = [
        f".part-{host}-{os.getpid()}-a",
        f".part-{host}-{process.pid}-b",
        ".part-else-where-1-c",
        ".part-other-1-d",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / names[3], (0, 0))
    assert {path.name for path in abandoned(tmp_path)} == {names[1], names[3]}
    replace_file(tmp_path / "file", lambda aside: aside.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "file"])


def test_a_process_says_whose_it_is_what_it_writes_aside(tmp_path):
    seen = []
    replace_file(tmp_path / "file", lambda aside: seen.append(aside.parent) or aside.write_text("whole"))
    assert seen[0].name.startswith(f".part-{socket.gethostname()}-{os.getpid()}-")
