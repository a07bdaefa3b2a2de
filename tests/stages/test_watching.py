"""What a training shows in TensorBoard, read back from its event files."""

import io
from dataclasses import replace

import lightning as L  # noqa: N812
import matplotlib.image
import pytest
import torch
from caches import write_cache
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_coupling_stage import SMALL, RandomEncodings, stage, trainer

from transporter_pl.cli import main
from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.cache.key import CacheKey
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_vlm, pair_shapes
from transporter_pl.origin import weights_fingerprint
from transporter_pl.samples import Encoded
from transporter_pl.stages.coupling import CouplingStage
from transporter_pl.stages.watching import WatchCaptions, WatchRelations, distinct_clips, evaluated, in_a_cell


def events(folder):
    """What a run's event file holds, every single one of it."""
    (file,) = folder.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(file), {"images": 0, "tensors": 0, "scalars": 0})
    found.Reload()
    return found


def network_of(transport, **options):
    return CouplingOptions(**{**vars(SMALL), "transport": transport, "transport_options": options})


def fit(folder, callbacks, model=None, data=None, **options):
    trained = trainer(folder, **{"logger": True, "callbacks": callbacks, **options})
    trained.fit(model or stage(), datamodule=data or RandomEncodings())
    return trained


def test_pictures_every_so_many_steps_and_at_the_end(tmp_path):
    fit(tmp_path, [WatchRelations(every_n_steps=2)], max_steps=5, accumulate_grad_batches=2)
    found = events(tmp_path)
    assert [picture.step for picture in found.Images("relations")] == [2, 4, 5]
    peaks = found.Scalars("val/plan_peak")
    assert [peak.step for peak in peaks] == [2, 4, 5]
    assert all(0.1 < peak.value < 1 for peak in peaks)  # of 10 tokens


@pytest.mark.parametrize(
    ("network", "matrices"),
    [
        (network_of("zeta", projections=4), 4),
        (network_of("sinkhorn"), 4),
        (network_of("sliced_gw", projections=4), 4),
        (network_of("mean"), 3),
        (network_of("second_only"), 3),
        (network_of("first_only"), 2),
        (replace(network_of("zeta", projections=4), source="latents"), 4),
    ],
)
def test_the_picture_shows_what_there_is(tmp_path, network, matrices):
    fit(tmp_path, [WatchRelations()], stage(network=network), max_steps=1)
    found = events(tmp_path)
    (picture,) = found.Images("relations")
    pixels = matplotlib.image.imread(io.BytesIO(picture.encoded_image_string), "png")
    assert picture.width == round(260 * matrices + 100)
    assert pixels.std() > 0.05
    assert ("val/plan_peak" in found.Tags()["scalars"]) == (matrices == 4)


def test_watching_changes_nothing(tiny_cache, tmp_path):
    """Not even the order of the clips, which is drawn."""
    weights = []
    for watched in ([], [WatchRelations(1), WatchCaptions(1, max_new_tokens=2)]):
        L.seed_everything(0)
        data = CacheDataModule(tiny_cache, batch_size=4)
        model = CouplingStage(data.shapes, network=SMALL, warmup=1)
        fit(tmp_path / str(len(watched)), watched, model, data, max_steps=4)
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_where_there_is_no_tensorboard_nothing_is_loaded_or_shown(tmp_path):
    """The data does not even name a VLM."""
    for logger in (False, CSVLogger(tmp_path / "csv")):
        fit(tmp_path, [WatchRelations(1), WatchCaptions(1)], logger=logger)
    assert not list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.fixture(scope="module")
def tiny_cache(tiny, tmp_path_factory):
    return write_tiny_cache(tmp_path_factory.mktemp("cache"), tiny)


def write_tiny_cache(folder, tiny, **key):
    """A cache of the tiny models' shapes, twelve clips of chance, that knows its VLM."""
    shapes, draws = pair_shapes(tiny.generator, tiny.vlm, tiny.video), torch.Generator().manual_seed(0)
    made = {name: torch.randn(12, *shape, generator=draws) for name, shape in vars(shapes).items()}
    made["reencoded"] = made["tokens"] + 0.1
    weights = {"vlm_weights": weights_fingerprint(load_vlm(tiny.vlm, tiny.video))}
    names, captions = (tuple(f"{what}{i}" for i in range(12)) for what in ("clip|", "a red oval "))
    made_with = CacheKey(tiny.generator, tiny.vlm, tiny.video, "clips", "float32", **{**weights, **key})
    write_cache(folder, made_with, Encoded(names, captions, **made))
    return folder


def test_the_packaged_config_captions_with_the_caches_own_vlm(tiny, tiny_cache, tmp_path, capsys):
    small = ["width=16", "heads=2", "mixer_layers=1", "transformer_layers=1", "transport_options.projections=4"]
    arguments = [
        *["--config", "coupling/base.yaml", "--config", "scale/laptop.yaml"],
        *[f"--data.path={tiny_cache}", "--data.val_fraction=0.5"],
        *[
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=1",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
        ],
        *[f"--model.export={tmp_path / 'phi'}", f"--trainer.default_root_dir={tmp_path}"],
        *(f"--model.network.{option}" for option in small),
    ]
    assert main(["fit", *arguments]) == 0, capsys.readouterr().err
    found = events(tmp_path)
    (text,) = found.Tensors("captions/text_summary")
    assert text.step == 2
    head, rule, *rows = text.tensor_proto.string_val[0].decode().splitlines()
    assert (head, rule) == ("| clip | caption | VLM | VLM through Φ |", "| --- | --- | --- | --- |")
    shown = next(iter(CacheDataModule(tiny_cache, val_fraction=0.5).val_dataloader()))
    vlm, phi = load_vlm(tiny.vlm, tiny.video), CouplingNetwork.from_pretrained(tmp_path / "phi")
    with torch.no_grad():
        through = vlm.caption(phi(shown.latents, shown.condition, shown.reencoded).tokens)
    captions = zip(shown.ids, shown.captions, vlm.caption(shown.tokens), through, strict=True)
    assert rows == [f"| {' | '.join(map(in_a_cell, row))} |" for row in captions][:4]
    assert [picture.step for picture in found.Images("relations")] == [2]
    state = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
    assert all(name.startswith("network.") for name in state["state_dict"])
    assert not any("Watch" in name for name in state["callbacks"])


def test_a_vlm_that_was_trained_anew_is_refused(tiny, tmp_path):
    cache = write_tiny_cache(tmp_path / "cache", tiny, vlm_weights="0123")
    data = CacheDataModule(cache)
    with pytest.raises(
        TransporterError, match=r"^vlm: the tokens were made with other weights .* 0123, not \w+\); encode"
    ):
        fit(tmp_path, [WatchCaptions()], CouplingStage(data.shapes, network=SMALL), data)


def test_a_vlm_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(
        TransporterError, match=r"^callbacks: WatchCaptions asks the VLM, but RandomEncodings has no `vlm`"
    ):
        fit(tmp_path, [WatchCaptions()])


@pytest.mark.parametrize("callback", [WatchRelations(), WatchCaptions()])
def test_another_stage_is_refused(tmp_path, callback):
    from lightning.pytorch.demos.boring_classes import BoringModel

    message = f"^callbacks: {type(callback).__name__} watches a CouplingStage, not BoringModel; leave it out"
    with pytest.raises(TransporterError, match=message):
        trainer(tmp_path, callbacks=[callback]).fit(BoringModel())


@pytest.mark.parametrize("option", ["every_n_steps", "clips", "max_new_tokens"])
def test_numbers_below_one_are_refused(option):
    for callback in (WatchRelations, WatchCaptions)[option == "max_new_tokens" :]:
        with pytest.raises(TransporterError, match=f"{option}: 0 is too small"):
            callback(**{option: 0})


def test_clips_with_several_captions_are_shown_once():
    data = RandomEncodings()
    for tensor in data.tensors.values():
        tensor[1:7] = tensor[:1]
    for count, ids in ((1, ("0",)), (3, ("0", "7", "8")), (50, ("0", "7", "8", "9", "10", "11"))):
        found = distinct_clips(data.val_dataloader(), count)
        assert found.ids == found.captions == ids
        assert torch.equal(found.latents, data.tensors["latents"][list(map(int, ids))])


def test_the_network_is_seen_in_eval_mode_and_left_as_it_was():
    network = stage().network.train()
    network.mixer.eval()
    before = {name: module.training for name, module in network.named_modules()}
    with evaluated(network) as seen:
        assert not any(module.training for module in seen.modules())
    assert {name: module.training for name, module in network.named_modules()} == before


def test_a_text_fits_in_a_cell():
    assert in_a_cell("a|b\n\n c ") == r"a\|b c"
