import hashlib

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from transporter_pl.datamodules.shapemotion.callbacks import ReadCaptions, ReadGenerations, ReadReconstructions
from transporter_pl.datamodules.shapemotion.datamodule import ShapeMotionDataModule
from transporter_pl.datamodules.shapemotion.measure import caption_words
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import FACTORS, TEMPLATES, combinations
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator, load_vlm
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=5, height=32, width=32)


def _data(**options):
    return ShapeMotionDataModule(SPEC, **{"batch_size": 3, "batches_per_epoch": 4, "val_clips": 7, **options})


def _digest(batch):
    content = (batch.clips.ids, batch.clips.captions, batch.scene.words.tolist(), batch.scene.values.tolist())
    return hashlib.sha256(repr(content).encode() + batch.clips.video.numpy().tobytes()).hexdigest()


class Watching(L.LightningModule):
    """Remembers what it is shown; its answer to every clip is the clip."""

    def __init__(self, adapter=None):
        super().__init__()
        self.layer, self.adapter = torch.nn.Linear(1, 1), adapter
        self.trained, self.validated = [], []

    def training_step(self, batch, index):
        self.trained.append(_digest(batch))
        return self.layer(batch.clips.video.mean()[None]).sum()

    def validation_step(self, batch, index):
        self.validated.append(_digest(batch))

    def reconstruct(self, video):
        return video

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), 0.0)


def _trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    defaults = {"max_epochs": 2, "num_sanity_val_steps": 0, "enable_checkpointing": False, "default_root_dir": folder}
    return L.Trainer(**{**quiet, **defaults, **options})


def _fit(folder, data, ckpt_path=None, **options):
    model, trainer = Watching(), _trainer(folder, **options)
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=None if ckpt_path is None else True)
    return model, trainer


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a training without workers is shown."""
    torch.manual_seed(1)
    return _fit(tmp_path_factory.mktemp("run"), _data())[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_step_k_sees_the_same_clips_with_any_number_of_workers(workers, shown, tmp_path):
    torch.manual_seed(2)  # the process's own seed is of no matter
    model, _ = _fit(tmp_path, _data(num_workers=workers))
    assert model.trained == shown.trained
    assert model.validated == shown.validated


def test_every_step_of_every_epoch_is_new(shown):
    assert len(set(shown.trained)) == len(shown.trained) == 8
    assert not set(shown.trained) & set(shown.validated)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("every", [{"every_n_train_steps": 3}, {"every_n_train_steps": 4}, {"every_n_epochs": 1}])
def test_a_resumed_training_sees_what_one_that_was_not_stopped_does(every, workers, shown, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **every)
    _fit(tmp_path, _data(num_workers=workers), callbacks=[keep], enable_checkpointing=True)
    for path in tmp_path.glob("step=*.ckpt"):
        step = int(path.stem.removeprefix("step="))
        model, _ = _fit(tmp_path, _data(num_workers=workers), path)
        assert model.trained == shown.trained[step:], path.stem


def test_every_validation_is_the_same(shown):
    assert len(shown.validated) == 6  # 7 clips are 3 batches, twice
    assert shown.validated[:3] == shown.validated[3:]
    assert len(set(shown.validated)) == 3
    data = _data()
    for _ in range(2):
        assert [_digest(batch) for batch in data.val_dataloader()] == shown.validated[:3]


def test_seeds_give_other_clips():
    first = [_digest(next(iter(_data(seed=seed).train_dataloader()))) for seed in range(5)]
    assert len(set(first)) == 5


@pytest.mark.parametrize("held_out", [False, True])
def test_validation_shows_combinations_that_training_does_not(held_out):
    data = _data(batch_size=200, batches_per_epoch=1, val_clips=200)
    (batch,) = data.val_dataloader() if held_out else data.train_dataloader()
    allowed, found = (set(map(tuple, words.tolist())) for words in (combinations(held_out), batch.scene.words))
    assert found <= allowed


def test_batches_show_and_say_their_scenes():
    data = ShapeMotionDataModule(VideoSpec(9, 64, 64), batch_size=32)
    batch = data.train_batches[5]
    assert batch.clips.video.shape == (32, 9, 3, 64, 64)
    assert len(set(batch.clips.ids)) == 32
    assert not set(batch.clips.ids) & set(data.train_batches[6].clips.ids)
    assert torch.equal(caption_words(list(batch.clips.captions)), batch.scene.words)
    assert (read(batch.clips.video).words == batch.scene.words).float().mean() > 0.98
    moved = batch.to(torch.device("meta"))
    assert (moved.clips.video.device.type, moved.scene.words.device.type) == ("meta", "cpu")


@pytest.mark.parametrize("template", ["random", *range(len(TEMPLATES))])
def test_captions_follow_their_template(template):
    batch = _data(batch_size=40, templates=template).train_batches[0]
    every = list(zip(*(batch.scene.captions(number) for number in range(len(TEMPLATES))), strict=True))
    used = {said.index(caption) for said, caption in zip(every, batch.clips.captions, strict=True)}
    assert used == (set(range(len(TEMPLATES))) if template == "random" else {template})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is below 1"),
        ({"batches_per_epoch": -1}, "batches_per_epoch: -1 is below 1"),
        ({"val_clips": 0}, "val_clips: 0 is below 1"),
        ({"templates": 3}, "templates: 3 is neither random nor 0 to 2"),
        ({"templates": -1}, "templates: -1 is neither random nor 0 to 2"),
        ({"templates": "first"}, "templates: 'first' is neither random nor 0 to 2"),
        ({"video": VideoSpec(5, 32, 48)}, "video: 32x48 is not square"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(TransporterError) as error:
        ShapeMotionDataModule(**{"video": SPEC, **options})
    assert str(error.value).startswith(message)


def _measured(folder, callback, adapter=None):
    model, trainer = Watching(adapter), _trainer(folder, callbacks=[callback])
    trainer.validate(model, _data(val_clips=3), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_perfect_reconstructions_are_read_right(tmp_path):
    shares = _measured(tmp_path, ReadReconstructions(clips=32))
    assert set(shares) == {*(f"reader/{name}" for name in FACTORS), "reader/whole"}
    assert min(shares.values()) > 0.95


def test_callbacks_draw_the_same_held_out_scenes_at_every_call():
    callback, allowed = ReadCaptions(clips=50), set(map(tuple, combinations(held_out=True).tolist()))
    one, other = callback.scene()[0], callback.scene()[0]
    assert torch.equal(one.values, other.values)
    assert set(map(tuple, one.words.tolist())) <= allowed


def test_models_are_read_at_every_geometry(tiny, tmp_path):
    """The tiny models know nothing: what counts is that figures come."""
    generator, vlm = load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video)
    shares = _measured(tmp_path, ReadGenerations(clips=2), generator)
    assert set(shares) == {*(f"reader/{name}" for name in FACTORS), "reader/whole"}
    shares = _measured(tmp_path, ReadCaptions(clips=2), vlm)
    assert set(shares) == {f"reader/{name}" for name in FACTORS}


@pytest.mark.parametrize("callback", [ReadGenerations(2), ReadCaptions(2)])
def test_a_callback_of_another_recipe_is_refused(callback, tmp_path):
    with pytest.raises(TransporterError, match=r"callbacks: Watching has no \w+Adapter in 'adapter'"):
        _measured(tmp_path, callback)


def test_words_that_have_changed_places():
    plain, planted = _data(templates=0), _data(templates=0, exchange="left:right")
    other = {"left": "right", "right": "left"}
    seen = set()
    for loader in ("train_batches", "held_out_batches"):
        for index in range(4):
            true, told = (getattr(data, loader)[index] for data in (plain, planted))
            assert torch.equal(true.clips.video, told.clips.video)
            for a, b in zip(true.clips.captions, told.clips.captions, strict=True):
                assert [other.get(word, word) for word in a.split()] == b.split()
                seen.update(a.split())
    assert {"left", "right"} <= seen
    with pytest.raises(TransporterError, match="pair: 'left:blue' names no two words of one factor"):
        _data(exchange="left:blue")
