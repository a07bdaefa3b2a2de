"""The latent cache on disk: what is written comes back, from a folder or a bucket; what is damaged is told."""

import itertools
import json
import math
import os
import pickle
import shutil
import socket
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import pytest
import torch
from caches import clips_of, finish, joined, write_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from transporter_pl.datamodules.cache import latents, places
from transporter_pl.datamodules.cache.index import INDEX, finished, index_of, read_index, stray_files
from transporter_pl.datamodules.cache.joined import JoinedCaches
from transporter_pl.datamodules.cache.key import MANIFEST, CacheKey, check_key, read_manifest
from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.records import Record, Records
from transporter_pl.datamodules.cache.shards import TENSORS, Shard, ShardWriter, shard_name
from transporter_pl.datamodules.cache.storage import restore, store
from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.planning.totals import clip_bytes
from transporter_pl.samples import Encoded, Shapes, VideoSpec

SHAPES = Shapes(latents=(2, 1, 3, 3), condition=(4, 5), tokens=(6, 7))
BACKBONES = BackboneSpec("wan", "a"), BackboneSpec("vl", "b")
KEY = CacheKey(*BACKBONES, VideoSpec(5, 32, 32), "c1", "float32", "", "w1", "w2")
EXACT = {"atol": 0, "rtol": 0}


def encoded_clips(count, seed=0):
    draws = torch.Generator().manual_seed(seed)
    shapes = (SHAPES.latents, SHAPES.condition, SHAPES.tokens, SHAPES.tokens)
    tensors = [torch.randn(count, *shape, generator=draws) for shape in shapes]
    names = [f"clip{seed}-{i}" for i in range(count)]
    return Encoded(tuple(names), tuple(f"caption “{name}”" for name in names), *tensors)


def _assert_same(one, other):
    assert (one.ids, one.captions) == (other.ids, other.captions)
    for name in TENSORS:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **EXACT)


@pytest.fixture
def whole():
    return encoded_clips(10)


@pytest.fixture
def folder(tmp_path, whole):
    """A cache of ten clips in four shards."""
    write_cache(tmp_path / "cache", KEY, whole, shard_clips=3)
    return tmp_path / "cache"


def _rounded(encoded, kind):
    return replace(encoded, **{name: getattr(encoded, name).to(kind) for name in TENSORS})


@pytest.mark.parametrize("shard_clips", [1, 4, 64])
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_what_is_written_comes_back(storage, shard_clips, whole, tmp_path):
    key = replace(KEY, storage=storage)
    manifest = write_cache(tmp_path, key, whole, shard_clips)
    cache = LatentCache(tmp_path)
    assert len(finished(Place(tmp_path), manifest)) == manifest.shards == math.ceil(10 / shard_clips)
    assert (len(cache), cache.key, cache.shapes, cache.path) == (10, key, SHAPES, str(tmp_path))
    _assert_same(cache[list(range(10))], _rounded(whole, getattr(torch, storage)))


def test_rows_are_read_in_the_order_asked_for(folder, whole):
    cache = LatentCache(folder)
    for rows in ([0], [9, 0, 3, 3, 5], [2, 1]):
        for name in TENSORS:
            torch.testing.assert_close(cache.tensor(name, rows), getattr(whole, name)[rows], **EXACT)
        assert cache[rows].ids == tuple(whole.ids[row] for row in rows)
        assert cache[rows].captions == tuple(whole.captions[row] for row in rows)
        assert [cache.names(row) for row in rows] == [(whole.ids[r], (whole.captions[r],)) for r in rows]


def test_one_index_is_a_batch_of_one(folder, whole):
    cache = LatentCache(folder)
    for row in (0, 3, 9):
        _assert_same(cache[row], cache[[row]])
        _assert_same(cache[row], cache[(row, 5)])
        torch.testing.assert_close(cache[row].latents, whole.latents[row : row + 1], **EXACT)
    _assert_same(cache[-1], cache[9])
    for row in (10, -11):
        with pytest.raises(IndexError):
            cache[row]


def test_a_batch_is_its_own_memory(folder):
    """Nothing that a training does to a batch reaches the files, or the next batch."""
    cache = LatentCache(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = cache[[0, 1]]
    batch.tokens.zero_()
    assert LatentCache(folder)[[0, 1]].tokens.ne(0).all()
    assert cache[[0, 1]].tokens.ne(0).all()


# -- captions and conditions ------------------------------------------------------------------------------------------


def _captioned(tmp_path, condition, captions):
    """A cache of clips with several captions each."""
    encoded = encoded_clips(len(captions))
    clips = clips_of(encoded, list(range(len(captions))))
    manifest = write_cache(tmp_path, KEY, encoded)
    writer = ShardWriter(SHAPES, "float32")
    writer.add(replace(clips, captions=tuple(captions), condition=condition))
    writer.write(tmp_path, 0)
    finish(tmp_path, manifest)
    return LatentCache(tmp_path)


def test_every_caption_of_a_clip_is_there_beside_its_clip_once(tmp_path):
    captions = [("a", "b", "c"), ("d",), ("e", "f")]
    condition = torch.randn(6, *SHAPES.condition)
    cache = _captioned(tmp_path, condition, captions)
    assert len(cache) == 3
    starts = [0, 3, 4]
    for draw in range(7):
        batch = cache[[(0, draw), (1, draw), (2, draw)]]
        chosen = [draw % len(said) for said in captions]
        assert batch.captions == tuple(said[c] for said, c in zip(captions, chosen, strict=True))
        rows = [start + c for start, c in zip(starts, chosen, strict=True)]
        torch.testing.assert_close(batch.condition, condition[rows], **EXACT)
        torch.testing.assert_close(batch.latents, cache[[0, 1, 2]].latents, **EXACT)
    with safe_open(tmp_path / shard_name(0), "pt") as shard:
        assert shard.get_slice("tokens").get_shape()[0] == 3


@given(lengths=st.lists(st.integers(0, SHAPES.condition[0]), min_size=1, max_size=6))
@settings(max_examples=20)
def test_rows_of_padding_are_not_stored_and_come_back(lengths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("padded")
    condition = torch.randn(len(lengths), *SHAPES.condition)
    for row, length in enumerate(lengths):
        condition[row, length:] = 0
        condition[row, : max(0, length - 1)] *= torch.randint(2, (max(0, length - 1), 1))  # zero rows inside, too
    cache = _captioned(folder, condition, [("caption",)] * len(lengths))
    torch.testing.assert_close(cache[list(range(len(lengths)))].condition, condition, **EXACT)
    with safe_open(folder / shard_name(0), "pt") as shard:
        assert shard.get_slice("condition").get_shape()[0] == sum(lengths)


# -- types of storage -------------------------------------------------------------------------------------------------


def test_float8_keeps_what_its_three_bits_of_mantissa_can(tmp_path):
    encoded = encoded_clips(5)
    encoded = replace(encoded, tokens=encoded.tokens * torch.tensor([1e-4, 1, 1e3, 1e6, 0]).view(-1, 1, 1))
    write_cache(tmp_path, replace(KEY, storage="float8_e4m3fn"), encoded, shard_clips=2)
    cache = LatentCache(tmp_path)
    batch, errors = cache[[4, 0, 1, 2, 3]], read_index(Place(tmp_path)).summary.errors
    for name in TENSORS:
        exact = getattr(encoded, name)[[4, 0, 1, 2, 3]]
        found = getattr(batch, name)
        assert found.dtype == torch.bfloat16
        # half of a step of 1/8 between powers of two, and of the smallest step near zero; bfloat16's rounding
        smallest = exact.flatten(1).abs().amax(1) / 448 * 2**-9
        bound = exact.abs() * (1 / 16 + 1 / 256) + smallest.view(-1, *[1] * (exact.ndim - 1)) / 2
        assert ((found.float() - exact).abs() <= bound).all()
        rms = ((found.double() - exact).square().sum() / exact.double().square().sum()).sqrt()
        assert errors[name] == pytest.approx(rms.item(), rel=1e-6)
        assert 0.01 < errors[name] < 0.04
    assert batch.tokens[0].eq(0).all()


def test_the_error_of_a_type_is_measured(tmp_path, whole):
    write_cache(tmp_path, replace(KEY, storage="bfloat16"), whole, shard_clips=3)
    for name, error in read_index(Place(tmp_path)).summary.errors.items():
        exact = getattr(whole, name).double()
        assert error == pytest.approx(((exact.bfloat16().double() - exact).norm() / exact.norm()).item(), rel=1e-9)
    write_cache(_fresh(tmp_path / "exact"), KEY, whole)
    assert set(read_index(Place(tmp_path / "exact")).summary.errors.values()) == {0.0}


def _fresh(folder):
    folder.mkdir()
    return folder


def test_float8_of_next_to_nothing_is_finite():
    x = torch.tensor([[1e-43, 0.0], [0.0, 0.0]])
    assert restore(store(x, "float8_e4m3fn")).isfinite().all()


def test_an_empty_batch_can_be_stored():
    empty = torch.zeros(0, 3, 4)
    for storage in ("float32", "bfloat16", "float8_e4m3fn"):
        assert restore(store(empty, storage)).shape == (0, 3, 4)


def test_what_a_clip_takes(tmp_path, whole):
    for storage in ("float32", "bfloat16", "float8_e4m3fn"):
        folder = tmp_path / storage
        write_cache(folder, replace(KEY, storage=storage), whole)
        with safe_open(folder / shard_name(0), "pt") as shard:
            stored = sum(shard.get_tensor(name).nbytes for name in shard.keys())  # noqa: SIM118  (no dictionary)
        assert stored == 10 * clip_bytes(SHAPES, storage)


# -- who may read and write -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (replace(KEY, generator=replace(KEY.generator, path="z")), "generator.path = 'a', not 'z'"),
        (replace(KEY, generator=replace(KEY.generator, path="a@v2")), "generator.path = 'a', not 'a@v2'"),
        (replace(KEY, vlm=replace(KEY.vlm, dtype="bfloat16")), "vlm.dtype = 'float32', not 'bfloat16'"),
        (replace(KEY, video=replace(KEY.video, fps=9.0)), "video.fps = 8.0, not 9.0"),
        (replace(KEY, clips="c2"), "clips = 'c1', not 'c2'"),
        (replace(KEY, storage="bfloat16"), "storage = 'float32', not 'bfloat16'"),
        (replace(KEY, uncaptioned="empty"), "uncaptioned = '', not 'empty'"),
        (replace(KEY, generator_weights="w3"), "generator_weights = 'w1', not 'w3'"),
        (replace(KEY, vlm_weights="w3"), "vlm_weights = 'w2', not 'w3'"),
    ],
)
def test_another_key_is_refused_by_its_field(other, field, folder):
    with pytest.raises(TransporterError) as error:
        check_key(folder, other)
    assert field in str(error.value)
    assert check_key(folder, KEY).key == KEY
    assert check_key(folder, replace(KEY, generator_weights="", vlm_weights="")).key == KEY  # not known yet


def test_a_cache_without_a_shard_binds_nobody(folder):
    for shard in folder.glob("shard-*"):
        shard.unlink()
    assert check_key(folder, replace(KEY, clips="c2")) is None


def test_what_is_no_cache_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(TransporterError, match="is not empty and no latent cache"):
            check_key(place, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_cache_of_an_older_version_is_told(tmp_path):
    (tmp_path / "index.json").write_text("{}")
    for read in (LatentCache, lambda place: check_key(place, KEY)):
        with pytest.raises(TransporterError, match="an older version wrote"):
            read(tmp_path)


def test_an_unfinished_cache_is_refused(tmp_path, whole):
    with pytest.raises(TransporterError, match=r"no latent cache in .*; run `transporter encode"):
        LatentCache(tmp_path)
    write_cache(tmp_path, KEY, whole, finished=False)
    with pytest.raises(TransporterError, match=r"an unfinished latent cache in .*; run `transporter encode"):
        LatentCache(tmp_path)


def test_a_cache_of_a_newer_version_is_told(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"format": 2', '"format": 3'))
    with pytest.raises(TransporterError, match="has format 3, and this version reads 2; install a newer one"):
        LatentCache(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"key": {}}', '{"key": 1, "shapes": {}}', "\x00"])
def test_a_damaged_manifest_is_told(text, folder):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(TransporterError, match=rf"cache: {MANIFEST} in .* can't be read"):
        LatentCache(folder)


@pytest.mark.parametrize("spoilt", [b"", b"\0" * 100, None])
def test_a_damaged_index_is_told(spoilt, folder):
    content = (folder / INDEX).read_bytes()
    (folder / INDEX).write_bytes(content[:-3] if spoilt is None else spoilt)
    with pytest.raises(TransporterError, match=rf"path: {INDEX} in .* is damaged .* delete that file"):
        LatentCache(folder)


# -- damage -----------------------------------------------------------------------------------------------------------


def _spoil(file, at, to=None):
    with file.open("r+b") as opened:
        opened.seek(at)
        old = opened.read(1)
        opened.seek(at)
        opened.write(bytes([old[0] ^ 1]) if to is None else to)


def _cut(file):
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("harm", [lambda f: f.unlink(), _cut, lambda f: f.write_bytes(b""), lambda f: _spoil(f, 100)])
def test_a_shard_that_is_missing_cut_or_spoilt_in_its_header_is_told_when_it_is_read(harm, folder, whole):
    harm(folder / shard_name(1))
    cache = LatentCache(folder)
    _assert_same(cache[[0, 1, 2, 9]], _rows(whole, [0, 1, 2, 9]))
    with pytest.raises(TransporterError, match=r"path: shard-0000001\.safetensors in .* is damaged or missing"):
        cache[[0, 4]]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda f: f.unlink(), "[Errno 2] No such file or directory: '{file}'"),
        (lambda f: f.write_bytes(b""), "{file.name} is cut short"),
        (lambda f: os.truncate(f, 5), "{file.name} is cut short"),
        (lambda f: os.truncate(f, 50), "{file.name} is cut short"),
        (_cut, "it has {less} bytes, not {size}"),
    ],
)
def test_damage_is_told_once_and_in_these_words(harm, why, folder):
    file = folder / shard_name(1)
    size = file.stat().st_size
    harm(file)
    for opened in (lambda: Shard(Place(folder), 1), lambda: LatentCache(folder)[[0, 4]]):
        with pytest.raises(TransporterError) as error:
            opened()
        told = why.format(file=file, size=size, less=size - 1)
        assert str(error.value) == (
            f"path: {file.name} in '{folder}' is damaged or missing ({told}); `transporter cache prune --damaged` "
            "takes away what is, and `transporter encode` makes that again"
        )


def _rows(encoded, rows):
    ids, captions = (tuple(getattr(encoded, field)[row] for row in rows) for field in ("ids", "captions"))
    return Encoded(ids, captions, **{name: getattr(encoded, name)[rows] for name in TENSORS})


@settings(max_examples=30)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_check_finds_every_bit_that_has_turned(at, bit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("turned")
    write_cache(folder, replace(KEY, storage="float8_e4m3fn"), encoded_clips(2))
    index, file = read_index(Place(folder)), folder / shard_name(0)
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    file.write_bytes(content)
    with pytest.raises(TransporterError, match="is damaged or missing"):
        Shard(Place(folder), 0, digest=index.digests[0].numpy().tobytes()).check()


def test_only_whole_shards_count_as_finished(folder):
    manifest = read_manifest(Place(folder))
    _cut(folder / shard_name(2))
    (folder / shard_name(0)).unlink()
    assert finished(Place(folder), manifest) == {1, 3}
    with pytest.raises(TransporterError, match="shard-0000000"):
        index_of(Place(folder), manifest)


def test_the_same_clips_give_the_same_bytes(folder, tmp_path, whole):
    other = tmp_path / "other"
    write_cache(other, KEY, whole, shard_clips=3)
    for file in sorted(folder.iterdir()):
        assert file.read_bytes() == (other / file.name).read_bytes()


def test_a_shard_of_broken_clips_alone(tmp_path, whole):
    manifest = write_cache(tmp_path, KEY, whole, shard_clips=4)
    broken = [BrokenClip(name, "it is gone") for name in whole.ids[4:8]]
    writer = ShardWriter(SHAPES, "float32")
    writer.leave_out(broken)
    writer.write(tmp_path, 1)
    summary, found = finish(tmp_path, manifest)
    assert (summary.clips, summary.broken, found) == (6, 4, broken)
    _assert_same(LatentCache(tmp_path)[list(range(6))], _rows(whole, [0, 1, 2, 3, 8, 9]))


def test_stray_files_are_those_that_the_cache_does_not_have(folder):
    manifest = read_manifest(Place(folder))
    aside = f".part-{socket.gethostname()}-0x-abc"
    (folder / aside).mkdir()
    (folder / shard_name(4)).write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    assert [file.name for file in stray_files(folder, manifest)] == [aside, shard_name(4)]


# -- folders and buckets ----------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(folder):
    """The same cache in fsspec's memory, which is asked as a bucket is."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/cache", recursive=True)
    yield "memory://bucket/cache"
    memory.rm("/bucket", recursive=True)


def test_a_bucket_is_read_like_a_folder(bucket, folder):
    cache = LatentCache(bucket)
    _assert_same(cache[[9, 0, 4]], LatentCache(folder)[[9, 0, 4]])
    assert (cache.path, len(cache)) == (bucket, 10)
    _assert_same(pickle.loads(pickle.dumps(cache))[[2]], cache[[2]])
    with pytest.raises(TransporterError, match="no latent cache in 'memory://bucket/none'"):
        LatentCache("memory://bucket/none")


def test_a_bucket_gives_the_bytes_of_a_batch_and_no_others(bucket, monkeypatch):
    cache, asked, read = LatentCache(bucket), [], Place.read
    cache[list(range(10))]  # headers are read
    monkeypatch.setattr(Place, "read", lambda place, spans: asked.append(spans) or read(place, spans))
    cache[[0, 9]]
    (spans,) = asked
    assert sum(stop - start for _, start, stop in spans) == 2 * clip_bytes(SHAPES, "float32")


def test_a_damaged_bucket_is_told(bucket):
    memory = fsspec.filesystem("memory")
    memory.rm("/bucket/cache/shard-0000001.safetensors")
    with pytest.raises(TransporterError, match=r"shard-0000001\.safetensors in 'memory.* is damaged or missing"):
        LatentCache(bucket)[4]


def test_a_shard_of_a_bucket_that_ends_too_early_is_told(bucket):
    """Its header is there, and what is missing does not come back as zeros."""
    memory, cache = fsspec.filesystem("memory"), LatentCache(bucket)
    file = "/bucket/cache/shard-0000001.safetensors"
    memory.pipe_file(file, memory.cat_file(file)[:-1])
    with pytest.raises(TransporterError, match=r"can't be read \(shard-0000001\.safetensors is cut short\)"):
        cache[[3, 4, 5]]
    with pytest.raises(TransporterError, match=r"damaged or missing \(shard-0000001\.safetensors is cut short\)"):
        Shard(Place(bucket), 1).check()


def test_the_headers_of_a_batch_are_asked_for_at_once_and_once(bucket, whole, monkeypatch):
    cache, asked, read = LatentCache(bucket), [], Place.read
    monkeypatch.setattr(Place, "read", lambda place, spans: asked.append(spans) or read(place, spans))
    _assert_same(cache[[9, 0, 1, 4]], _rows(whole, [9, 0, 1, 4]))
    headers, first = asked
    assert [file for file, _, _ in headers] == [shard_name(number) for number in (3, 0, 1)]
    _assert_same(cache[[0, 4, 9]], _rows(whole, [0, 4, 9]))
    assert len(asked) == 3
    assert not {(file, start) for file, start, _ in asked[2]} - {(file, start) for file, start, _ in first}


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(TransporterError, match=r"path: 'nowhere://cache' can't be read"):
        LatentCache("nowhere://cache")


def test_a_cache_of_many_shards_keeps_few_files_open(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(places, "MAPPED", 4)
    write_cache(tmp_path, KEY, joined([encoded_clips(20, seed) for seed in range(3)]), shard_clips=1)
    cache, before = LatentCache(tmp_path), len(list(Path("/proc/self/fd").iterdir()))
    for row in itertools.chain(range(60), range(59, 0, -7)):
        assert cache[row].ids == (f"clip{row // 20}-{row % 20}",)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5
    # headers outlast the files
    monkeypatch.setattr(latents, "Shard", None)
    assert cache[list(range(60))].ids[::20] == ("clip0-0", "clip1-0", "clip2-0")


def test_joined_caches_share_the_number_of_open_files(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(places, "MAPPED", 4)
    folders = [_fresh(tmp_path / str(number)) for number in range(3)]
    for number, folder in enumerate(folders):
        write_cache(folder, replace(KEY, clips=str(number)), whole, shard_clips=2)
    cache, before = JoinedCaches(folders), len(list(Path("/proc/self/fd").iterdir()))
    for row in range(30):
        _assert_same(cache[row], _rows(whole, [row % 10]))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5


def test_headers_are_kept_up_to_their_limit(tmp_path, whole, monkeypatch):
    write_cache(tmp_path, KEY, whole, shard_clips=1)
    size = Shard(Place(tmp_path), 0).header
    monkeypatch.setattr(latents, "HEADERS", 4 * size + size // 2)
    cache = LatentCache(tmp_path)
    for rows in ([3], [0, 1], list(range(10)), [9, 0]):
        _assert_same(cache[rows], _rows(whole, rows))
        assert len(cache._shards) <= 4


@given(
    st.lists(
        st.tuples(st.text(), st.lists(st.tuples(st.text(), st.integers(0, 9)), min_size=1, max_size=4)), max_size=5
    )
)
def test_records_are_what_was_written(clips):
    records = [Record(name, *(tuple(column) for column in zip(*said, strict=True))) for name, said in clips]
    kept = Records(json.loads(json.dumps([asdict(record) for record in records])))
    assert list(kept) == records == [kept[row - len(kept)] for row in range(len(kept))]
    assert list(kept[1:]) == records[1:]
    ends = [0, *itertools.accumulate(length for record in records for length in record.lengths)]
    for row, record in enumerate(records):
        conditions = [kept.condition(caption) for caption in kept.captions(row)]
        assert tuple(stop - start for start, stop in conditions) == record.lengths
        assert all(ends[caption] == kept.condition(caption)[0] for caption in kept.captions(row))


def test_a_cache_travels_to_workers_without_its_files(folder):
    cache = LatentCache(folder)
    cache[0]
    there = pickle.loads(pickle.dumps(cache))
    assert not there.place._mapped
    _assert_same(there[[9, 0]], cache[[9, 0]])


def test_it_opens_no_shard_before_a_clip_is_asked_for(folder):
    for number in range(1, 4):
        (folder / shard_name(number)).unlink()
    assert len(LatentCache(folder)) == 10
    assert LatentCache(folder)[2].ids == ("clip0-2",)


def test_nothing_in_a_cache_is_unpickled(folder):
    names = {file.suffix for file in folder.iterdir()}
    assert names == {".json", ".safetensors"}
    shutil.copytree(folder, folder.parent / "moved")
    assert json.loads((folder / MANIFEST).read_text())["format"] == 2
    assert len(LatentCache(folder.parent / "moved")) == 10
