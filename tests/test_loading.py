"""What is refused before a weight is read: the folders here hold configurations alone."""

import shutil
from dataclasses import replace

import pytest
import torch

from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.samples import Origin, VideoSpec


@pytest.fixture(scope="module")
def bare(tiny, tmp_path_factory):
    """The tiny backbones without their weights."""
    folder = tmp_path_factory.mktemp("bare")
    specs = {}
    for kind in ("generator", "vlm"):
        spec = getattr(tiny, kind)
        path = shutil.copytree(spec.path, folder / kind, ignore=shutil.ignore_patterns("*.safetensors"))
        specs[kind] = replace(spec, path=str(path))
    return replace(tiny, **specs)


def test_the_pair_is_what_the_specs_say(tiny, tiny_coupling):
    specs = replace(tiny.generator, dtype="bfloat16"), tiny.vlm
    generator, vlm = load_pair(*specs, tiny.video, CouplingNetwork.from_pretrained(tiny_coupling), "auto")
    assert (generator.source, vlm.source) == (tiny.generator.path, tiny.vlm.path)
    assert (generator.dtype, vlm.dtype) == (torch.bfloat16, torch.float32)
    assert generator.device.type == vlm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vlm": BackboneSpec("video_llama", "x")}, "vlms: unknown name 'video_llama'. Did you mean 'video_llama3'"),
        ({"generator": BackboneSpec("wann", "x")}, "generators: unknown name 'wann'. Did you mean 'wan'"),
        ({"vlm": BackboneSpec("video_llama3", "/none")}, "/none"),
        ({"video": VideoSpec(6, 32, 32)}, r"video\.frames: 6 is not"),
        ({"video": VideoSpec(5, 96, 32), "vlm": BackboneSpec("video_llama3", "/none")}, "/none"),
    ],
)
def test_unfit_backbones_are_refused_before_weights_are_read(bare, change, message):
    found = replace(bare, **change)
    with pytest.raises(TransporterError, match=message):
        load_pair(found.generator, found.vlm, found.video)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"video": VideoSpec(9, 32, 32)}, r"video\.frames: .* made for 9, not 5"),
        ({"video": VideoSpec(5, 32, 32), "vlm": "some/gemma"}, "vlm: .* made for gemma, not vlm"),
    ],
)
def test_a_coupling_of_something_else_is_refused_before_weights_are_read(bare, tiny_coupling, options, message):
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    network.origin = Origin(**{"generator": bare.generator.path, "vlm": bare.vlm.path, **options})
    with pytest.raises(TransporterError, match=message):
        load_pair(bare.generator, bare.vlm, bare.video, network)


def test_shapes_are_compared_with_the_coupling_too(bare, tiny_coupling):
    with pytest.raises(TransporterError, match=r"latents: .* made for \(4, 2, 2, 2\), not \(4, 3, 2, 2\)"):
        load_pair(bare.generator, bare.vlm, VideoSpec(9, 32, 32), CouplingNetwork.from_pretrained(tiny_coupling))


@pytest.mark.parametrize("device", ["graphics", "cuda:99", ""])
def test_devices_that_are_not_there(bare, device):
    with pytest.raises(TransporterError, match=f"device: '{device}' is not there; use auto, cpu, or cuda"):
        load_pair(bare.generator, bare.vlm, bare.video, device=device)


@pytest.mark.parametrize("dtype", ["float", "int8", "half precision"])
def test_a_type_is_one_of_torch(dtype):
    if dtype == "float":  # torch's name for float32
        assert BackboneSpec("wan", "x", dtype).torch_dtype is torch.float32
        return
    with pytest.raises(TransporterError, match=f"dtype: '{dtype}' is no floating-point type"):
        BackboneSpec("wan", "x", dtype)


@pytest.mark.parametrize("name", ["transporter_pl.backbones.wan.WanAdapter", "json.JSONDecoder", "json.dumps"])
def test_a_class_path_of_something_else_is_refused(bare, name):
    with pytest.raises(TransporterError, match=f"name: '{name}' is no VLMAdapter; registered vlms: gemma3, "):
        load_pair(bare.generator, replace(bare.vlm, name=name), bare.video)


@pytest.mark.parametrize(
    ("name", "path"),
    [("gemma3", "google/gemma-3-12b-it"), ("phi4_multimodal", "microsoft/Phi-4-multimodal-instruct@refs/pr/70")],
)
def test_both_are_asked_for_before_the_first_is_loaded(bare, name, path, tmp_path, monkeypatch):
    """Their shapes are known offline; that they can't be had must not come after the generator's download."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TransporterError, match=f"path: can't load '{path}'"):  # the generator has no weights to load
        load_pair(bare.generator, BackboneSpec(name, path), bare.video)
