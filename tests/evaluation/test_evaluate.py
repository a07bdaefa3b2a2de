"""``transporter evaluate`` as a user runs it: what it leaves, what it takes up again, what it refuses and when."""

import contextlib
import gc
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
import yaml
from evaluating import called, evaluate
from safetensors.torch import load_file

from transporter_pl.cli import main
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation import studio
from transporter_pl.evaluation.cells import held
from transporter_pl.evaluation.methods.transporter import Transporter

JOBS = [f"tiny/{row}/seed{seed}" for seed in range(2) for row in ("real", "generator", "ours")]


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    """Folder of a call that ran to its end."""
    out = tmp_path_factory.mktemp("evaluation")
    assert evaluate({**settings, "out": str(out)}) == 0
    return out


@pytest.fixture(autouse=True)
def without_pages(monkeypatch):
    """After the first call, film-strips would be most of the time, and nothing new."""
    monkeypatch.setattr("transporter_pl.evaluation.evaluate.write_pages", lambda *_: None)


@pytest.fixture
def again(settings, first, tmp_path):
    """The same config over a copy of all that the first call left."""
    return {**settings, "out": str(shutil.copytree(first, tmp_path / "out"))}


@pytest.fixture
def bare(settings, tmp_path):
    """Meanwhile the generator has no weights: whoever loads it, fails."""
    source = Path(settings["generator"]["path"])
    hidden = shutil.move(source, tmp_path / "hidden")
    shutil.copytree(hidden, source, ignore=shutil.ignore_patterns("*.safetensors"))
    yield
    shutil.rmtree(source)
    shutil.move(hidden, source)


def stamps(out):
    """When every cell's files were written."""
    files = (file for job in JOBS for file in (Path(out) / job).iterdir() if not file.name.startswith("."))
    return {file.relative_to(out): file.stat().st_mtime_ns for file in files}


def table(out):
    return json.loads((Path(out) / "a-table" / "table.json").read_text())


def pixels(out):
    return {job: load_file(Path(out) / job / "drawn.safetensors")["video"] for job in JOBS}


def interrupted(*_):
    raise KeyboardInterrupt


def test_every_cell_leaves_its_videos_and_its_figures(first, settings):
    for job in JOBS:
        folder = first / job
        video = load_file(folder / "drawn.safetensors")["video"]
        assert video.dtype == torch.uint8
        assert video.shape == (2, 5, 3, 32, 32)
        facts = json.loads((folder / "drawn.json").read_text())["facts"]
        assert len(facts["captions"]) == len(facts["positive"]) == len(facts["start"]) == 2
        assert list(json.loads((folder / "figures.json").read_text())) == ['["evaluating.Brightness", {"scale": 1.0}]']
    starts = {tuple(json.loads((first / job / "drawn.json").read_text())["facts"]["start"]) for job in JOBS}
    assert len(starts) == 2  # a seed's is every row's


def test_the_table_is_of_the_cells(first):
    said = table(first)
    assert said["rows"] == {"real": "real clips", "generator": "generator", "ours": "ours"}
    assert said["reference_rows"] == ["real"]
    ours = [cell["figures"]["values"]["evaluating.Brightness"] for cell in said["cells"] if cell["row"] == "ours"]
    spread = said["spreads"]["tiny"]["ours"]["evaluating.Brightness"]
    assert spread == {"mean": pytest.approx(fmean(ours)), "deviation": pytest.approx(stdev(ours)), "count": 2}
    assert said["settings"]["rows"]["ours"]["options"] == {"phi": 0.5}
    (pair,) = said["settings"]["pairs"]
    assert (pair["negative"], pair["positive"], pair["contexts"]) == ("left", "right", [])
    assert [case["context"] for case in said["settings"]["cases"]] == ["a red oval moves {} slowly"] * 2
    assert {"table.md", "table.tex", "index.html"} <= {file.name for file in (first / "a-table").iterdir()}
    assert (first / "a-table" / "tiny" / "left_right" / "index.html").is_file()


@pytest.mark.usefixtures("bare")
def test_a_second_call_draws_nothing_and_loads_nothing(again):
    before = stamps(again["out"])
    assert evaluate(again) == 0
    assert stamps(again["out"]) == before


def test_ctrl_c_ends_all_processes_and_the_next_call_goes_on(settings, first, tmp_path, monkeypatch):
    monkeypatch.setattr("transporter_pl.evaluation.evaluate.write_tables", interrupted)  # when a cell is done
    given = {**settings, "seeds": 1, "out": str(tmp_path)}
    assert evaluate({**given, "processes": 2}) == 130
    assert not multiprocessing.active_children()
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("tiny/*/seed0/figures.json")}
    assert done
    monkeypatch.undo()
    monkeypatch.setattr("transporter_pl.evaluation.evaluate.write_pages", lambda *_: None)
    assert len(called(given).cells) == 3
    assert {file: file.stat().st_mtime_ns for file in done} == done
    found = {job: load_file(tmp_path / job / "drawn.safetensors")["video"] for job in JOBS[:3]}
    assert all(torch.equal(video, pixels(first)[job]) for job, video in found.items())


def test_two_processes_give_the_same_though_one_dies(settings, first, tmp_path, capsys):
    rows = {"bad": {"method": "evaluating.Dying"}, "ours": settings["rows"]["ours"]}
    assert evaluate({**settings, "rows": rows, "out": str(tmp_path), "processes": 2}) == 2
    assert "error: rows: tiny, bad, seed 1: its process ended with exit code 3. The others" in capsys.readouterr().err
    assert not multiprocessing.active_children()
    spreads = table(tmp_path)["spreads"]["tiny"]
    assert spreads["ours"] == table(first)["spreads"]["tiny"]["ours"]
    assert spreads["bad"]["evaluating.Brightness"]["count"] == 1
    for job in (job for job in JOBS if "ours" in job):
        assert torch.equal(load_file(tmp_path / job / "drawn.safetensors")["video"], pixels(first)[job])


def test_a_vlm_is_gone_before_the_next_is_loaded(settings, tmp_path, monkeypatch):
    """An ascent's trainer holds it in a cycle, which Python's collector may leave for long."""
    loaded, alive, load = [], [], studio.load_vlm

    def counted(*given):
        alive.append(sum(vlm() is not None for vlm in loaded))
        vlm = load(*given)
        loaded.append(weakref.ref(vlm))
        return vlm

    monkeypatch.setattr(studio, "load_vlm", counted)
    rows = {"am": {"method": "ascent", "options": {"baseline": "am", "forwards": 4, "restarts": 1}}}
    vlms = dict.fromkeys(("one", "two"), settings["vlms"]["tiny"])
    gc.disable()
    try:
        called({**settings, "vlms": vlms, "rows": rows, "scenes": 1, "seeds": 1, "out": str(tmp_path)})
    finally:
        gc.enable()
    assert alive == [0, 0]


def test_a_process_ends_with_the_one_that_started_it_though_that_is_killed():
    code = (
        "import multiprocessing, os, signal\n"
        "from transporter_pl.evaluation.work import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('fork').Process(target=end_with_parent)\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert int(ended.stdout)  # which is at its end: the child, that had it too, is gone


def test_what_was_measured_by_another_version_is_told(again):
    file = Path(again["out"]) / JOBS[0] / "figures.json"
    said = json.loads(file.read_text())
    for figure in said.values():
        figure["versions"]["torch"] = "1.13.0"
    file.write_text(json.dumps(said))
    assert evaluate(again) == 0
    assert "1.13.0" in table(again["out"])["versions"]["torch"].split(" / ")


def test_a_row_that_fails_does_not_lose_the_others(again, capsys):
    rows = {"bad": {"method": "evaluating.Failing"}, **again["rows"]}
    assert evaluate({**again, "rows": rows}) == 2
    said = capsys.readouterr().err
    assert "error: rows: tiny, bad, seed 0: RuntimeError: no brush; see " in said
    assert "bad/seed0/error.txt. The others are done; the same call tries" in said
    folder = Path(again["out"]) / "tiny" / "bad"
    assert "in draw" in (folder / "seed0" / "error.txt").read_text()
    assert (folder / "seed1" / "drawn.json").is_file()
    assert table(again["out"])["spreads"]["tiny"]["bad"]["evaluating.Brightness"]["count"] == 1


def test_other_columns_take_the_drawings_over(again):
    before = {file: when for file, when in stamps(again["out"]).items() if file.name != "figures.json"}
    columns = {"evaluating.Brightness": {"scale": 2.0}}
    called({**again, "columns": columns, "title": "Twice"})
    assert {file: when for file, when in stamps(again["out"]).items() if file in before} == before
    twice = json.loads((Path(again["out"]) / "twice" / "table.json").read_text())["spreads"]["tiny"]
    once = table(again["out"])["spreads"]["tiny"]
    for row, figures in twice.items():
        assert figures["evaluating.Brightness"]["mean"] == pytest.approx(2 * once[row]["evaluating.Brightness"]["mean"])
    called(again)  # what both tables measured is there


def test_a_figure_more_does_not_take_the_others_away(again):
    """What is drawn stays in the table, whatever becomes of a new column's figures."""
    columns = {"evaluating.Brightness": None, "whole": None}
    folder = Path(again["out"]) / "tiny" / "real" / "seed1"
    with held(folder):
        called({**again, "columns": columns})
    figures = {(c["row"], c["seed"]): c["figures"]["values"] for c in table(again["out"])["cells"]}
    assert len(figures) == 6
    assert [key for key, values in figures.items() if len(values) == 1] == [("real", 1)]


@pytest.mark.parametrize("damaged", ["starts/seed0/drawn.safetensors", "tiny/ours/seed0/drawn.safetensors"])
def test_what_is_damaged_is_drawn_again(again, damaged):
    file = Path(again["out"]) / damaged
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    (file.parents[2] / "tiny" / "ours" / "seed0" / "drawn.json").unlink(missing_ok=True)
    called(again)
    assert file.read_bytes() == whole


def test_a_cell_that_another_call_is_at_is_left_to_it(again, capsys):
    folder = Path(again["out"]) / "tiny" / "real" / "seed1"
    (folder / "drawn.json").unlink()
    with held(folder):
        called(again)
    assert "1 of 6 cells are under way in another call" in capsys.readouterr().out
    assert not (folder / "drawn.json").exists()


def test_broken_reference_clips_are_told(settings, clips, tmp_path, capsys):
    data = shutil.copytree(clips, tmp_path / "clips")
    (data / "0.mp4").write_bytes(b"no video")
    init = {**settings["data"]["init_args"], "root": str(data), "captions_file": str(data / "captions.csv")}
    given = {"data": {**settings["data"], "init_args": init}, "rows": {"real": {"method": "real"}}, "seeds": 1}
    called({**settings, **given, "out": str(tmp_path / "out")})
    assert "references: 0: video: " in capsys.readouterr().out


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps: '.*drawn.json' was made with 2, not 3; give another folder as out"),
        (
            {"scenes": 1},
            "data, pairs or scenes: .* was made with '7', not None; .* for 7 more: starts, seed 1; tiny",
        ),
        ({"references": 2}, "data or references: .* was made with '3 clips, .*', not '2 clips"),
        ({"rows": {"ours": {"method": "transporter"}}}, "options.phi: .* was made with 0.5, not 1.0"),
        ({"rows": {"ours": {"method": "generator"}}}, "method: .* was made with 'transporter', not 'generator'"),
        ({"seeds": 0}, "seeds: 0 is too small"),
        ({"processes": 0}, "processes: 0 is too small"),
        ({"out": __file__}, "out: .* is a file; give a folder"),
        ({"columns": {}}, "columns: none is given"),
        ({"columns": {"evaluating.Darkness": {}}}, "columns: 'evaluating.Darkness' can't be imported"),
        ({"pairs": []}, "pairs: none; give at least one"),
        ({"pairs": ["left"]}, "pair: 'left' is not two words"),
        (
            {"pairs": ["red:blue"], "rows": {"it": {"method": "real"}}},
            "pairs: no clip has a caption with 'blue' once",
        ),
        ({"rows": {}}, "rows: none"),
        ({"vlms": {}}, "vlms: none"),
        ({"title": "!"}, "title: '!' names the folder of the table"),
        ({"title": "Starts"}, "title: 'Starts' names the folder of the table; .* none of starts, ends, trained"),
        ({"rows": {"../ours": {"method": "real"}}}, "rows: '../ours' names a folder"),
        ({"rows": {200: {"method": "real"}}}, "rows: 200 names a folder; .* in quotes if digits alone"),
        (
            {"rows": {"am": {"method": "ascent", "options": {"forwards": 4}}}},
            "rows.am: options.baseline: none is given, and 'ascent' has no default for it",
        ),
        ({"columns": {"evaluating.Bare": {}}}, "columns.evaluating.Bare: Bare has no label"),
        (
            {"vlms": {"starts": {"vlm": {"name": "a", "path": "b"}}}},
            "vlms: 'starts' names a folder; .* are taken",
        ),
        ({"rows": {"it": {"method": "rael"}}}, "rows.it: methods: unknown name 'rael'. Did you mean 'real'"),
        (
            {"rows": {"it": {"method": "real", "options": {"a": 1}}}},
            "rows.it: options: 'real' has no option 'a'",
        ),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not there"),
    ],
)
def test_bad_input_is_refused_before_weights_are_loaded(again, change, message):
    before = stamps(again["out"])
    with pytest.raises(TransporterError, match=f"^{message}"):
        called({**again, **change})
    assert stamps(again["out"]) == before


def test_a_row_that_is_given_again_keeps_nothing_of_the_earlier(settings, tmp_path, capsys):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(yaml.safe_dump({**settings, "out": "out"}))
    second.write_text("rows: {ours: {method: generator}, real: {method: real}}")
    given = json.dumps(yaml.safe_load(second.read_text())["rows"])
    for more in (["--config", str(second)], ["--rows", given]):
        with contextlib.suppress(SystemExit):
            main(["evaluate", "--config", str(first), *more, "--print_config"])
        rows = yaml.safe_load(capsys.readouterr().out)["rows"]
        assert {name: row["method"] for name, row in rows.items()} == {"ours": "generator", "real": "real"}
        assert not any(row["options"] or row["label"] for row in rows.values())


def test_a_negative_word_that_no_caption_holds_is_told(again, capsys):
    evaluate({**again, "pairs": ["lft:right"], "rows": {"real": {"method": "real"}}, "out": f"{again['out']}-other"})
    assert "lft:right: no clip has a caption with 'lft' once. Did you mean 'left'?" in capsys.readouterr().out


def test_a_row_that_lacks_what_it_needs_is_refused(again, tiny):
    vlms = {**again["vlms"], "plain": {"vlm": asdict(tiny.vlm)}}
    with pytest.raises(TransporterError, match=r"^rows.ours with vlms.plain: coupling: none is given"):
        called({**again, "vlms": vlms})


def test_a_bank_that_was_trained_anew_is_another_setting(again, tmp_path):
    mine = again["vlms"]["tiny"]
    bank = shutil.copytree(mine["concepts"], tmp_path / "bank")
    vlms = {"tiny": {**mine, "concepts": str(bank)}}
    called({**again, "vlms": vlms})  # moved, and the same
    found = ConceptBank.from_pretrained(bank)
    found.entries[0].vector.mul_(2)
    found.save(bank)
    with pytest.raises(TransporterError, match=r"^concepts: '.*ours/seed0/drawn.json' was made with 'content "):
        called({**again, "vlms": vlms})


def test_another_default_is_another_setting(again, monkeypatch):
    """An option that nobody gave is what it was when the cell was drawn."""
    rows = {"ours": {"method": "transporter"}}
    given = {**again, "rows": rows, "seeds": 1, "out": f"{again['out']}-plain"}
    called(given)
    called({**given, "rows": {"ours": {"method": "transporter", "options": {"phi": 1.0}}}})  # the default, written
    monkeypatch.setattr(Transporter.__init__, "__defaults__", (0.5,))
    with pytest.raises(TransporterError, match=r"^options.phi: .* was made with 1.0, not 0.5"):
        called(given)


def test_what_a_method_adds_is_a_setting(again, monkeypatch):
    monkeypatch.setattr(Transporter, "settings", lambda *_: {"baseline": {"lr": 0.1}})
    with pytest.raises(TransporterError, match=r"^baseline.lr: .* was made with None, not 0.1"):
        called(again)
