"""Stage 1 as users run it: through the Trainer, through the command line's parser, and back from checkpoints."""

from dataclasses import replace
from pathlib import Path

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader

from transporter_pl.commands.stages import run
from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.coupling.losses import LossWeights
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache_files import CacheKey, CacheWriter
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, Origin, Shapes, VideoSpec
from transporter_pl.stages.coupling import CouplingStage, warmup_cosine

SHAPES = Shapes(latents=(4, 2, 2, 2), condition=(3, 6), tokens=(10, 8))
ORIGIN = Origin("hub/generator", "hub/vlm", VideoSpec(9, 64, 64, 8.0))
SMALL = CouplingOptions(
    width=16, heads=2, expansion=2, mixer_layers=2, transformer_layers=1, transport_options={"projections": 4}
)


class RandomEncodings(L.LightningDataModule):
    """Random tensors of the shapes, with a mean and a scale of their own."""

    def __init__(self, clips: int = 12) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.tensors = {
            "latents": torch.randn(clips, *SHAPES.latents, generator=draws),
            "condition": torch.randn(clips, *SHAPES.condition, generator=draws),
            "tokens": 5 + 3 * torch.randn(clips, *SHAPES.tokens, generator=draws),
            "reencoded": 5 + 3 * torch.randn(clips, *SHAPES.tokens, generator=draws),
        }

    @property
    def shapes(self) -> Shapes:
        return SHAPES

    @property
    def origin(self) -> Origin:
        return ORIGIN

    def token_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors["tokens"].mean((0, 1)), self.tensors["tokens"].std((0, 1))

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
    assert {"train/total", "train/first", "train/cosine", "train/plan_peak", "val/total"} <= fit.callback_metrics.keys()
    network = CouplingNetwork.from_pretrained(tmp_path / "coupling")
    assert network.origin == ORIGIN
    torch.testing.assert_close(network.token_mean, data.token_statistics()[0])
    batch = data.batch([0, 1])
    inputs = batch.latents, batch.condition, batch.reencoded
    torch.testing.assert_close(network(*inputs).tokens, model.network(*inputs).tokens)


def test_export_goes_where_it_is_told(tmp_path):
    trainer(tmp_path).fit(stage(export=str(tmp_path / "elsewhere")), datamodule=RandomEncodings())
    assert CouplingNetwork.from_pretrained(tmp_path / "elsewhere").config.width == 16
    assert not (tmp_path / "coupling").exists()


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
    run(["fit", *common, "--trainer.max_steps=2", *network, "--model.weights.second=0.5"])
    loaded = CouplingStage.load_from_checkpoint(checkpoint(tmp_path))
    assert loaded.network.config.token_shape == SHAPES.tokens
    assert loaded.network.config.transport_options == {"projections": 4}
    assert loaded.weights == LossWeights(second=0.5)
    run(["validate", *common, *network, f"--ckpt_path={checkpoint(tmp_path)}"])


@pytest.mark.parametrize("ask", ["validate", "test"])
def test_an_untrained_network_is_not_measured(tmp_path, ask):
    with pytest.raises(TransporterError, match="ckpt_path: missing"):
        getattr(trainer(tmp_path), ask)(stage(), datamodule=RandomEncodings())
    fitted = stage()
    trainer(tmp_path).fit(fitted, datamodule=RandomEncodings())
    getattr(trainer(tmp_path), ask)(fitted, datamodule=RandomEncodings())


def test_tokens_may_be_standardised_already(tmp_path):
    data = RandomEncodings()
    data.token_statistics = lambda: (torch.zeros(8), torch.ones(8))
    trainer(tmp_path).fit(stage(), datamodule=data)
    assert (tmp_path / "coupling").is_dir()


@pytest.fixture
def cache(tmp_path):
    """A latent cache in half precision, as large backbones write it."""
    backbones = BackboneSpec("wan", "hub/generator", "bfloat16"), BackboneSpec("video_llama3", "hub/vlm", "bfloat16")
    writer = CacheWriter(tmp_path / "cache", CacheKey(*backbones, ORIGIN.video, "clips", "w1", "w2"))
    batch = RandomEncodings().batch(list(range(12)))
    tensors = {name: getattr(batch, name).bfloat16() for name in ("latents", "condition", "tokens", "reencoded")}
    writer.add(replace(batch, **tensors), [], 12)
    writer.finish()
    return tmp_path / "cache"


def test_the_packaged_config_fits_validates_and_tests(cache, tmp_path, capsys):
    from transporter_pl.cli import main

    smaller = ["width=16", "heads=2", "mixer_layers=1", "transformer_layers=1", "transport_options.projections=4"]
    arguments = [
        *["--config", "coupling/base.yaml", f"--data.path={cache}", "--data.batch_size=2"],
        *["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"],
        *[f"--trainer.default_root_dir={tmp_path}", *(f"--model.network.{option}" for option in smaller)],
    ]
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


def test_schedule():
    factor = warmup_cosine(100, 10)
    values = [factor(step) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == pytest.approx(1)
    assert values[55] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0)
    assert warmup_cosine(10, 0)(0) == 1
