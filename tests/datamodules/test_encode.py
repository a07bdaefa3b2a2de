"""``transporter encode``: what a cache holds, that a run may be killed at any moment, what becomes of bad clips."""

import csv
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from processes import forks
from safetensors.torch import load_file, save_file

from transporter_pl.datamodules import encode as encoding
from transporter_pl.datamodules.cache.encoder import ClipEncoder
from transporter_pl.datamodules.cache.index import INDEX, LEFT_OUT
from transporter_pl.datamodules.cache.key import MANIFEST, CacheKey, Manifest
from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.datamodules.cache.shards import TENSORS, shard_name
from transporter_pl.datamodules.cache.writing import write_shards
from transporter_pl.datamodules.clips import CaptionedClips, ReadClip
from transporter_pl.datamodules.encode import encode_videos, fitting_clips
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.datamodules.vatex import VatexClips
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator, load_vlm
from transporter_pl.origin import weights_fingerprint
from transporter_pl.samples import Shapes

CLIPS = 7
BATCH = 3
SHARDS = 3
EXACT = {"atol": 0, "rtol": 0}


@pytest.fixture(scope="module")
def rendered(tiny, tmp_path_factory):
    """Folder of seven clips."""
    folder = tmp_path_factory.mktemp("rendered")
    write_clips(folder, CLIPS, tiny.video)
    return folder


@pytest.fixture
def folder(rendered, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(rendered, tmp_path / "clips")


def _data(folder, tiny, captions="first"):
    return VatexClips(folder, folder / "annotations.json", tiny.video, captions)


def _encode(data, tiny, out, **options):
    options = {"batch_size": BATCH, "shard_clips": BATCH, "device": "cpu", "storage": "float32", **options}
    return encode_videos(data, tiny.generator, tiny.vlm, out, **options)


@pytest.fixture(scope="module")
def uninterrupted(rendered, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    _encode(_data(rendered, tiny), tiny, out)
    return out


def _content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _shards(folder):
    return sorted(file.name for file in folder.glob("shard-*"))


@torch.no_grad()
def test_a_cache_holds_what_the_adapters_say(rendered, tiny, uninterrupted):
    data, cache = _data(rendered, tiny), LatentCache(uninterrupted)
    xi, omega = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    for start in range(0, CLIPS, BATCH):
        rows = list(range(start, min(start + BATCH, CLIPS)))
        clips, found = [data[row] for row in rows], cache[rows]
        video = torch.stack([clip.video for clip in clips])
        assert found.ids == tuple(clip.id for clip in clips)
        assert found.captions == tuple(clip.captions[0] for clip in clips)
        latents = xi.encode(video)
        expected = {
            "latents": latents,
            "condition": xi.encode_text(list(found.captions)),
            "tokens": omega.encode(video),
            "reencoded": omega.encode(xi.decode(latents)),
        }
        for name, tensor in expected.items():
            torch.testing.assert_close(getattr(found, name), tensor, **EXACT)
    assert cache.shapes == Shapes(xi.latent_shape, xi.condition_shape, omega.token_shape)


def test_the_key_says_what_made_the_cache(rendered, tiny, uninterrupted):
    key = LatentCache(uninterrupted).key
    assert (key.generator, key.vlm, key.video) == (tiny.generator, tiny.vlm, tiny.video)
    assert (key.clips, key.storage, key.uncaptioned) == (_data(rendered, tiny).fingerprint, "float32", "")
    xi, omega = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    assert (key.generator_weights, key.vlm_weights) == (weights_fingerprint(xi), weights_fingerprint(omega))


def test_how_a_backward_pass_would_go_is_no_part_of_the_key(rendered, tiny, tmp_path):
    _encode(_data(rendered, tiny), tiny, tmp_path)
    spared = replace(tiny, vlm=replace(tiny.vlm, checkpointing=True))
    assert _encode(_data(rendered, spared), spared, tmp_path).encoded == CLIPS


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_workers_change_nothing_but_rounding(workers, rendered, tiny, uninterrupted, tmp_path):
    report = _encode(_data(rendered, tiny), tiny, tmp_path, batch_size=2, num_workers=workers)
    assert (report.encoded, report.missing, report.broken) == (CLIPS, (), ())
    one, other = LatentCache(tmp_path)[list(range(CLIPS))], LatentCache(uninterrupted)[list(range(CLIPS))]
    assert (one.ids, one.captions) == (other.ids, other.captions)
    for name in TENSORS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-4, rtol=1e-4)


def test_how_many_clips_make_a_shard():
    small, large = Shapes((2, 1, 3, 3), (4, 5), (6, 7)), Shapes((48, 3, 30, 52), (512, 4096), (4590, 3584))
    assert fitting_clips(small, "bfloat16", 24) == 48
    assert fitting_clips(small, "bfloat16", 100) == 64
    assert fitting_clips(large, "bfloat16", 8) == 16
    assert fitting_clips(large, "bfloat16", 3) == 15
    assert fitting_clips(large, "bfloat16", 24) == 16
    assert fitting_clips(large, "bfloat16", 1, captions=100) == 11
    huge = Shapes((48, 3, 300, 520), (512, 4096), (459000, 3584))
    assert fitting_clips(huge, "float32", 2) == 1


# -- stopped and taken up again ---------------------------------------------------------------------------------------


def _stop_reading(patch, after):
    read = CaptionedClips.__getitem__

    def interrupted(self, index):
        if index == after * BATCH:
            raise KeyboardInterrupt
        return read(self, index)

    patch.setattr(CaptionedClips, "__getitem__", interrupted)


def _stop_before_the_index(patch):

    def interrupted(folder, index):
        raise KeyboardInterrupt

    patch.setattr(encoding, "write_index", interrupted)


@pytest.mark.parametrize("after", range(SHARDS))
def test_an_interrupted_run_goes_on(after, rendered, tiny, uninterrupted, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        _stop_reading(patch, after)
        with pytest.raises(KeyboardInterrupt):
            _encode(_data(rendered, tiny), tiny, tmp_path)
    with pytest.raises(TransporterError, match="unfinished"):
        LatentCache(tmp_path)
    assert _shards(tmp_path) == [shard_name(number) for number in range(after)]
    kept = {file: (tmp_path / file).stat().st_mtime_ns for file in _shards(tmp_path)}
    report = _encode(_data(rendered, tiny), tiny, tmp_path)
    assert (report.encoded, report.broken) == (CLIPS, ())
    assert kept == {file: (tmp_path / file).stat().st_mtime_ns for file in kept}
    assert _content(tmp_path) == _content(uninterrupted)


def test_a_run_that_lacks_its_index_alone(rendered, tiny, uninterrupted, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        _stop_before_the_index(patch)
        with pytest.raises(KeyboardInterrupt):
            _encode(_data(rendered, tiny), tiny, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        _stop_reading(patch, 0)
        assert _encode(_data(rendered, tiny), tiny, tmp_path).encoded == CLIPS
    assert _content(tmp_path) == _content(uninterrupted)


def test_runs_killed_at_any_moment_end_in_the_same_cache(rendered, tiny, uninterrupted, tmp_path):
    """By SIGKILL, which nothing can catch: the moments are spread over what a run lasts."""
    data, fork = _data(rendered, tiny), forks()
    _run(fork, data, tiny, tmp_path / "begun", 0)  # the server is there from the first process on
    began = time.monotonic()
    assert _run(fork, data, tiny, tmp_path / "whole", None) == 0
    lasts = time.monotonic() - began
    for number in range(6):
        out = tmp_path / f"killed-{number}"
        killed = _run(fork, data, tiny, out, lasts * (number + 1) / 7)
        _encode(data, tiny, out)
        assert _content(out) == _content(uninterrupted), killed
        assert {file.name for file in out.iterdir()} == {MANIFEST, INDEX, LEFT_OUT, *_shards(uninterrupted)}


def _run(fork, data, tiny, out, seconds):
    """Exit code of a process that encodes and is killed after some seconds."""
    process = fork.Process(target=_encode, args=(data, tiny, out))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def test_a_finished_cache_is_not_encoded_again(rendered, tiny, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        _stop_reading(patch, 0)
        assert _encode(_data(rendered, tiny), tiny, tmp_path).encoded == CLIPS
    assert _content(tmp_path) == _content(uninterrupted)


def test_a_shard_that_is_gone_or_cut_is_made_again(rendered, tiny, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / shard_name(0)).unlink()
    os.truncate(tmp_path / shard_name(2), 1000)
    _encode(_data(rendered, tiny), tiny, tmp_path)
    assert _content(tmp_path) == _content(uninterrupted)


def test_two_processes_write_what_one_does(rendered, tiny, uninterrupted, tmp_path):
    """The command, as Lightning spreads it."""
    layer = {
        "data": {"class_path": "vatex", "init_args": {"root": str(rendered), "video": asdict(tiny.video)}},
        **{name: asdict(getattr(tiny, name)) for name in ("generator", "vlm")},
    }
    layer["data"]["init_args"]["annotations"] = str(rendered / "annotations.json")
    (tmp_path / "layer.yaml").write_text(yaml.safe_dump(layer))
    options = {"devices": 2, "device": "cpu", "batch_size": BATCH, "shard_clips": BATCH, "storage": "float32"}
    options["out"] = tmp_path / "out"
    command = [str(Path(sys.executable).with_name("transporter")), "encode", "--config", str(tmp_path / "layer.yaml")]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("7 clips with 7 captions in") == 1
    assert _content(tmp_path / "out") == _content(uninterrupted)


def test_nodes_that_nothing_starts_are_refused(rendered, tiny, tmp_path, monkeypatch):
    for name in ("MASTER_ADDR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TransporterError, match="nodes: 2, but nothing starts processes there"):
        _encode(_data(rendered, tiny), tiny, tmp_path / "out", nodes=2)
    assert not (tmp_path / "out").exists()


def test_a_process_ends_when_the_one_that_started_it_is_killed(rendered, tiny, tmp_path):
    """As the others that Lightning starts would go on for hours."""
    data, fork = _data(rendered, tiny), forks()
    process = fork.Process(target=_second_of_two, args=(data, tiny, tmp_path))
    process.start()
    process.join()
    for _ in range(200):
        time.sleep(0.1)
        if (tmp_path / "ended").exists():
            break
    assert (tmp_path / "ended").read_text() == "1"
    assert len(_shards(tmp_path / "out")) < SHARDS


def _second_of_two(data, tiny, folder):
    """Starts the second process, and is gone before that has read much."""

    def second():
        read = CaptionedClips.__getitem__
        CaptionedClips.__getitem__ = lambda self, index: time.sleep(0.3) or read(self, index)
        xi, omega = _xi(tiny), _omega(tiny)
        (folder / "out").mkdir()
        key = CacheKey(tiny.generator, tiny.vlm, tiny.video, "clips", "float32")
        manifest = Manifest(key, Shapes(xi.latent_shape, xi.condition_shape, omega.token_shape), CLIPS, BATCH)
        fabric = SimpleNamespace(global_rank=1, world_size=1, is_global_zero=False, broadcast=lambda _: set())
        (folder / "begun").touch()
        try:
            write_shards(folder / "out", manifest, data, ClipEncoder(xi, omega, "empty", None, BATCH), fabric, 0)
        except SystemExit as end:
            (folder / "ended").write_text(str(end.code))

    multiprocessing.get_context("fork").Process(target=second).start()
    while not (folder / "begun").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    os._exit(0)


def test_more_gpus_than_there_are_is_refused(rendered, tiny, tmp_path):
    there = torch.cuda.device_count()
    with pytest.raises(TransporterError, match=r"devices: |device: 'cuda' is not there"):
        _encode(_data(rendered, tiny), tiny, tmp_path / "out", device="cuda", devices=there + 1)
    assert not (tmp_path / "out").exists()


# -- captions ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_clip_with_many_captions_is_encoded_once(folder, tiny, tmp_path):
    rows = json.loads((folder / "annotations.json").read_text())[:2]
    rows = [{**rows[0], "enCap": rows[0]["enCap"][:5]}, {**rows[1], "enCap": rows[1]["enCap"][:2]}]
    (folder / "annotations.json").write_text(json.dumps(rows))
    assert _encode(_data(folder, tiny, "all"), tiny, tmp_path / "out").encoded == 2
    cache, xi = LatentCache(tmp_path / "out"), load_generator(tiny.generator, tiny.video)
    assert [cache.names(row) for row in (0, 1)] == [(row["videoID"], tuple(row["enCap"])) for row in rows]
    for row, draw in ((0, 0), (0, 4), (1, 1)):
        found = cache[[(row, draw)]]
        expected = xi.encode_text([rows[row]["enCap"][draw]])
        torch.testing.assert_close(found.condition, expected, atol=1e-5, rtol=1e-5)
        assert found.captions == (rows[row]["enCap"][draw],)


@torch.no_grad()
def test_a_clip_without_a_caption_gets_an_empty_one_or_what_the_vlm_says(rendered, tiny, tmp_path):
    data, xi, omega = _data(rendered, tiny, "none"), *(load(tiny) for load in (_xi, _omega))
    _encode(data, tiny, tmp_path / "empty")
    cache = LatentCache(tmp_path / "empty")
    assert cache.key.uncaptioned == "empty"
    assert {cache.names(row)[1] for row in range(CLIPS)} == {("",)}
    torch.testing.assert_close(cache[6].condition, xi.encode_text([""]), **EXACT)
    _encode(data, tiny, tmp_path / "said", uncaptioned="vlm", prompt="Describe")
    cache = LatentCache(tmp_path / "said")
    assert cache.key.uncaptioned == "vlm: Describe"
    for row in range(CLIPS):
        (caption,) = cache[row].captions
        assert caption == omega.caption(cache[row].tokens, "Describe")[0] != ""
        torch.testing.assert_close(cache[row].condition, xi.encode_text([caption]), atol=1e-5, rtol=1e-5)
    with pytest.raises(TransporterError, match="uncaptioned = 'vlm: Describe', not 'empty'"):
        _encode(data, tiny, tmp_path / "said")


def _xi(tiny):
    return load_generator(tiny.generator, tiny.video)


def _omega(tiny):
    return load_vlm(tiny.vlm, tiny.video)


# -- what can't be encoded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True])
def test_bad_clips_are_listed_and_never_fatal(stopped, folder, tiny, uninterrupted, tmp_path, capsys):
    """One of a batch, the whole last one, one without a caption, one without a file."""
    names = _data(folder, tiny).ids
    rows = json.loads((folder / "annotations.json").read_text())
    rows[1]["enCap"] = []
    (folder / "annotations.json").write_text(json.dumps(rows))
    (folder / f"{names[0]}.mp4").unlink()
    spoilt = [names[row] for row in (2, 5, 6)]  # batches are now (2, 3, 4), (5, 6)
    for name in spoilt:
        (folder / f"{name}.mp4").write_bytes(b"no video")
    if stopped:
        with pytest.MonkeyPatch.context() as patch:
            _stop_reading(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                _encode(_data(folder, tiny), tiny, tmp_path / "out")
    for _ in range(2):  # the second time the cache is finished
        report = _encode(_data(folder, tiny), tiny, tmp_path / "out")
        assert (report.encoded, report.missing) == (2, (names[0],))
        assert [clip.id for clip in report.broken] == [names[1], *spoilt]
        assert all(clip.id in clip.reason for clip in report.broken[1:])
    said = capsys.readouterr().out
    assert "2 clips with 2 captions in" in said
    assert f"1 missing:\n  {names[0]}: no file\n" in said
    assert f"4 broken:\n  {names[1]}: it has no caption\n" in said
    assert all(name in said for name in spoilt)
    with (tmp_path / "out" / LEFT_OUT).open() as file:
        listed = list(csv.DictReader(file))
    assert [row["id"] for row in listed] == [names[0], names[1], *spoilt]
    cache, whole = LatentCache(tmp_path / "out"), LatentCache(uninterrupted)
    assert cache[[0, 1]].ids == (names[3], names[4])
    for name in TENSORS:
        torch.testing.assert_close(cache.tensor(name, [0, 1]), whole.tensor(name, [3, 4]), atol=1e-4, rtol=1e-4)


def test_encodings_that_are_not_finite_are_no_clip(rendered, tiny, uninterrupted, tmp_path):
    """One clip is too bright for the encoder: it would spoil a training."""
    data, read = _data(rendered, tiny), CaptionedClips.__getitem__

    def glaring(self, index):
        clip = read(self, index)
        return ReadClip(clip.id, clip.video * float("inf"), clip.captions) if index == 4 else clip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptionedClips, "__getitem__", glaring)
        report = _encode(data, tiny, tmp_path)
    (broken,) = report.broken
    assert (broken.id, broken.reason) == (data.ids[4], "its encodings hold values that are not finite")
    cache = LatentCache(tmp_path)
    assert [cache.names(row)[0] for row in range(6)] == [name for name in data.ids if name != broken.id]
    torch.testing.assert_close(cache.tensor("tokens", [4]), LatentCache(uninterrupted).tensor("tokens", [5]), **EXACT)


def test_no_clip_at_all_is_an_error_and_leaves_nothing(folder, tiny, tmp_path):
    for path in folder.glob("*.mp4"):
        path.write_bytes(b"no video")
    for _ in range(2):
        with pytest.raises(TransporterError, match=r"none of the 7 clips could be encoded; the first: .*\.mp4"):
            _encode(_data(folder, tiny), tiny, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


def test_long_lists_are_cut(folder, tiny, tmp_path, capsys):
    rows = json.loads((folder / "annotations.json").read_text())
    gone = [{**rows[0], "videoID": f"abcdefghijk_{number:06d}_999999"} for number in range(13)]
    (folder / "annotations.json").write_text(json.dumps([*rows, *gone]))
    assert len(_encode(_data(folder, tiny), tiny, tmp_path / "out").missing) == 13
    said = capsys.readouterr().out
    assert said.count(": no file") == 10
    assert f"and 3 more, all in {tmp_path / 'out' / LEFT_OUT}" in said
    assert (tmp_path / "out" / LEFT_OUT).read_text().count(",no file") == 13


def test_a_full_disk_is_told_and_what_is_there_stays(rendered, tiny, uninterrupted, tmp_path):
    """The operating system refuses files above a size, as a full disk does."""
    data, fork = _data(rendered, tiny), forks()
    _encode(data, tiny, tmp_path)
    (tmp_path / shard_name(1)).unlink()
    (tmp_path / INDEX).unlink()
    kept = _content(tmp_path)
    said = fork.SimpleQueue()
    process = fork.Process(target=_encode_without_room, args=(data, tiny, tmp_path, said))
    process.start()
    process.join()
    message = said.get()
    assert message.startswith(f"out: {shard_name(1)} can't be written to '{tmp_path}'")
    assert "make room there, and run the same command again" in message
    assert _content(tmp_path) == kept
    _encode(data, tiny, tmp_path)
    assert _content(tmp_path) == _content(uninterrupted)


def _encode_without_room(data, tiny, out, said):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    try:
        _encode(data, tiny, out)
        said.put("it was written")
    except TransporterError as error:
        said.put(str(error))


# -- what is refused --------------------------------------------------------------------------------------------------


def _train(model):
    """Other weights under the same path."""
    for path in model.rglob("*.safetensors"):
        weights = load_file(path)
        save_file({name: weight * 1.01 for name, weight in weights.items()}, path, {"format": "pt"})


@pytest.mark.parametrize("which", ["generator", "vlm"])
def test_other_weights_under_the_same_path_are_refused(which, rendered, tiny, tmp_path):
    spec = getattr(tiny, which)
    copy = shutil.copytree(spec.path, tmp_path / "model")
    models = replace(tiny, **{which: replace(spec, path=str(copy))})
    _encode(_data(rendered, tiny), models, tmp_path / "out")
    _encode(_data(rendered, tiny), models, tmp_path / "out")
    _train(copy)
    with pytest.raises(TransporterError, match=f"was made with {which}_weights = "):
        _encode(_data(rendered, tiny), models, tmp_path / "out")


def test_a_cache_without_shards_binds_nobody(rendered, tiny, uninterrupted, tmp_path):
    """A run with other settings stopped before its first shard."""
    with pytest.MonkeyPatch.context() as patch:
        _stop_reading(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            _encode(_data(rendered, replace(tiny, video=replace(tiny.video, fps=4.0))), tiny, tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["key"]["video"]["fps"] == 4
    _encode(_data(rendered, tiny), tiny, tmp_path)
    assert _content(tmp_path) == _content(uninterrupted)


def test_another_size_of_shards_is_refused(rendered, tiny, uninterrupted):
    with pytest.raises(TransporterError, match=r"shard_clips: 2, but the cache in .* was begun with 3; leave it out"):
        _encode(_data(rendered, tiny), tiny, uninterrupted, shard_clips=2)


def test_other_clips_are_refused(folder, tiny, uninterrupted):
    (folder / "annotations.json").write_text(json.dumps(json.loads((folder / "annotations.json").read_text())[1:]))
    with pytest.raises(TransporterError, match="was made with clips = "):
        _encode(_data(folder, tiny), tiny, uninterrupted)


def test_other_models_are_refused_before_they_are_loaded(rendered, tiny, uninterrupted):
    absent = replace(tiny, vlm=replace(tiny.vlm, path="/none"))
    with pytest.raises(TransporterError, match=r"was made with vlm\.path = .*, not '/none'"):
        _encode(_data(rendered, tiny), absent, uninterrupted)


def test_a_vlm_is_refused_before_the_generator_is_loaded(rendered, tiny, tmp_path):
    bare = shutil.copytree(tiny.generator.path, tmp_path / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    models = replace(tiny, generator=replace(tiny.generator, path=str(bare)), vlm=replace(tiny.vlm, name="video_llama"))
    with pytest.raises(TransporterError, match="vlms: unknown name 'video_llama'"):
        _encode(_data(rendered, tiny), models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is too small"),
        ({"shard_clips": 0}, "shard_clips: 0 is too small"),
        ({"devices": 0}, "devices: 0 is too small"),
        ({"nodes": -1}, "nodes: -1 is too small"),
        ({"num_workers": -1}, "num_workers: -1 is no finite number from 0 on"),
        ({"prompt": "What?"}, "prompt: 'What?', but no VLM is asked for captions"),
        ({"storage": "float8"}, "storage: 'float8' is unknown; choose bfloat16, float32, float8_e4m3fn"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message, rendered, tiny, tmp_path):
    with pytest.raises(TransporterError) as error:
        _encode(_data(rendered, tiny), tiny, tmp_path / "out", **options)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()
