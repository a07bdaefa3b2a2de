"""Latent caches as data that a training stops, resumes and shares on, through Lightning's own loops."""

import atexit
import json
import warnings
from dataclasses import replace
from pathlib import Path

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from caches import joined, write_cache

from transporter_pl.cli import leave_process_group
from transporter_pl.datamodules.cache import datamodule
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.cache.joined import JoinedCaches
from transporter_pl.datamodules.cache.key import CacheKey
from transporter_pl.datamodules.cache.shards import TENSORS
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, Origin, Shapes, TokenStatistics, VideoSpec

SHAPES = Shapes(latents=(2, 1, 3, 3), condition=(4, 5), tokens=(6, 7))
KEY = CacheKey(BackboneSpec("wan", "a"), BackboneSpec("vl", "b"), VideoSpec(5, 32, 32), "c", "float32", "", "w1", "w2")


def _encoded(count, seed=0):
    draws = torch.Generator().manual_seed(seed)
    shapes = (SHAPES.latents, SHAPES.condition, SHAPES.tokens, SHAPES.tokens)
    names = tuple(f"{seed}-{i}" for i in range(count))
    return Encoded(names, names, *(torch.randn(count, *shape, generator=draws) for shape in shapes))


def _assert_same(one, other):
    assert (one.ids, one.captions) == (other.ids, other.captions)
    for name in TENSORS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=0, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache of 23 clips in three shards."""
    folder = tmp_path_factory.mktemp("cache")
    write_cache(folder, KEY, _encoded(23), 8)
    return str(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Seven more, of another source."""
    folder = tmp_path_factory.mktemp("other")
    write_cache(folder, replace(KEY, clips="c2"), _encoded(7, 1), 3)
    return str(folder)


def _ids(loader):
    return [name for batch in loader for name in batch.ids]


def test_several_caches_are_one_data_set(folder, other):
    whole, cache = joined([_encoded(23), _encoded(7, 1)]), JoinedCaches([folder, other])
    assert len(cache) == 30
    for rows in ([0], [22, 23], [29, 0, 5, 24, 5, 23], [3, 1], [25, 24], [-1]):
        for asked in (rows, [(row, 4) for row in rows]):
            found = cache[asked]
            assert found.ids == found.captions == tuple(whole.ids[row] for row in rows)
            for name in TENSORS:
                torch.testing.assert_close(getattr(found, name), getattr(whole, name)[rows], atol=0, rtol=0)
        torch.testing.assert_close(cache.tensor("tokens", rows), whole.tokens[rows], atol=0, rtol=0)
    assert cache.names(24) == ("1-1", ("1-1",))
    _assert_same(cache[24], cache[[(24, 0)]])
    with pytest.raises(IndexError):
        cache[30]


@pytest.mark.parametrize("storage", ["float32", "float8_e4m3fn"])
def test_joined_caches_put_a_batch_together_once(storage, tmp_path):
    """However its clips are spread over them, in the same memory as one cache that holds them all."""
    parts = [_encoded(6, seed) for seed in range(3)]
    folders = [tmp_path / str(seed) for seed in range(3)]
    key = replace(KEY, storage=storage)
    for folder, part in zip([*folders, tmp_path / "all"], [*parts, joined(parts)], strict=True):
        folder.mkdir()
        write_cache(folder, key, part, 4)
    caches = JoinedCaches(folders), JoinedCaches([tmp_path / "all"])
    draws = np.random.default_rng(0)
    for count in [8, *draws.integers(1, 9, 30).tolist()]:
        rows = draws.integers(0, 18, count).tolist()
        _assert_same(*(cache[rows] for cache in caches))
    sizes = [sorted(block.array.shape for block in cache._memory._blocks) for cache in caches]
    assert sizes[0] == sizes[1]
    assert {rows for rows, _ in sizes[0]} == {8}
    assert not any(cache._memory._blocks for cache in caches[0].caches)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"storage": "bfloat16"}, "storage = 'float32', .* with 'bfloat16'"),
        ({"video": VideoSpec(9, 32, 32)}, "video.frames = 5, .* with 9"),
        ({"vlm_weights": "w3"}, "vlm_weights = 'w2', .* with 'w3'"),
    ],
)
def test_caches_that_were_made_in_different_ways_are_refused(changed, field, folder, tmp_path):
    write_cache(tmp_path, replace(KEY, clips="c2", **changed), _encoded(3))
    with pytest.raises(TransporterError, match=field) as error:
        _ = CacheDataModule([folder, str(tmp_path)]).cache
    assert repr(folder) in str(error.value)
    assert repr(str(tmp_path)) in str(error.value)
    with pytest.raises(TransporterError, match=field):
        _ = CacheDataModule(folder, val_path=str(tmp_path)).split


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.1, 2), (0.5, 12), (0.99, 22)])
def test_a_fixed_draw_splits_the_clips(fraction, count, folder):
    data = CacheDataModule(folder, batch_size=1, val_fraction=fraction)
    training, held_out = _ids(data.train_dataloader()), _ids(data.val_dataloader())
    assert len(held_out) == count
    assert sorted(training + held_out) == sorted(_encoded(23).ids)
    assert held_out == _ids(CacheDataModule(folder, val_fraction=fraction).test_dataloader())


def test_validation_clips_may_have_caches_of_their_own(folder, other):
    data = CacheDataModule(folder, batch_size=4, val_path=other)
    assert _ids(data.val_dataloader()) == list(_encoded(7, 1).ids)
    batches = list(data.train_dataloader())
    assert [len(batch.ids) for batch in batches] == [4] * 6
    assert set(_ids(batches)) == set(_encoded(23).ids)


def test_one_clip_can_not_be_split(tmp_path):
    write_cache(tmp_path, KEY, _encoded(1))
    with pytest.raises(TransporterError, match=r"hold 1 clip\(s\), but training and validation need one each"):
        _ = CacheDataModule(str(tmp_path)).split
    assert len(CacheDataModule(str(tmp_path), val_path=str(tmp_path)).train_dataloader()) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_what_the_cache_holds(workers, folder, other):
    data = CacheDataModule([folder, other], batch_size=4, num_workers=workers)
    whole = joined([_encoded(23), _encoded(7, 1)])
    loader = data.train_dataloader()
    for _ in range(2):
        for batch in loader:
            rows = [whole.ids.index(name) for name in batch.ids]
            _assert_same(batch, data.cache[rows])
            torch.testing.assert_close(batch.latents, whole.latents[rows], atol=0, rtol=0)


def test_loaders_draw_none_of_the_runs_random_numbers(folder):
    data = CacheDataModule(folder)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _ids(data.train_dataloader()), _ids(data.val_dataloader())
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)


def test_token_statistics_are_those_of_the_training_clips(tmp_path):
    written = _encoded(50)
    written = replace(written, tokens=written.tokens * torch.tensor([0, 1e-2, 1, 1, 5, 9, 1]) + 1000)
    write_cache(tmp_path, KEY, written)
    data = CacheDataModule(str(tmp_path))
    rows = data.split[0](np.arange(45, dtype=np.uint64)).tolist()
    tokens = written.tokens[rows].double().flatten(0, 1)
    found, deviation = data.token_statistics(), tokens.std(0, correction=0).float()
    torch.testing.assert_close(found.mean, tokens.mean(0).float())
    torch.testing.assert_close(found.std[1:], deviation[1:], atol=1e-7, rtol=1e-5)
    assert found.std[0] == 1  # its feature never changes
    torch.testing.assert_close(found.tokens, written.tokens[rows].double().mean(0).float())
    assert not found.fixed.any()


def test_tokens_that_are_the_same_in_every_clip_are_found(tmp_path):
    written = _encoded(50)
    tokens = written.tokens.clone()
    tokens[:, [1, 4]] = tokens[0, [1, 4]] * (1 + 1e-3 * torch.randn(50, 1, 1))  # as rounding moves them
    write_cache(tmp_path, KEY, replace(written, tokens=tokens))
    found = CacheDataModule(str(tmp_path)).token_statistics()
    assert found.fixed.nonzero().flatten().tolist() == [1, 4]
    torch.testing.assert_close(found.tokens[[1, 4]], tokens[0, [1, 4]], atol=0, rtol=5e-3)


def test_of_clips_that_are_all_alike_nothing_is_taken_as_fixed():
    assert not TokenStatistics.of(torch.randn(1, 6, 7).expand(4, -1, -1)).fixed.any()


def test_token_statistics_read_a_sample_of_many_clips(folder, monkeypatch):
    monkeypatch.setattr(datamodule, "STATISTICS_BYTES", 10 * 6 * 7 * 4 + 1)
    data, read = CacheDataModule(folder), []
    tensor = JoinedCaches.tensor
    monkeypatch.setattr(JoinedCaches, "tensor", lambda *asked: read.extend(asked[2]) or tensor(*asked))
    mean = data.token_statistics().mean
    rows = data.split[0](np.arange(10, dtype=np.uint64)).tolist()
    assert read[1:] == rows  # the first is looked at for its size
    torch.testing.assert_close(mean, _encoded(23).tokens[rows].mean((0, 1)))


def test_shapes_and_origin_are_those_of_the_cache(folder):
    data = CacheDataModule(folder)
    assert data.shapes == SHAPES
    assert data.origin == Origin("a", "b", KEY.video, "w1", "w2")
    assert data.vlm == KEY.vlm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is too small"),
        ({"val_fraction": 0.0}, "val_fraction: 0.0 is not between"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0 is not between"),
        ({"val_fraction": float("nan")}, "val_fraction: nan is not between"),
        ({"path": []}, "path: is an empty list"),
        ({"val_path": []}, "val_path: is an empty list"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(TransporterError) as error:
        CacheDataModule(**{"path": "nowhere", **options})
    assert message in str(error.value)


class Watching(L.LightningModule):
    """Writes down which clips it sees; its weight depends on all of them and their order."""

    def __init__(self, notes=None):
        super().__init__()
        self.weight, self.notes = torch.nn.Parameter(torch.zeros(())), notes
        self.seen = {"training": [], "validation": []}

    def training_step(self, batch, batch_idx):
        self.seen["training"].append(batch.ids)
        return (self.weight - batch.tokens.mean()).sin() ** 2

    def validation_step(self, batch, batch_idx):
        self.seen["validation"].append(batch.ids)

    def configure_optimizers(self):
        return torch.optim.Adam([self.weight], lr=0.1)

    def on_train_end(self):
        if self.notes is not None:
            Path(self.notes, f"{self.global_rank}.json").write_text(json.dumps(self.seen))
            atexit.register(leave_process_group)


class Saving(L.Callback):
    """Writes a checkpoint at every call of a hook, named by the batches that were seen, where a step is done."""

    def __init__(self, folder, hook):
        self.folder = folder
        setattr(self, hook, self.save)

    def save(self, trainer, module, *_):
        seen = len(module.seen["training"])
        if seen and seen % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.folder / f"{seen}.ckpt", weights_only=False)


def _fit(data, ckpt_path=None, seed=3, callbacks=(), notes=None, **options):
    L.seed_everything(seed, verbose=False)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer, module = L.Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet, **options), Watching(notes)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2},
        {"max_steps": 9, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"max_steps": 5, "accumulate_grad_batches": 4},  # two steps an epoch
        {"max_steps": 7, "limit_train_batches": 3},
    ],
)
def test_a_training_that_is_resumed_sees_what_it_would_have_seen(options, hook, folder, tmp_path):
    whole = _fit(CacheDataModule(folder, 4), callbacks=[Saving(tmp_path, hook)], **options)
    checkpoints = list(tmp_path.iterdir())
    assert checkpoints
    for checkpoint in checkpoints:
        resumed = _fit(CacheDataModule(folder, 4), checkpoint, seed=11, **options)
        assert resumed.seen["training"] == whole.seen["training"][int(checkpoint.stem) :]
        assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_workers_that_read_ahead_change_nothing(folder, tmp_path):
    whole = _fit(CacheDataModule(folder, 4), max_steps=9)
    saving = [Saving(tmp_path, "on_train_batch_end")]
    assert _fit(CacheDataModule(folder, 4, num_workers=2), callbacks=saving, max_steps=9).seen == whole.seen
    for seen in (5, 6):
        resumed = _fit(CacheDataModule(folder, 4, num_workers=2), tmp_path / f"{seen}.ckpt", max_steps=9)
        assert resumed.seen["training"] == whole.seen["training"][seen:]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_another_training_begins_anew(folder):
    data = CacheDataModule(folder, 4)
    assert _fit(data, max_steps=2).seen == _fit(data, max_steps=2).seen
    assert _fit(data, max_steps=2).seen != _fit(data, max_steps=2, seed=4).seen


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_is_not_resumed_where_no_batch_ends(folder, tmp_path):
    _fit(CacheDataModule(folder, 4), callbacks=[Saving(tmp_path, "on_train_batch_end")], max_steps=3)
    with pytest.raises(TransporterError, match=r"batch_size: 5 on 1 process\(es\), but the checkpoint stands after 12"):
        _fit(CacheDataModule(folder, 5), tmp_path / "3.ckpt", max_steps=5)


def test_lightnings_overfitting_is_refused(folder):
    with pytest.raises(TransporterError, match="overfit_batches: 2, for which Lightning would take clips one by one"):
        _fit(CacheDataModule(folder), overfit_batches=2, max_steps=2)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_see_what_one_sees(folder, tmp_path):
    options = {"max_epochs": 2, "num_sanity_val_steps": 0}
    alone = _fit(CacheDataModule(folder, 4), **options)
    _fit(CacheDataModule(folder, 2), notes=str(tmp_path), strategy="ddp_spawn", devices=2, **options)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for part, batches in alone.seen.items():
        shared = zip(first[part], second[part], strict=True)
        assert [(*one, *other) for one, other in shared] == batches


def _caches(tmp_path, **keys):
    for name, key in keys.items():
        write_cache(tmp_path / name, replace(KEY, **key), _encoded(6))
    return {name: str(tmp_path / name) for name in keys}


def test_the_same_clips_are_not_joined(tmp_path):
    paths = _caches(tmp_path, one={}, copy={"uncaptioned": "empty"}, other={"clips": "c2"})
    assert len(CacheDataModule([paths["one"], paths["other"]]).cache) == 12
    with pytest.raises(TransporterError, match=r"path: '.*one' and '.*copy' hold the same clips; name one of them"):
        _ = CacheDataModule([paths["one"], paths["copy"]]).cache


def test_clips_that_train_and_validate_are_told(tmp_path):
    paths = _caches(tmp_path, one={}, other={"clips": "c2"})
    with pytest.warns(UserWarning, match=r"val_path: the clips of \['.*one'\] are those that train"):
        _ = CacheDataModule(paths["one"], val_path=[paths["other"], paths["one"]]).split


def test_a_checkpoint_of_other_clips_is_told(tmp_path):
    paths = _caches(tmp_path, one={}, other={"clips": "c2"})
    state = CacheDataModule(paths["one"]).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CacheDataModule(paths["one"]).load_state_dict(dict(state))
    with pytest.warns(UserWarning, match="are not what the checkpoint was trained on"):
        CacheDataModule(paths["other"]).load_state_dict(dict(state))
