import json
import pickle
from dataclasses import replace

import pytest
import torch

from transporter_pl.datamodules.cache import CacheDataModule, LatentCache
from transporter_pl.datamodules.cache_files import TENSORS, CacheKey, CacheWriter, check_key
from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, Origin, Shapes, VideoSpec

SHAPES = Shapes(latents=(2, 1, 3, 3), condition=(4, 5), tokens=(6, 7))
KEY = CacheKey(BackboneSpec("wan", "a"), BackboneSpec("vl", "b"), VideoSpec(5, 32, 32), "c1", "w1", "w2")


def _encoded(names, seed=0, dtype=torch.float32):
    draws = torch.Generator().manual_seed(seed)
    shapes = (SHAPES.latents, SHAPES.condition, SHAPES.tokens, SHAPES.tokens)
    tensors = [torch.randn(len(names), *shape, generator=draws).to(dtype) for shape in shapes]
    return Encoded(tuple(names), tuple(f"caption “{name}”" for name in names), *tensors)


def _join(batches):
    ids, captions = (tuple(text for b in batches for text in getattr(b, field)) for field in ("ids", "captions"))
    return Encoded(ids, captions, *(torch.cat([getattr(b, name) for b in batches]) for name in TENSORS))


def _write(folder, batches, shard_bytes=1000):
    writer, end = CacheWriter(folder, KEY, shard_bytes), 0
    for batch in batches:
        end += len(batch.ids)
        writer.add(batch, [], end)
    return writer.finish()


def _assert_same(one, other):
    assert (one.ids, one.captions) == (other.ids, other.captions)
    for name in TENSORS:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=0, rtol=0)


@pytest.fixture
def batches():
    return [_encoded([f"clip{b}-{i}" for i in range(size)], seed=b) for b, size in enumerate((3, 1, 2, 4))]


@pytest.fixture
def folder(tmp_path, batches):
    """A cache of ten clips in several shards."""
    assert len(_write(tmp_path / "cache", batches).shards) > 2
    return tmp_path / "cache"


def _items(names, folder):
    _write(folder, [_encoded(names)])
    return CacheDataModule(folder, batch_size=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard_bytes", [1, 2000, 2**20])
def test_what_is_written_comes_back(dtype, shard_bytes, tmp_path):
    written = [_encoded([f"{b}-{i}" for i in range(3)], b, dtype) for b in range(4)]
    index = _write(tmp_path, written, shard_bytes)
    cache, whole = LatentCache(tmp_path), _join(written)
    assert len(cache) == sum(shard.clips for shard in index.shards) == 12
    assert (cache.ids, cache.captions, cache.key) == (whole.ids, whole.captions, KEY)
    _assert_same(cache[list(range(12))], whole)


def test_rows_are_read_in_the_order_asked_for(folder, batches):
    cache, whole = LatentCache(folder), _join(batches)
    for rows in ([0], [9, 0, 3, 3, 5], [2, 1]):
        for name in TENSORS:
            torch.testing.assert_close(cache.tensor(name, rows), getattr(whole, name)[rows], atol=0, rtol=0)
        assert cache[rows].ids == tuple(whole.ids[row] for row in rows)
        assert cache[rows].captions == tuple(whole.captions[row] for row in rows)


def test_one_index_is_a_batch_of_one(folder, batches):
    cache, whole = LatentCache(folder), _join(batches)
    for row in (0, 3, 9):
        _assert_same(cache[row], cache[[row]])
        torch.testing.assert_close(cache[row].latents, whole.latents[row : row + 1], atol=0, rtol=0)
    _assert_same(cache[-1], cache[9])
    for row in (10, -11):
        with pytest.raises(IndexError):
            cache[row]


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (replace(KEY, generator=replace(KEY.generator, path="z")), "generator.path = 'a', not 'z'"),
        (replace(KEY, vlm=replace(KEY.vlm, dtype="bfloat16")), "vlm.dtype = 'float32', not 'bfloat16'"),
        (replace(KEY, video=replace(KEY.video, fps=9.0)), "video.fps = 8.0, not 9.0"),
        (replace(KEY, clips="c2"), "clips = 'c1', not 'c2'"),
        (replace(KEY, generator_weights="w3"), "generator_weights = 'w1', not 'w3'"),
        (replace(KEY, vlm_weights="w3"), "vlm_weights = 'w2', not 'w3'"),
    ],
)
def test_another_key_is_refused_by_its_field(other, field, folder):
    for refuse in (check_key, CacheWriter):
        with pytest.raises(TransporterError) as error:
            refuse(folder, other)
        assert field in str(error.value)
    check_key(folder, KEY)
    check_key(folder, replace(KEY, generator_weights="", vlm_weights=""))  # not known yet


def test_what_is_no_cache_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(TransporterError, match="is not empty and no latent cache"):
            CacheWriter(place, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unfinished_cache_is_refused(tmp_path, batches):
    with pytest.raises(TransporterError, match=r"no latent cache in .*; run `transporter encode"):
        LatentCache(tmp_path)
    writer = CacheWriter(tmp_path, KEY, shard_bytes=1)
    writer.add(batches[0], [], 3)
    with pytest.raises(TransporterError, match=r"an unfinished latent cache in .*; run `transporter encode"):
        LatentCache(tmp_path)
    writer.finish()
    _assert_same(LatentCache(tmp_path)[[0, 1, 2]], batches[0])


def test_a_cache_of_nothing_is_not_finished(tmp_path):
    broken = [BrokenClip("a", "it is gone"), BrokenClip("b", "it is cut")]
    for _ in range(2):  # no clip is listed twice when it is tried again
        writer = CacheWriter(tmp_path, KEY)
        assert writer.start == 0
        writer.add(None, broken, 2)
        assert writer.finish().broken == tuple(broken)
    with pytest.raises(TransporterError, match="unfinished"):
        LatentCache(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", '{"key": {}}', '{"key": {"generator": 1, "vlm": 1, "video": 1, "clips": ""}}']
)
def test_a_damaged_index_is_an_error(content, folder):
    (folder / "index.json").write_text(content)
    for read in (LatentCache, lambda place: CacheWriter(place, KEY)):
        with pytest.raises(TransporterError, match=r"index\.json in .* can't be read"):
            read(folder)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _header(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [_cut, _header, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_damaged_shard_is_noticed_when_reading(spoil, folder):
    spoil(folder / "shard-00001.safetensors")
    with pytest.raises(TransporterError, match=r"shard-00001\.safetensors in .* is damaged"):
        LatentCache(folder)


@pytest.mark.parametrize("spoil", [_cut, _header, _flip, lambda path: path.unlink()])
def test_a_damaged_shard_is_noticed_when_encoding_goes_on(spoil, folder):
    spoil(folder / "shard-00001.safetensors")
    with pytest.raises(TransporterError, match=r"shard-00001\.safetensors' is damaged or gone"):
        CacheWriter(folder, KEY)


def test_a_shard_that_is_not_listed_is_written_again(folder, batches):
    """As after a power cut between the shard and the index."""
    index = json.loads((folder / "index.json").read_text())
    lost = index["shards"].pop()
    (folder / "index.json").write_text(json.dumps({**index, "complete": False}))
    _cut(folder / lost["file"])
    writer, whole = CacheWriter(folder, KEY), _join(batches)
    assert writer.start == index["shards"][-1]["end"] < 10
    rest = slice(writer.start, None)
    tensors = [getattr(whole, name)[rest] for name in TENSORS]
    writer.add(Encoded(whole.ids[rest], whole.captions[rest], *tensors), [], 10)
    assert writer.finish().shards[-1].file == lost["file"]
    _assert_same(LatentCache(folder)[list(range(10))], whole)


def test_captions_of_a_clip_stay_on_one_side(tmp_path):
    names = [f"clip_{clip}#{number}" for clip in range(20) for number in range(3)]
    data = _items(names, tmp_path)
    train, val = data.split
    assert sorted(train + val) == list(range(60))
    assert len(val) == 6
    assert not {names[i].split("#")[0] for i in train} & {names[i].split("#")[0] for i in val}
    assert data.split == CacheDataModule(tmp_path, val_fraction=0.1).split


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.5, 5), (0.99, 9)])
def test_both_sides_hold_a_clip(fraction, count, folder):
    train, val = CacheDataModule(folder, val_fraction=fraction).split
    assert (len(train), len(val)) == (10 - count, count)


def test_one_clip_can_not_be_split(tmp_path):
    with pytest.raises(TransporterError, match=r"holds 1 clip\(s\)"):
        _ = _items(["a#0", "a#1"], tmp_path).split


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_every_clip_once(workers, folder):
    data = CacheDataModule(folder, batch_size=4, val_fraction=0.5, num_workers=workers)
    ids = data.cache.ids
    for held_out in (data.val_dataloader(), data.test_dataloader()):
        assert [name for batch in held_out for name in batch.ids] == [ids[i] for i in data.split[1]]
    loader = data.train_dataloader()
    for _ in range(2):
        batches = list(loader)
        assert [len(batch.ids) for batch in batches] == [4, 1]
        assert sorted(name for b in batches for name in b.ids) == sorted(ids[i] for i in data.split[0])
        for batch in batches:
            _assert_same(batch, data.cache[[ids.index(name) for name in batch.ids]])


def test_training_clips_are_shuffled(tmp_path):
    data = _items([str(clip) for clip in range(100)], tmp_path)
    torch.manual_seed(0)
    first, second = ([name for batch in data.train_dataloader() for name in batch.ids] for _ in range(2))
    assert first != second
    assert first != sorted(first, key=int)


def test_a_cache_travels_to_workers_without_its_files(folder):
    cache = LatentCache(folder)
    there = pickle.loads(pickle.dumps(cache))
    _assert_same(there[[9, 0]], cache[[9, 0]])


def test_token_statistics_are_those_of_the_training_clips(tmp_path):
    written = _encoded([str(clip) for clip in range(150)])
    written = replace(written, tokens=written.tokens * torch.tensor([0, 1e-2, 1, 1, 5, 9, 1]) + 1000)
    _write(tmp_path, [written])
    data = CacheDataModule(tmp_path)
    tokens = written.tokens[data.split[0]].double().flatten(0, 1)
    mean, deviation = data.token_statistics()
    torch.testing.assert_close(mean, tokens.mean(0).float())
    torch.testing.assert_close(deviation, tokens.std(0, correction=0).float(), atol=1e-7, rtol=1e-5)
    assert deviation[0] == 0


def test_shapes_and_origin_are_those_of_the_cache(folder):
    data = CacheDataModule(folder)
    assert data.shapes == SHAPES
    assert data.origin == Origin("a", "b", KEY.video, "w1", "w2")


def test_a_cache_with_one_fingerprint_of_both_models_still_loads(folder):
    index = json.loads((folder / "index.json").read_text())
    for name in ("generator_weights", "vlm_weights"):
        del index["key"][name]
    index["key"]["weights"] = "w"
    (folder / "index.json").write_text(json.dumps(index))
    assert CacheDataModule(folder).origin == Origin("a", "b", KEY.video)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is below 1"),
        ({"val_fraction": 0.0}, "val_fraction: 0.0 is not between"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0 is not between"),
        ({"val_fraction": float("nan")}, "val_fraction: nan is not between"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(TransporterError) as error:
        CacheDataModule(tmp_path, **options)
    assert message in str(error.value)
