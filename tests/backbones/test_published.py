"""The configurations of published models: whole, of the published size, and enough to know every shape."""

import json

import diffusers
import pytest
import torch
import transformers

from transporter_pl.backbones import folders
from transporter_pl.backbones.gemma3 import Gemma3Adapter
from transporter_pl.backbones.phi4_multimodal import Phi4MultimodalAdapter
from transporter_pl.backbones.qwen3_vl import Qwen3VLAdapter
from transporter_pl.backbones.shipped import PUBLISHED, configuration, published_names
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

VIDEO = VideoSpec(81, 480, 832, 16)
BILLIONS = {  # of each folder with a config.json
    "Wan-AI--Wan2.2-TI2V-5B-Diffusers/transformer": 5.00,
    "Wan-AI--Wan2.2-TI2V-5B-Diffusers/vae": 0.70,
    "Wan-AI--Wan2.2-TI2V-5B-Diffusers/text_encoder": 5.68,
    "Wan-AI--Wan2.2-T2V-A14B-Diffusers/transformer": 14.29,
    "Wan-AI--Wan2.2-T2V-A14B-Diffusers/transformer_2": 14.29,
    "Wan-AI--Wan2.2-T2V-A14B-Diffusers/vae": 0.13,
    "Wan-AI--Wan2.2-T2V-A14B-Diffusers/text_encoder": 5.68,
    "lkhl--VideoLLaMA3-7B-Image-HF": 8.04,
    "google--gemma-3-12b-it": 12.19,
    "google--gemma-3-4b-it": 4.30,
    "microsoft--Phi-4-multimodal-instruct": 4.74,
    "Qwen--Qwen3-VL-8B-Instruct": 8.77,
}


@pytest.mark.parametrize("folder", BILLIONS)
def test_the_model_has_the_published_size(folder):
    config = json.loads((PUBLISHED / folder / "config.json").read_text())
    with torch.device("meta"):
        if "_class_name" in config:
            model = getattr(diffusers, config["_class_name"]).from_config(config)
        else:
            kind = getattr(transformers, config["architectures"][0])
            model = kind(kind.config_class.from_dict(config))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(BILLIONS[folder], abs=0.006)


def test_every_folder_is_listed_and_holds_json_alone():
    files = {p.relative_to(PUBLISHED) for p in PUBLISHED.rglob("*") if p.is_file()}
    assert {p.parent.as_posix() for p in files if p.name == "config.json"} == set(BILLIONS)
    assert {p.suffix for p in files if len(p.parts) > 1} == {".json"}
    card = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in card for name in published_names())


@pytest.mark.parametrize(
    ("path", "shapes"),
    [
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", ((48, 21, 30, 52), (512, 4096))),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ((16, 21, 60, 104), (512, 4096))),
    ],
)
def test_the_generators_shapes_are_known_offline(path, shapes, monkeypatch):
    monkeypatch.setattr(folders, "hf_hub_download", None)
    assert WanAdapter.shapes_of(path, VIDEO) == shapes


@pytest.mark.parametrize(
    ("adapter", "path", "shape"),
    [
        (VideoLlama3Adapter, "lkhl/VideoLLaMA3-7B-Image-HF", (81 * 180, 3584)),
        (Gemma3Adapter, "google/gemma-3-12b-it", (81 * 256, 3840)),
        (Gemma3Adapter, "google/gemma-3-4b-it", (81 * 256, 2560)),
        (Phi4MultimodalAdapter, "microsoft/Phi-4-multimodal-instruct@refs/pr/70", (81 * 900, 3072)),
    ],
)
def test_the_vlms_tokens_are_known_offline(adapter, path, shape, monkeypatch):
    monkeypatch.setattr(folders, "hf_hub_download", None)
    assert adapter.token_shape_of(path, VIDEO) == shape


def test_qwen3_vl_is_known_offline_too(monkeypatch):
    monkeypatch.setattr(folders, "hf_hub_download", None)
    assert Qwen3VLAdapter.token_shape_of("Qwen/Qwen3-VL-8B-Instruct", VideoSpec(9, 480, 832))[1] == 4 * 4096


def test_of_a_local_folder_its_own_configuration_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "gemma-3-4b-it").mkdir(parents=True)
    assert configuration("google/gemma-3-4b-it") == "google/gemma-3-4b-it"
    assert configuration("some-lab/else") == "some-lab/else"


def test_a_resolution_that_does_not_fit_is_refused_offline():
    with pytest.raises(TransporterError, match=r"video\.width: 840 is not a multiple of 32"):
        WanAdapter.from_config("Wan-AI/Wan2.2-TI2V-5B-Diffusers", VideoSpec(9, 480, 840))


@pytest.mark.parametrize(
    "path",
    [
        "google/gemma-3-12b-it@other",
        "google/gemma-3-12b-it@",
        "microsoft/Phi-4-multimodal-instruct",
        "microsoft/Phi-4-multimodal-instruct@refs/pr/1",
    ],
)
def test_other_revisions_are_not_what_the_package_knows(path):
    assert configuration(path) == path


def test_a_name_near_a_shipped_one_is_not_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr(folders, "hf_hub_download", pytest.fail)
    with pytest.raises(TransporterError, match=r"no folder 'shapemotion-gema3'\. Did you mean 'shapemotion-gemma3'"):
        Gemma3Adapter.token_shape_of("shapemotion-gema3", VideoSpec(9, 64, 64))
