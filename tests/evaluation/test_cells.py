"""What a cell's folder holds, what it refuses, and who may work in it."""

import json
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import forks

from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.cells import (
    add_figures,
    content_of,
    forget_missing,
    held,
    quantised,
    store,
    stored,
    stored_figures,
    stored_video,
)
from transporter_pl.evaluation.figures import Figures

SETTINGS = {"steps": 2, "generator": {"name": "wan"}, "cases": [{"id": "a"}, {"id": "b"}]}


@pytest.fixture
def folder(tmp_path):
    """A cell that is drawn."""
    store(tmp_path / "cell", SETTINGS, torch.linspace(-0.1, 1.1, 6).reshape(1, 1, 1, 2, 3), {"captions": ["ein Oval"]})
    return tmp_path / "cell"


def test_videos_come_back_as_they_are_measured(folder):
    assert stored(folder, SETTINGS) == {"captions": ["ein Oval"]}
    expected = quantised(torch.linspace(-0.1, 1.1, 6).reshape(1, 1, 1, 2, 3))
    assert torch.equal(stored_video(folder), expected)
    said = json.loads((folder / "drawn.json").read_text())
    assert said["settings"] == SETTINGS
    assert {"torch", "transporter-pl", "python"} <= set(said["versions"])


@given(st.floats(-1, 2))
def test_kept_pixels_are_the_nearest_of_256(value):
    kept = quantised(torch.tensor([value]))
    assert (kept * 255 - (kept * 255).round()).abs().max() < 1e-4
    assert abs(kept.item() - min(max(value, 0), 1)) <= 0.5 / 255 + 1e-6
    assert torch.equal(quantised(kept), kept)


def test_a_folder_without_facts_is_not_drawn(folder, tmp_path):
    assert stored(tmp_path / "nothing", SETTINGS) is None
    (folder / "drawn.json").unlink()  # as if killed between the two files
    assert stored(folder, SETTINGS) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"steps": 3},
            r"steps: '.*drawn.json' was made with 2, not 3; give another folder as out, or delete",
        ),
        ({"generator": {"name": "mine"}}, "generator.name: .* was made with 'wan', not 'mine'"),
        ({"cases": [{"id": "a"}, {"id": "c"}]}, r"data, pairs or scenes: .* was made with 'b', not 'c'"),
        ({"cases": [{"id": "a"}]}, r"data, pairs or scenes: .* was made with 'b', not None"),
        ({"guidance": 2.0}, r"guidance: .* was made with None, not 2.0"),
    ],
)
def test_other_settings_are_refused(folder, change, message):
    with pytest.raises(TransporterError, match=message):
        stored(folder, {**SETTINGS, **change})


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"settings": 1, "facts": 2}'])
def test_what_is_not_what_we_wrote_is_drawn_again(folder, text):
    (folder / "drawn.json").write_text(text)
    assert stored(folder, SETTINGS) is None


def test_what_cannot_be_opened_is_refused(folder, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(TransporterError, match=r"out: '.*drawn.json' can't be read .*Permission denied.*; see to it"):
        stored(folder, SETTINGS)


def test_half_a_video_is_refused(folder):
    whole = (folder / "drawn.safetensors").read_bytes()
    (folder / "drawn.safetensors").write_bytes(whole[:-3])
    with pytest.raises(TransporterError, match=r"drawn.safetensors' can't be read .*; delete drawn.json beside it"):
        stored_video(folder)


def test_figures_of_several_tables_stand_side_by_side(folder):
    add_figures(folder, {"fvd": {}}, Figures({"fvd": 3.0}, {}))
    add_figures(folder, {"fvd": {"frames": 4}, "spice": {}}, Figures({"fvd": 5.0, "spice": None}, {"spice": "no Java"}))
    assert stored_figures(folder, {"fvd": {}}) == Figures({"fvd": 3.0}, {})
    assert stored_figures(folder, {"fvd": {"frames": 4}}) == Figures({"fvd": 5.0}, {})
    assert stored_figures(folder, {"spice": {}, "lpips": {}}) == Figures({"spice": None}, {"spice": "no Java"})


def test_what_was_missing_is_tried_again_and_nothing_else(folder):
    columns = {"fvd": {}, "spice": {}}
    add_figures(folder, columns, Figures({"fvd": 3.0, "spice": None}, {"spice": "no Java"}))
    forget_missing(folder, {"fvd": {}, "spice": {"of": "another table"}})
    with held(folder):
        forget_missing(folder, columns)
    assert stored_figures(folder, columns) == Figures({"fvd": 3.0, "spice": None}, {"spice": "no Java"})
    forget_missing(folder, columns)
    assert stored_figures(folder, columns) == Figures({"fvd": 3.0}, {})


def test_a_cell_that_another_process_is_at_is_left_to_it(folder):
    add_figures(folder, {"fvd": {}}, Figures({"fvd": None}, {"fvd": "no weights"}))
    with held(folder):
        forget_missing(folder, {"fvd": {}})
    assert stored_figures(folder, {"fvd": {}}).values == {"fvd": None}
    forget_missing(folder, {"fvd": {}})
    assert stored_figures(folder, {"fvd": {}}).values == {}


@pytest.mark.parametrize(
    ("need", "names"),
    [
        ("coupling", ["coupling.safetensors"]),
        ("concepts", ["concepts.safetensors"]),
        ("cache", ["index.safetensors", "cache.json"]),
    ],
)
def test_what_is_made_anew_is_told_apart(tmp_path, need, names):
    place = tmp_path / "a [1]"
    assert content_of(need, place) == str(place)  # a name at the Hub
    place.mkdir()
    for name in names:
        (place / name).write_text(name)
    first = content_of(need, place)
    (place / "shard-0000000.safetensors").write_text("large")
    assert content_of(need, place) == content_of(need, place.rename(tmp_path / "b")) == first
    for name in names:
        (tmp_path / "b" / name).write_text("anew")
        assert content_of(need, tmp_path / "b") != first
        (tmp_path / "b" / name).write_text(name)


def test_a_content_in_a_bucket():
    system = fsspec.filesystem("memory")
    system.pipe_file("/of-cells/cache.json", b"one")
    first = content_of("cache", "memory://of-cells")
    system.pipe_file("/of-cells/cache.json", b"two")
    assert content_of("cache", "memory://of-cells") != first


def test_another_drawing_has_no_figures(folder):
    add_figures(folder, {"fvd": {}}, Figures({"fvd": 3.0}, {}))
    store(folder, SETTINGS, torch.zeros(1, 1, 3, 1, 1), {})
    assert stored_figures(folder, {"fvd": {}}).values == {}


@pytest.mark.parametrize("text", ['{"[\\"fvd\\", {}]": 3}', '{"half', "[]"])
def test_figures_that_are_not_what_we_wrote_are_measured_again(folder, text):
    (folder / "figures.json").write_text(text)
    assert stored_figures(folder, {"fvd": {}}) == Figures({}, {})
    forget_missing(folder, {"fvd": {}})
    add_figures(folder, {"fvd": {}}, Figures({"fvd": 3.0}, {}))
    assert stored_figures(folder, {"fvd": {}}) == Figures({"fvd": 3.0}, {})


def _hold(folder, ours, theirs):
    with held(folder) as mine:
        theirs.put(mine)
        ours.get()


def test_a_folder_is_one_processs_until_it_ends(tmp_path):
    context = forks()
    ours, theirs = context.SimpleQueue(), context.SimpleQueue()
    other = context.Process(target=_hold, args=(tmp_path / "cell", ours, theirs))
    other.start()
    assert theirs.get() is True
    with held(tmp_path / "cell") as mine:
        assert mine is False
    other.kill()  # in the midst of its work
    with held(tmp_path / "cell", wait=True) as mine:
        assert mine is True
    other.join()
    with held(tmp_path / "cell") as mine:
        assert mine is True
