"""The whole path where both backbones are in bfloat16, as large ones are; Φ and the concept vectors are not."""

from dataclasses import replace

import lightning as L  # noqa: N812
import pytest
import torch

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.encode import encode_videos
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.datamodules.vatex import VatexClips
from transporter_pl.explain.explainer import Explainer
from transporter_pl.stages.concept import ConceptStage
from transporter_pl.stages.coupling import CouplingStage

SMALL = CouplingOptions(width=16, heads=2, mixer_layers=1, transformer_layers=1, transport_options={"projections": 4})
PAIR = Pair("left", "right", ("a red oval moves {} slowly",))


@pytest.fixture(scope="module")
def half(tiny):
    return replace(tiny, generator=replace(tiny.generator, dtype="bfloat16"), vlm=replace(tiny.vlm, dtype="bfloat16"))


@pytest.fixture(scope="module")
def data(half, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    write_clips(folder / "clips", 4, half.video)
    clips = VatexClips(folder / "clips", folder / "clips" / "annotations.json", half.video, "first")
    encode_videos(clips, half.generator, half.vlm, folder / "cache", device="cpu")
    return CacheDataModule(str(folder / "cache"), batch_size=2, val_fraction=0.5)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, enable_checkpointing=False, **{**quiet, **options})


@pytest.mark.parametrize("source", ["reencoded", "latents"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_from_clips_to_an_explanation(half, data, tmp_path, source, precision):
    assert data.cache[0].tokens.dtype == torch.bfloat16
    coupling = CouplingStage(data.shapes, network=replace(SMALL, source=source))
    fitted = trainer(tmp_path, max_steps=2, precision=precision)
    fitted.fit(coupling, datamodule=data)
    assert fitted.callback_metrics["val/total"].dtype == torch.float32
    assert fitted.callback_metrics["val/total"].isfinite()
    network = CouplingNetwork.from_pretrained(tmp_path / "coupling")
    assert {p.dtype for p in network.parameters()} == {torch.float32}

    counts = {"sampling_steps": 2, "steps": 2, "batch_size": 2, "phi": "divergence"}
    models = half.generator, half.vlm, half.video, str(tmp_path / "coupling")
    trainer(tmp_path, max_epochs=-1, precision=precision).fit(ConceptStage(*models, [PAIR], **counts))
    bank = ConceptBank.from_pretrained(tmp_path / "concepts")
    vector = bank["left:right"].vector
    assert vector.dtype == torch.float32
    assert vector.isfinite().all()
    assert network.origin == data.origin
    assert (bank.generator_weights, bank.vlm_weights) == (data.origin.generator_weights, data.origin.vlm_weights)

    explainer = Explainer.from_pretrained(
        half.generator, half.vlm, tmp_path / "coupling", tmp_path / "concepts", half.video
    )
    found = explainer.explain("a red oval moves left slowly", "left:right", phi=(0.0, 1.0), steps=2)
    for reading in (found.coupled, found.reencoded):
        assert reading.positive.dtype == reading.divergence.dtype == torch.float32
        assert reading.positive.isfinite().all()


def test_what_was_made_in_half_precision_serves_the_same_weights_in_full(half, tiny, data, tmp_path):
    trainer(tmp_path, max_steps=1).fit(CouplingStage(data.shapes, network=SMALL), datamodule=data)
    counts = {"sampling_steps": 2, "steps": 1, "batch_size": 2}
    trainer(tmp_path, max_epochs=-1).fit(
        ConceptStage(tiny.generator, half.vlm, tiny.video, str(tmp_path / "coupling"), [PAIR], **counts)
    )
    Explainer.from_pretrained(half.generator, tiny.vlm, tmp_path / "coupling", tmp_path / "concepts", tiny.video)
