import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from transporter_pl.datamodules import encode as encoding
from transporter_pl.datamodules.cache import LatentCache
from transporter_pl.datamodules.cache_files import TENSORS, CacheWriter
from transporter_pl.datamodules.clips import join
from transporter_pl.datamodules.encode import encode_videos
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.datamodules.vatex import VatexClips
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator, load_vlm
from transporter_pl.origin import weights_fingerprint

CLIPS = 7
BATCH = 3
BATCHES = 3


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
    return encode_videos(data, tiny.generator, tiny.vlm, out, **{"batch_size": BATCH, "device": "cpu", **options})


@pytest.fixture(scope="module")
def uninterrupted(rendered, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    _encode(_data(rendered, tiny), tiny, out)
    return LatentCache(out)


@pytest.fixture
def small_shards(monkeypatch):
    """One shard a batch."""
    monkeypatch.setattr(encoding, "CacheWriter", lambda folder, key: CacheWriter(folder, key, shard_bytes=1))


def test_how_a_backward_pass_would_go_is_no_part_of_the_key(rendered, tiny, tmp_path):
    _encode(_data(rendered, tiny), tiny, tmp_path)
    spared = replace(tiny, vlm=replace(tiny.vlm, checkpointing=True))
    assert _encode(_data(rendered, spared), spared, tmp_path).encoded == CLIPS


def _assert_same(cache, other):
    assert (cache.ids, cache.captions) == (other.ids, other.captions)
    for name in TENSORS:
        one, two = (c.tensor(name, range(len(c))) for c in (cache, other))
        torch.testing.assert_close(one, two, atol=0, rtol=0)


@torch.no_grad()
def test_a_cache_holds_what_the_adapters_say(rendered, tiny, uninterrupted):
    data = _data(rendered, tiny)
    xi, omega = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    assert uninterrupted.ids == data.ids
    assert uninterrupted.captions == data.captions
    for start in range(0, CLIPS, BATCH):
        rows = list(range(start, min(start + BATCH, CLIPS)))
        clips, found = join([data[row] for row in rows]), uninterrupted[rows]
        latents = xi.encode(clips.video)
        expected = {
            "latents": latents,
            "condition": xi.encode_text(list(clips.captions)),
            "tokens": omega.encode(clips.video),
            "reencoded": omega.encode(xi.decode(latents)),
        }
        for name, tensor in expected.items():
            torch.testing.assert_close(getattr(found, name), tensor, atol=0, rtol=0)
        assert found.latents.shape[1:] == xi.latent_shape
        assert found.condition.shape[1:] == xi.condition_shape
        assert found.tokens.shape[1:] == found.reencoded.shape[1:] == omega.token_shape


def test_the_key_says_what_made_the_cache(rendered, tiny, uninterrupted):
    key = uninterrupted.key
    assert (key.generator, key.vlm, key.video) == (tiny.generator, tiny.vlm, tiny.video)
    assert key.clips == _data(rendered, tiny).fingerprint
    xi, omega = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    assert (key.generator_weights, key.vlm_weights) == (weights_fingerprint(xi), weights_fingerprint(omega))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_workers_change_nothing_but_rounding(workers, rendered, tiny, uninterrupted, tmp_path):
    report = _encode(_data(rendered, tiny), tiny, tmp_path, batch_size=2, num_workers=workers)
    assert (report.encoded, report.missing, report.broken) == (CLIPS, (), ())
    cache = LatentCache(tmp_path)
    assert (cache.ids, cache.captions) == (uninterrupted.ids, uninterrupted.captions)
    for name in TENSORS:
        one, two = (c.tensor(name, range(CLIPS)) for c in (cache, uninterrupted))
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def _interrupt_reading(monkeypatch, after):
    read = VatexClips.__getitem__

    def interrupted(self, index):
        if index == after * BATCH:
            raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(VatexClips, "__getitem__", interrupted)


def _interrupt_index(monkeypatch, after):
    """After a shard's file has its name, before the index lists it."""
    write = CacheWriter._write_index

    def interrupted(self, index):
        if len(index.shards) > after:
            raise KeyboardInterrupt
        write(self, index)

    monkeypatch.setattr(CacheWriter, "_write_index", interrupted)


def _interrupt_shard(monkeypatch, after):
    """In the middle of a shard's file."""
    write = CacheWriter._write_shard

    def interrupted(self, file):
        if len(self.index.shards) == after:
            (self.folder / f".{file}.part").write_bytes(b"half of it")
            raise KeyboardInterrupt
        return write(self, file)

    monkeypatch.setattr(CacheWriter, "_write_shard", interrupted)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("interrupt", [_interrupt_reading, _interrupt_index, _interrupt_shard])
@pytest.mark.parametrize("after", range(BATCHES))
def test_an_interrupted_run_goes_on(interrupt, after, rendered, tiny, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            _encode(_data(rendered, tiny), tiny, tmp_path)
    with pytest.raises(TransporterError, match="unfinished"):
        LatentCache(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert len(index["shards"]) == after
    kept = {shard["file"]: (tmp_path / shard["file"]).stat().st_mtime_ns for shard in index["shards"]}
    report = _encode(_data(rendered, tiny), tiny, tmp_path)
    assert (report.encoded, report.broken) == (CLIPS, ())
    assert kept == {file: (tmp_path / file).stat().st_mtime_ns for file in kept}
    _assert_same(LatentCache(tmp_path), uninterrupted)


def test_an_interrupted_run_keeps_a_shard_that_is_not_full(rendered, tiny, uninterrupted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _interrupt_reading(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            _encode(_data(rendered, tiny), tiny, tmp_path)
    (shard,) = json.loads((tmp_path / "index.json").read_text())["shards"]
    assert (shard["clips"], shard["end"]) == (2 * BATCH, 2 * BATCH)
    assert _encode(_data(rendered, tiny), tiny, tmp_path).encoded == CLIPS
    _assert_same(LatentCache(tmp_path), uninterrupted)


def test_a_finished_cache_is_not_encoded_again(rendered, tiny, uninterrupted, tmp_path, monkeypatch):
    shutil.copytree(uninterrupted.folder, tmp_path, dirs_exist_ok=True)
    _interrupt_reading(monkeypatch, 0)
    assert _encode(_data(rendered, tiny), tiny, tmp_path).encoded == CLIPS
    _assert_same(LatentCache(tmp_path), uninterrupted)


def test_every_caption_is_an_item(folder, tiny, tmp_path):
    rows = json.loads((folder / "annotations.json").read_text())[:2]
    (folder / "annotations.json").write_text(json.dumps([{**row, "enCap": row["enCap"][:3]} for row in rows]))
    assert _encode(_data(folder, tiny, "all"), tiny, tmp_path / "out").encoded == 6
    cache = LatentCache(tmp_path / "out")
    assert cache.ids == tuple(f"{row['videoID']}#{number}" for row in rows for number in range(3))
    assert cache.captions == tuple(caption for row in rows for caption in row["enCap"][:3])
    torch.testing.assert_close(cache.tensor("latents", [0]), cache.tensor("latents", [2]))
    assert not torch.equal(cache.tensor("condition", [0]), cache.tensor("condition", [2]))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("stopped", [False, True])
def test_bad_clips_are_listed_and_never_fatal(stopped, folder, tiny, uninterrupted, tmp_path, monkeypatch, capsys):
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
        with monkeypatch.context() as patch:
            _interrupt_reading(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                _encode(_data(folder, tiny), tiny, tmp_path / "out")
    for _ in range(2):  # the second time the cache is finished
        report = _encode(_data(folder, tiny), tiny, tmp_path / "out")
        assert (report.encoded, report.missing) == (2, (names[0],))
        assert [clip.id for clip in report.broken] == [names[1], *spoilt]
        assert all(clip.id in clip.reason for clip in report.broken[1:])
    said = capsys.readouterr().out
    assert "2 clips in" in said
    assert f"1 missing:\n  {names[0]}: no file\n" in said
    assert f"4 broken:\n  {names[1]}: it has no English caption\n" in said
    assert all(name in said for name in spoilt)
    cache = LatentCache(tmp_path / "out")
    assert cache.ids == (names[3], names[4])
    for name in TENSORS:
        torch.testing.assert_close(cache.tensor(name, [0, 1]), uninterrupted.tensor(name, [3, 4]), atol=1e-4, rtol=1e-4)


def test_no_clip_at_all_is_an_error(folder, tiny, tmp_path):
    for path in folder.glob("*.mp4"):
        path.write_bytes(b"no video")
    for _ in range(2):
        with pytest.raises(TransporterError, match=r"none of the 7 clips could be encoded; the first: .*\.mp4"):
            _encode(_data(folder, tiny), tiny, tmp_path / "out")
        assert len(json.loads((tmp_path / "out" / "index.json").read_text())["broken"]) == CLIPS


def test_long_lists_are_cut(folder, tiny, tmp_path, capsys):
    rows = json.loads((folder / "annotations.json").read_text())
    gone = [{**rows[0], "videoID": f"abcdefghijk_{number:06d}_999999"} for number in range(13)]
    (folder / "annotations.json").write_text(json.dumps([*rows, *gone]))
    assert len(_encode(_data(folder, tiny), tiny, tmp_path / "out").missing) == 13
    said = capsys.readouterr().out
    assert said.count(": no file") == 10
    assert "and 3 more" in said


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


@pytest.mark.usefixtures("small_shards")
def test_an_index_without_shards_binds_nobody(rendered, tiny, uninterrupted, tmp_path, monkeypatch):
    """A run with other settings stopped before its first shard."""
    with monkeypatch.context() as patch:
        _interrupt_reading(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            _encode(_data(rendered, replace(tiny, video=replace(tiny.video, fps=4.0))), tiny, tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["key"]["video"]["fps"] == 4
    _encode(_data(rendered, tiny), tiny, tmp_path)
    _assert_same(LatentCache(tmp_path), uninterrupted)


def test_other_clips_are_refused(folder, tiny, uninterrupted):
    (folder / "annotations.json").write_text(json.dumps(json.loads((folder / "annotations.json").read_text())[1:]))
    with pytest.raises(TransporterError, match="was made with clips = "):
        _encode(_data(folder, tiny), tiny, uninterrupted.folder)


def test_other_models_are_refused_before_they_are_loaded(rendered, tiny, uninterrupted):
    absent = replace(tiny, vlm=replace(tiny.vlm, path="/none"))
    with pytest.raises(TransporterError, match=r"was made with vlm\.path = .*, not '/none'"):
        _encode(_data(rendered, tiny), absent, uninterrupted.folder)


def test_a_vlm_is_refused_before_the_generator_is_loaded(rendered, tiny, tmp_path):
    bare = shutil.copytree(tiny.generator.path, tmp_path / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    models = replace(tiny, generator=replace(tiny.generator, path=str(bare)), vlm=replace(tiny.vlm, name="video_llama"))
    with pytest.raises(TransporterError, match="vlms: unknown name 'video_llama'"):
        _encode(_data(rendered, tiny), models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_a_clip(size, rendered, tiny, tmp_path):
    with pytest.raises(TransporterError, match=f"batch_size: {size} is below 1"):
        _encode(_data(rendered, tiny), tiny, tmp_path / "out", batch_size=size)
    assert not (tmp_path / "out").exists()
