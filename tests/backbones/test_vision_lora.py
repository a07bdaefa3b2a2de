"""The vision LoRA, as the published folder has it, beside PEFT's own model that has it unmerged."""

import importlib.util
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_vlms import tiny_vlm

from transporter_pl.backbones.phi4_multimodal import Phi4MultimodalAdapter
from transporter_pl.backbones.vision_lora import find_vision_lora
from transporter_pl.errors import TransporterError

LAYERS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SETTINGS = {  # the fields that the published one has
    **{"auto_mapping": None, "base_model_name_or_path": "TBA", "bias": "none", "fan_in_fan_out": False},
    **{"inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None},
    **{"lora_alpha": 8, "lora_dropout": 0.0, "modules_to_save": [], "peft_type": "LORA", "r": 4, "revision": None},
    **{"target_modules": LAYERS, "task_type": "CAUSAL_LM"},
}


@pytest.fixture
def plain() -> Phi4MultimodalAdapter:
    return tiny_vlm("phi4_multimodal")


@pytest.fixture
def folder(plain, tmp_path):
    """A folder as the published one: a LoRA for images, and one for speech that is none of our business."""
    plain.save(tmp_path / "plain")
    for seed, name in enumerate(("vision-lora", "speech-lora")):
        write_lora(plain.from_pretrained(tmp_path / "plain", plain.video).model, tmp_path / "plain" / name, seed)
    return tmp_path / "plain"


def write_lora(model, place, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=LAYERS,
            exclude_modules=r".*embed_tokens_extend.*",
            init_lora_weights=False,
        )
        get_peft_model(model, decoder).save_pretrained(place)
    (place / "adapter_config.json").write_text(json.dumps(SETTINGS))


def renamed(folder, rename):
    file = folder / "vision-lora" / "adapter_model.safetensors"
    save_file({rename(name): weight for name, weight in load_file(file).items()}, file)


def without_peft(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "peft" else find(name, *more))


@torch.no_grad()
def unmerged(plain, folder, tokens):
    """Logits of PEFT's model; the LoRA that it puts beside layers of the audio tower, where there is none, is zero."""
    from transformers import Phi4MultimodalForCausalLM

    base = Phi4MultimodalForCausalLM.from_pretrained(folder)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        model = PeftModel.from_pretrained(base, str(folder), subfolder="vision-lora").eval()
    ids = plain.prompt_ids()
    return model(inputs_embeds=plain.embed(ids, tokens)).logits[:, -1]


@torch.no_grad()
def test_logits_are_those_of_pefts_model_and_tokens_stay(plain, folder, video):
    merged = Phi4MultimodalAdapter.from_pretrained(folder, plain.video)
    tokens = merged.encode(video)
    torch.testing.assert_close(tokens, plain.encode(video), atol=0, rtol=0)
    torch.testing.assert_close(merged.logits(tokens), unmerged(plain, folder, tokens), atol=1e-5, rtol=0)
    assert (merged.logits(tokens) - plain.logits(tokens)).abs().max() > 0.01
    assert not any(weight.requires_grad for weight in merged.parameters())
    assert list(merged.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("beginning", ["", "model.", "base_model.model."])
@torch.no_grad()
def test_adapters_may_begin_their_names_differently(plain, folder, video, beginning):
    """PEFT itself would load none of some, with a warning."""
    tokens = plain.encode(video)
    expected = Phi4MultimodalAdapter.from_pretrained(folder, plain.video).logits(tokens)
    renamed(folder, lambda name: beginning + name.removeprefix("base_model.model.model."))
    again = Phi4MultimodalAdapter.from_pretrained(folder, plain.video)
    torch.testing.assert_close(again.logits(tokens), expected, atol=0, rtol=0)


@torch.no_grad()
def test_what_is_saved_has_it_in_its_weights(plain, folder, video, tmp_path, monkeypatch):
    merged = Phi4MultimodalAdapter.from_pretrained(folder, plain.video)
    merged.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vision-lora").exists()
    without_peft(monkeypatch)
    again = Phi4MultimodalAdapter.from_pretrained(tmp_path / "saved", plain.video)
    tokens = again.encode(video)
    torch.testing.assert_close(again.logits(tokens), merged.logits(tokens), atol=0, rtol=0)


def test_it_is_not_saved_beside_the_lora_that_it_has_already(plain, folder):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(TransporterError, match=r"has a vision-lora, .*; save to another folder"):
        Phi4MultimodalAdapter.from_pretrained(folder, plain.video).save(folder)
    assert (folder / "model.safetensors").read_bytes() == before


@torch.no_grad()
def test_in_bfloat16(plain, folder, video):
    full, half = (
        Phi4MultimodalAdapter.from_pretrained(folder, plain.video, kind) for kind in (torch.float32, torch.bfloat16)
    )
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    ours, theirs = (a.logits(a.encode(video)) for a in (half, full))
    assert (ours - theirs).abs().max() < 0.2 * theirs.std()


@torch.no_grad()
def test_the_lora_for_speech_is_left_alone(plain, folder, video):
    tokens = plain.encode(video)
    both = Phi4MultimodalAdapter.from_pretrained(folder, plain.video).logits(tokens)
    shutil.rmtree(folder / "speech-lora")
    alone = Phi4MultimodalAdapter.from_pretrained(folder, plain.video).logits(tokens)
    torch.testing.assert_close(both, alone, atol=0, rtol=0)
    shutil.rmtree(folder / "vision-lora")
    none = Phi4MultimodalAdapter.from_pretrained(folder, plain.video).logits(tokens)
    torch.testing.assert_close(none, plain.logits(tokens), atol=0, rtol=0)


class TestRefusals:
    """All of them before any weight of the model is read, but for a LoRA that does not belong to it."""

    @pytest.fixture
    def weightless(self, folder):
        (folder / "model.safetensors").write_bytes(b"not weights")
        return folder

    def test_without_peft(self, plain, weightless, monkeypatch):
        without_peft(monkeypatch)
        with pytest.raises(
            TransporterError, match=r"^path: .* not installed; run `pip install \"transporter-pl\[phi4\]\"`$"
        ):
            Phi4MultimodalAdapter.from_pretrained(weightless, plain.video)
        assert Phi4MultimodalAdapter.token_shape_of(weightless, plain.video) == plain.token_shape

    def test_another_layout_is_told_before_a_missing_peft(self, plain, weightless, monkeypatch):
        without_peft(monkeypatch)
        (weightless / "config.json").write_text('{"model_type": "phi4mm", "auto_map": {}}')
        with pytest.raises(TransporterError, match="microsoft/Phi-4-multimodal-instruct@refs/pr/70"):
            Phi4MultimodalAdapter.from_pretrained(weightless, plain.video)

    def test_a_pickled_one(self, plain, weightless):
        lora = weightless / "vision-lora"
        torch.save(load_file(lora / "adapter_model.safetensors"), lora / "adapter_model.bin")
        (lora / "adapter_model.safetensors").unlink()
        with pytest.raises(TransporterError, match=r"vision-lora in .* has no adapter_model\.safetensors; download"):
            Phi4MultimodalAdapter.from_pretrained(weightless, plain.video)

    @pytest.mark.parametrize(
        "rename",
        [
            lambda name: name.replace("layers.1", "layers.7"),
            lambda name: name.replace("model.layers", "model.embed_tokens_extend.image_embed.img_processor.layers"),
            lambda name: name.replace("lora_A", "lora_C"),
        ],
        ids=["deeper", "of another part", "of another kind"],
    )
    def test_one_of_another_model(self, plain, folder, rename):
        renamed(folder, rename)
        with pytest.raises(
            TransporterError, match=r"^path: .*vision-lora' is no LoRA of the model beside it \(.*\); d"
        ):
            Phi4MultimodalAdapter.from_pretrained(folder, plain.video)

    @pytest.mark.parametrize("change", [{"r": 8}, {"target_modules": ["q_proj"]}, {"target_modules": LAYERS[:2]}])
    def test_settings_that_are_not_those_of_its_weights(self, plain, folder, change):
        (folder / "vision-lora" / "adapter_config.json").write_text(json.dumps({**SETTINGS, **change}))
        with pytest.raises(
            TransporterError, match=r"^path: .*vision-lora' is no LoRA of the model beside it \(.*\); d"
        ):
            Phi4MultimodalAdapter.from_pretrained(folder, plain.video)


@torch.no_grad()
def test_a_hub_id_has_it_too(plain, folder, video, tmp_path, monkeypatch):
    home = tmp_path / "hub" / "models--org--name"
    (home / "refs" / "refs" / "pr").mkdir(parents=True)
    (home / "refs" / "refs" / "pr" / "70").write_text("a" * 40)
    shutil.copytree(folder, home / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_vision_lora("org/name@refs/pr/70") == home / "snapshots" / ("a" * 40) / "vision-lora"
    tokens = plain.encode(video)
    here, there = (Phi4MultimodalAdapter.from_pretrained(p, plain.video) for p in (folder, "org/name@refs/pr/70"))
    torch.testing.assert_close(there.logits(tokens), here.logits(tokens), atol=0, rtol=0)
