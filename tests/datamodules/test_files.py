import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from transporter_pl.datamodules.shapemotion import files
from transporter_pl.datamodules.shapemotion.files import frame_side, read_scene, write_clips
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import (
    FACTORS,
    TEMPLATES,
    Scene,
    combinations,
    parse_caption,
    render,
    sample_scene,
)
from transporter_pl.datamodules.vatex import VatexClips, parse_vatex
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=9, height=64, width=64)
SMALL = VideoSpec(frames=5, height=32, width=32)
COUNT = 40  # more than are rendered at once


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    assert write_clips(folder, COUNT, SPEC, seed=3) == folder / "annotations.json"
    return folder


@pytest.fixture(scope="module")
def video(folder):
    """What is read from the files, (COUNT, T, 3, H, W)."""
    data = VatexClips(folder, folder / "annotations.json", SPEC)
    return torch.stack([data[index].video for index in range(len(data))])


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_annotations_are_vatexs(folder):
    rows, scene = parse_vatex(folder / "annotations.json"), read_scene(folder)
    assert len({row.id for row in rows}) == len(rows) == len(scene) == COUNT
    for row, words in zip(rows, scene.words.tolist(), strict=True):
        assert (folder / f"{row.id}.mp4").is_file()
        assert (row.start, row.end) == (0, 2)  # 9 frames at 8 fps
        assert len(row.captions) == 10
        assert all(list(parse_caption(caption).values()) == words for caption in row.captions)
        assert len(set(row.captions)) == len(TEMPLATES)
    assert tuple(row.captions[0] for row in rows) == tuple(scene.captions())


def test_every_file_is_found_and_nothing_is_broken(folder):
    data = VatexClips(folder, folder / "annotations.json", SPEC)
    assert (len(data), data.missing, data.broken) == (COUNT, (), ())
    assert {path.suffix for path in folder.iterdir()} == {".mp4", ".json", ".safetensors"}


def test_files_show_the_scenes_that_were_drawn(video):
    draws = torch.Generator().manual_seed(3)
    scene = sample_scene(COUNT, draws)
    parts = [Scene(scene.words[at : at + 32], scene.values[at : at + 32]) for at in (0, 32)]
    drawn = torch.cat([render(part, SPEC.frames, SPEC.height, draws) for part in parts])
    assert (video - drawn).abs().max() < 5 / 255  # 8 bits of YUV
    assert (video - drawn).square().mean() < 10**-5


def test_the_reader_agrees_with_the_truth(folder, video):
    scene, reading = read_scene(folder), read(video)
    assert (reading.words == scene.words).float().mean() >= 0.99
    assert reading.whole.all()
    assert reading.residual.max() < 0.02
    for name, tolerance in {"size": 2e-3, "shape": 0.03, "speed": 6e-4, "background": 8e-3}.items():
        torch.testing.assert_close(reading.value(name), scene.value(name), atol=tolerance, rtol=0)


def test_a_folder_is_completed_by_the_same_bytes(tmp_path):
    write_clips(tmp_path, COUNT, SMALL)
    before = _content(tmp_path)
    for name in sorted(before)[::3]:
        if name != "scenes.safetensors":
            (tmp_path / name).unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    assert len(kept) < COUNT
    write_clips(tmp_path, COUNT, SMALL)
    assert _content(tmp_path) == before
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.parametrize("after", [5, 33])
def test_an_interrupted_folder_is_completed(after, tmp_path, monkeypatch):
    write_clips(tmp_path / "whole", COUNT, SMALL)
    write, written = files.write_video, []

    def interrupted(path, *args, **options):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_video", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_clips(tmp_path / "part", COUNT, SMALL)
    assert not (tmp_path / "part" / "annotations.json").exists()
    write_clips(tmp_path / "part", COUNT, SMALL)
    assert _content(tmp_path / "part") == _content(tmp_path / "whole")


def test_seeds_give_other_scenes(tmp_path):
    for seed in (0, 1):
        write_clips(tmp_path / str(seed), 4, SMALL, seed=seed)
    assert not torch.equal(read_scene(tmp_path / "0").values, read_scene(tmp_path / "1").values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 3}, "count: .* holds clips with 2, now 3"),
        ({"seed": 1}, "seed: .* holds clips with 0, now 1"),
        ({"held_out": True}, "held_out: .* holds clips with False, now True"),
        ({"spec": VideoSpec(6, 32, 32)}, "frames: .* holds clips with 5, now 6"),
        ({"spec": VideoSpec(5, 48, 48)}, "height: .* holds clips with 32, now 48"),
        ({"spec": VideoSpec(5, 32, 32, 9.0)}, "fps: .* holds clips with 8.0, now 9.0"),
    ],
)
def test_other_settings_are_refused_by_their_field(options, message, tmp_path):
    settings = {"count": 2, "spec": SMALL, "seed": 0, "held_out": False}
    write_clips(tmp_path, **settings)
    before = _content(tmp_path)
    with pytest.raises(TransporterError, match=f"^{message}; use another folder"):
        write_clips(tmp_path, **{**settings, **options})
    assert _content(tmp_path) == before


def test_clips_of_an_older_world_are_refused(tmp_path):
    write_clips(tmp_path, 2, SMALL)
    truth = load_file(tmp_path / "scenes.safetensors")
    settings = {"count": 2, "frames": 5, "height": 32, "width": 32, "fps": 8.0, "seed": 0, "held_out": False}
    truth["values"][0, 0] += 0.01
    save_file(truth, tmp_path / "scenes.safetensors", {"settings": json.dumps(settings)})
    with pytest.raises(TransporterError, match="clips of an older ShapeMotion"):
        write_clips(tmp_path, 2, SMALL)


def test_held_out_clips_show_what_training_never_does(tmp_path):
    kinds = {held_out: set(map(tuple, combinations(held_out).tolist())) for held_out in (False, True)}
    for held_out in kinds:
        write_clips(tmp_path / str(held_out), COUNT, VideoSpec(1, 16, 16), held_out=held_out)
        captions = [row.captions[0] for row in parse_vatex(tmp_path / str(held_out) / "annotations.json")]
        assert {tuple(parse_caption(caption)[name] for name in FACTORS) for caption in captions} <= kinds[held_out]
    assert not kinds[False] & kinds[True]


@given(side=st.integers(1, 512), other=st.integers(1, 512))
def test_frames_are_square(side, other):
    assert frame_side(VideoSpec(9, side, side)) == side
    if other != side:
        with pytest.raises(TransporterError, match=f"^video: {side}x{other} is not square"):
            frame_side(VideoSpec(9, side, other))


def test_nothing_is_written_for_frames_that_are_not_square(tmp_path):
    with pytest.raises(TransporterError, match="is not square"):
        write_clips(tmp_path / "clips", 2, VideoSpec(5, 32, 48))
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("count", [0, -1])
def test_a_folder_holds_a_clip(count, tmp_path):
    with pytest.raises(TransporterError, match=f"count: {count} is below 1"):
        write_clips(tmp_path / "clips", count, SMALL)
    assert not (tmp_path / "clips").exists()


def test_other_folders_have_no_truth(tmp_path):
    with pytest.raises(TransporterError, match=r"no scenes\.safetensors in"):
        read_scene(tmp_path)
    (tmp_path / "scenes.safetensors").write_bytes(b"cut")
    for use in (read_scene, lambda folder: write_clips(folder, 2, SMALL)):
        with pytest.raises(TransporterError, match=r"scenes\.safetensors' can't be read"):
            use(tmp_path)
