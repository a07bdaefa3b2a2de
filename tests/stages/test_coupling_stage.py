"""Stage 1 as users run it: through the Trainer, through the command line's parser, and back from checkpoints."""

from dataclasses import replace
from pathlib import Path

import caches
import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader

from transporter_pl.cli import main
from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.coupling.losses import LossWeights
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.key import CacheKey
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, Origin, Shapes, TokenStatistics, VideoSpec
from transporter_pl.stages.coupling import CouplingStage, warmup_cosine
from transporter_pl.stages.sharding import check_sharding

SHAPES = Shapes(latents=(4, 2, 2, 2), condition=(3, 6), tokens=(10, 8))
ORIGIN = Origin("hub/generator", "hub/vlm", VideoSpec(9, 64, 64, 8.0))
SMALL = CouplingOptions(
    width=16, heads=2, expansion=2, mixer_layers=2, transformer_layers=1, transport_options={"projections": 4}
)


class RandomEncodings(L.LightningDataModule):
    """Random tensors of the shapes, with a mean and a scale of their own."""

    def __init__(self, clips: int = 12) -> None:
        super().__init__()
        self.shapes, self.origin = SHAPES, ORIGIN
        draws = torch.Generator().manual_seed(0)
        self.tensors = {
            "latents": torch.randn(clips, *SHAPES.latents, generator=draws),
            "condition": torch.randn(clips, *SHAPES.condition, generator=draws),
            "tokens": 5 + 3 * torch.randn(clips, *SHAPES.tokens, generator=draws),
            "reencoded": 5 + 3 * torch.randn(clips, *SHAPES.tokens, generator=draws),
        }

    def token_statistics(self) -> TokenStatistics:
        return TokenStatistics.of(self.tensors["tokens"])

    def batch(self, chosen: list[int]) -> Encoded:
        names = tuple(str(i) for i in chosen)
        return Encoded(ids=names, captions=names, **{k: v[chosen] for k, v in self.tensors.items()})

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(12), batch_size=4, collate_fn=self.batch)

    val_dataloader = test_dataloader = train_dataloader


def trainer(folder, **options):
    return L.Trainer(
        **{
            "max_steps": 3,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            **options,
        }
    )


def stage(**options):
    torch.manual_seed(0)
    return CouplingStage(SHAPES, **{"network": SMALL, "warmup": 1, **options})


def checkpoint(folder):
    return next(Path(folder).rglob("*.ckpt"))


def test_fit_writes_the_network(tmp_path):
    data, model, fit = RandomEncodings(), stage(), trainer(tmp_path)
    fit.fit(model, datamodule=data)
    logged = {
        f"{part}/{name}" for part in ("train", "val") for name in ("first", "second", "transport", "total", "cosine")
    }
    shown = {"L1", "L2", "L3", "loss", "val"}
    assert fit.callback_metrics.keys() == logged | shown
    assert fit.progress_bar_metrics.keys() == shown
    network = CouplingNetwork.from_pretrained(tmp_path / "coupling")
    assert network.origin == ORIGIN
    torch.testing.assert_close(network.token_mean, data.token_statistics().mean)
    batch = data.batch([0, 1])
    inputs = batch.latents, batch.condition, batch.reencoded
    torch.testing.assert_close(network(*inputs).tokens, model.network(*inputs).tokens)


def test_export_goes_where_it_is_told(tmp_path):
    trainer(tmp_path).fit(stage(export=str(tmp_path / "elsewhere")), datamodule=RandomEncodings())
    assert CouplingNetwork.from_pretrained(tmp_path / "elsewhere").config.width == 16
    assert not (tmp_path / "coupling").exists()


def test_an_export_that_can_not_be_written_is_refused_before_the_data_is_read(tmp_path):
    (tmp_path / "file").touch()
    data = RandomEncodings()
    del data.tensors
    with pytest.raises(TransporterError, match=r"export: .*file' is a file"):
        trainer(tmp_path).fit(stage(export=str(tmp_path / "file")), datamodule=data)


def test_checkpoint_holds_the_network_alone_and_loads(tmp_path):
    model = stage(weights=LossWeights(second=0.5))
    trainer(tmp_path).fit(model, datamodule=RandomEncodings())
    state = torch.load(checkpoint(tmp_path), weights_only=True)
    assert all(name.startswith("network.") for name in state["state_dict"])
    loaded = CouplingStage.load_from_checkpoint(checkpoint(tmp_path))
    assert loaded.network.config == model.network.config
    assert loaded.weights == model.weights
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])


def test_resumes(tmp_path):
    trainer(tmp_path).fit(stage(), datamodule=RandomEncodings())
    again = trainer(tmp_path, max_steps=6)
    again.fit(stage(), datamodule=RandomEncodings(), ckpt_path=checkpoint(tmp_path))
    assert again.global_step == 6


def test_the_command_line_links_the_shapes_and_its_checkpoints_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [
        "--model=transporter_pl.stages.coupling.CouplingStage",
        f"--data={__name__}.RandomEncodings",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    options = ["width=16", "heads=2", "mixer_layers=1", "transformer_layers=1", "transport_options.projections=4"]
    network = [f"--model.network.{option}" for option in options]
    assert main(["fit", *common, "--trainer.max_steps=2", *network, "--model.weights.second=0.5"]) == 0
    loaded = CouplingStage.load_from_checkpoint(checkpoint(tmp_path))
    assert loaded.network.config.token_shape == SHAPES.tokens
    assert loaded.network.config.transport_options == {"projections": 4}
    assert loaded.weights == LossWeights(second=0.5)
    assert main(["validate", *common, *network, f"--ckpt_path={checkpoint(tmp_path)}"]) == 0


@pytest.mark.parametrize("ask", ["validate", "test"])
def test_an_untrained_network_is_not_measured(tmp_path, ask):
    with pytest.raises(TransporterError, match="ckpt_path: missing"):
        getattr(trainer(tmp_path), ask)(stage(), datamodule=RandomEncodings())
    fitted = stage()
    trainer(tmp_path).fit(fitted, datamodule=RandomEncodings())
    getattr(trainer(tmp_path), ask)(fitted, datamodule=RandomEncodings())


def test_tokens_may_be_standardised_already(tmp_path):
    data = RandomEncodings()
    data.token_statistics = lambda: TokenStatistics(torch.zeros(8), torch.ones(8))
    trainer(tmp_path).fit(stage(), datamodule=data)
    assert (tmp_path / "coupling").is_dir()


@pytest.fixture
def cache(tmp_path):
    """A latent cache in half precision, as large backbones write it."""
    return write_cache(tmp_path / "cache")


def write_cache(folder, video=ORIGIN.video, batch=None):
    backbones = BackboneSpec("wan", "hub/generator", "bfloat16"), BackboneSpec("video_llama3", "hub/vlm", "bfloat16")
    key = CacheKey(*backbones, video, "clips", generator_weights="w1", vlm_weights="w2")
    caches.write_cache(folder, key, batch or RandomEncodings().batch(list(range(12))))
    return folder


def packaged(cache, folder):
    """Arguments for the packaged config, as small as it can be."""
    smaller = ["width=16", "heads=2", "mixer_layers=1", "transformer_layers=1", "transport_options.projections=4"]
    return [
        *["--config", "coupling/base.yaml", f"--data.path={cache}", "--data.batch_size=2"],
        *["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"],
        *[f"--trainer.default_root_dir={folder}", *(f"--model.network.{option}" for option in smaller)],
    ]


def test_the_packaged_config_fits_validates_and_tests(cache, tmp_path, capsys):
    arguments = packaged(cache, tmp_path)
    assert main(["fit", *arguments]) == 0
    made = CouplingNetwork.from_pretrained(tmp_path / "coupling")
    assert made.origin == replace(ORIGIN, generator_weights="w1", vlm_weights="w2")
    for command, figure in (("validate", "val/total"), ("test", "test/total")):
        assert main([command, *arguments]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ckpt_path: missing")
        assert main([command, *arguments, f"--ckpt_path={checkpoint(tmp_path)}"]) == 0
        assert figure in capsys.readouterr().out


def test_bfloat16(tmp_path):
    fit = trainer(tmp_path, precision="bf16-mixed")
    fit.fit(stage(), datamodule=RandomEncodings())
    assert fit.callback_metrics["val/total"].isfinite()


def test_overfits_a_batch(tmp_path):
    fit = trainer(tmp_path, max_steps=100, limit_val_batches=0, limit_train_batches=1, enable_checkpointing=False)
    fit.fit(stage(network=CouplingOptions(**{**vars(SMALL), "width": 32}), lr=3e-3), datamodule=RandomEncodings())
    assert fit.callback_metrics["train/first"] < 0.4


def test_batches_move():
    batch = RandomEncodings().batch([0])
    moved = stage().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.latents.device.type == "meta"
    assert moved.ids == batch.ids


def test_data_without_statistics_is_refused(tmp_path):
    class Plain(L.LightningDataModule):
        train_dataloader = RandomEncodings().train_dataloader

    with pytest.raises(TransporterError, match="data: Plain gives no shapes, origin and token_statistics"):
        trainer(tmp_path).fit(stage(), datamodule=Plain())


@pytest.mark.parametrize(("transport", "missing"), [("first_only", {"second"}), ("second_only", {"first"})])
def test_losses_of_parts_that_are_not_there_are_not_logged(tmp_path, transport, missing):
    fit = trainer(tmp_path)
    options = {**vars(SMALL), "transport": transport, "transport_options": {}}
    fit.fit(stage(network=CouplingOptions(**options)), datamodule=RandomEncodings())
    for part in ("train", "val"):
        logged = {name.removeprefix(f"{part}/") for name in fit.callback_metrics if name.startswith(f"{part}/")}
        assert logged == {"first", "second", "transport", "total", "cosine"} - missing


def test_a_network_with_nothing_to_train_is_written_at_once(tmp_path):
    fit, options = trainer(tmp_path), {**vars(SMALL), "transport": "reencoded", "transport_options": {}}
    fit.fit(stage(network=CouplingOptions(**options)), datamodule=RandomEncodings())
    assert fit.global_step == 0
    assert CouplingNetwork.from_pretrained(tmp_path / "coupling").origin == ORIGIN


def given(shapes=SHAPES, **origin):
    """Data of something else."""
    data = RandomEncodings()
    data.shapes, data.origin = shapes, replace(ORIGIN, **origin)
    return data


LONGER = {"video": VideoSpec(13, 64, 64, 8.0)}
OTHERS = [
    (
        given(replace(SHAPES, tokens=(14, 8)), **LONGER),
        r"^video\.frames: the coupling network was made for 9, not 13; use",
    ),
    (given(video=VideoSpec(9, 96, 64)), r"^video\.height: .* made for 64, not 96"),
    (given(video=VideoSpec(9, 64, 64, 10)), r"^video\.fps: .* made for 8\.0, not 10"),
    (given(vlm="hub/gemma"), "^vlm: .* made for vlm, not gemma"),
    (given(generator="hub/wan"), "^generator: .* made for generator, not wan"),
    (given(replace(SHAPES, tokens=(12, 8))), r"^tokens: .* made for \(10, 8\), not \(12, 8\)"),
    (given(replace(SHAPES, condition=(5, 6))), r"^condition: .* made for \(3, 6\), not \(5, 6\)"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a Φ, trained with known weights of both backbones."""
    folder = tmp_path_factory.mktemp("trained")
    trainer(folder).fit(stage(), datamodule=given(generator_weights="w1", vlm_weights="w2"))
    return checkpoint(folder)


@pytest.mark.parametrize(("data", "message"), OTHERS, ids=[message[1:12] for _, message in OTHERS])
def test_what_a_checkpoint_was_not_trained_for_is_refused(trained, tmp_path, data, message):
    fresh = CouplingStage(data.shapes, network=SMALL)
    for refused in (
        lambda: trainer(tmp_path, max_steps=6).fit(fresh, datamodule=data, ckpt_path=trained),
        lambda: trainer(tmp_path).validate(fresh, datamodule=data, ckpt_path=trained),
        lambda: trainer(tmp_path).fit(CouplingStage.load_from_checkpoint(trained), datamodule=data),
        lambda: trainer(tmp_path).test(CouplingStage.load_from_checkpoint(trained), datamodule=data),
    ):
        with pytest.raises(TransporterError, match=message):
            refused()
    assert not any(tmp_path.iterdir())


def test_a_new_network_for_other_shapes_is_refused(tmp_path):
    with pytest.raises(TransporterError, match=r"^latents: .* made for \(4, 2, 2, 2\), not \(4, 3, 2, 2\)"):
        trainer(tmp_path).fit(stage(), datamodule=given(replace(SHAPES, latents=(4, 3, 2, 2))))


def test_other_weights_of_the_backbones_are_refused_and_unknown_ones_pass(trained, tmp_path):
    with pytest.raises(TransporterError, match=r"^vlm: the coupling network was trained with other weights"):
        trainer(tmp_path).validate(stage(), datamodule=given(vlm_weights="w3"), ckpt_path=trained)
    trainer(tmp_path).validate(stage(), datamodule=given(), ckpt_path=trained)


def test_older_checkpoints_tell_their_shapes_alone(trained, tmp_path):
    state = torch.load(trained, weights_only=True)
    assert state.pop("origin")["video"]["frames"] == 9
    torch.save(state, tmp_path / "older.ckpt")
    assert CouplingStage.load_from_checkpoint(tmp_path / "older.ckpt").network.origin is None
    trainer(tmp_path).validate(stage(), datamodule=given(**LONGER), ckpt_path=tmp_path / "older.ckpt")
    data = given(replace(SHAPES, tokens=(14, 8)), **LONGER)
    with pytest.raises(TransporterError, match=r"^tokens: .* made for \(10, 8\), not \(14, 8\)"):
        trainer(tmp_path).fit(CouplingStage(data.shapes), datamodule=data, ckpt_path=tmp_path / "older.ckpt")


def test_a_loaded_checkpoint_knows_its_backbones(trained):
    made = replace(ORIGIN, generator_weights="w1", vlm_weights="w2")
    assert CouplingStage.load_from_checkpoint(trained, weights_only=True).network.origin == made


def test_another_stages_checkpoint_is_refused(tmp_path):
    torch.save(
        {"state_dict": {}, "hyper_parameters": {"steps": 3}, "pytorch-lightning_version": "2.6"}, tmp_path / "x.ckpt"
    )
    with pytest.raises(TransporterError, match=r"^ckpt_path: no checkpoint of a coupling training"):
        trainer(tmp_path).validate(stage(), datamodule=RandomEncodings(), ckpt_path=tmp_path / "x.ckpt")


def test_the_command_line_says_which_setting_of_the_cache_differs(cache, tmp_path, capsys):
    assert main(["fit", *packaged(cache, tmp_path)]) == 0
    other = write_cache(tmp_path / "longer", VideoSpec(13, 64, 64, 8.0))
    resumed = [f"--ckpt_path={checkpoint(tmp_path)}", "--trainer.max_steps=4"]
    for command in ("fit", "validate", "test"):
        assert main([command, *packaged(other, tmp_path), *resumed[: 2 if command == "fit" else 1]]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: video.frames: the coupling network was made for 9, not 13; use what")
    assert main(["fit", *packaged(cache, tmp_path), *resumed]) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mixer_layers": 1}, "ckpt_path: its Φ has network.mixer_layers 2, not 1; give the options"),
        ({"transport": "mean", "transport_options": {}}, "network.transport zeta, not mean and network.transport_opt"),
        (
            {"transport_options": {"projections": 3}},
            "network.transport_options {'projections': 4}, not {'projections': 3}",
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path, change, says):
    trainer(tmp_path).fit(stage(), datamodule=RandomEncodings())
    other = stage(network=CouplingOptions(**{**vars(SMALL), **change}))
    with pytest.raises(TransporterError, match=says):
        trainer(tmp_path).fit(other, datamodule=RandomEncodings(), ckpt_path=checkpoint(tmp_path))


def test_a_checkpoint_goes_on_with_another_solver(tmp_path):
    trainer(tmp_path).fit(stage(), datamodule=RandomEncodings())
    options = {"transport_options": {"projections": 4, "solver": "streamed"}, "checkpointing": True}
    again = trainer(tmp_path, max_steps=4)
    other = stage(network=CouplingOptions(**{**vars(SMALL), **options}))
    again.fit(other, datamodule=RandomEncodings(), ckpt_path=checkpoint(tmp_path))
    assert again.global_step == 4


def test_precisions_that_would_cast_the_data_are_refused(tmp_path):
    with pytest.raises(TransporterError, match="precision: 'bf16-true' would change what the data hold; use 32-true"):
        trainer(tmp_path, precision="bf16-true").fit(stage(), datamodule=RandomEncodings())


def test_cached_in_half_precision_it_trains_in_full(tmp_path):
    halves = RandomEncodings()
    halves.tensors = {name: value.bfloat16() for name, value in halves.tensors.items()}
    wholes = RandomEncodings()
    wholes.tensors = {name: value.float() for name, value in halves.tensors.items()}
    halves.token_statistics = wholes.token_statistics
    weights = []
    for data in (halves, wholes):
        model = stage()
        trainer(tmp_path).fit(model, datamodule=data)
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy(save_distributed_checkpoint=False)])
def test_ways_of_sharding_that_spoil_something_are_refused(strategy):
    with pytest.raises(TransporterError, match=r"^strategy: \w+ would .*; use --config configs/cluster/fsdp"):
        check_sharding(strategy)


def test_schedule():
    factor = warmup_cosine(100, 10)
    values = [factor(step) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == pytest.approx(1)
    assert values[55] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0)
    assert warmup_cosine(10, 0)(0) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": -1.0}, "lr: -1.0 is no finite number from 0 on"),
        ({"lr": float("nan")}, "lr: nan is no finite"),
        ({"warmup": -1}, "warmup: -1 is no finite"),
    ],
)
def test_rates_below_0_are_refused(options, says):
    with pytest.raises(TransporterError, match=says):
        CouplingStage(SHAPES, **options)
