"""The trained checkpoints that come with the package: real, whole, small, and good at what their cards say."""

import pytest
import torch

from transporter_pl.adapters import vlms
from transporter_pl.backbones.shipped import CHECKPOINTS, resolve, shipped_names
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.datamodules.shapemotion.measure import codec_agreement, generator_agreement, vlm_agreement
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec
from transporter_pl.testing import check_generator, check_vlm

VIDEO = VideoSpec(frames=9, height=64, width=64, fps=8)


@pytest.fixture(scope="module")
def wan():
    return WanAdapter.from_pretrained("shapemotion-wan", VIDEO)


VLMS = {
    "shapemotion-gemma3": "gemma3",
    "shapemotion-phi4mm": "phi4_multimodal",
    "shapemotion-videollama3": "video_llama3",
}


@pytest.fixture(scope="module", params=VLMS)
def vlm(request):
    return vlms.get(VLMS[request.param]).from_pretrained(request.param, VIDEO)


def test_every_checkpoint_has_a_card_with_a_picture():
    assert shipped_names() == [*VLMS, "shapemotion-wan"]
    for name in shipped_names():
        card = (CHECKPOINTS / name / "README.md").read_text(encoding="utf-8")
        pictures = [p.name for p in (CHECKPOINTS / name).glob("*.png")]
        assert pictures
        assert all(f"({picture})" in card for picture in pictures)


def test_all_in_all_they_are_small_and_safe():
    files = [p for p in CHECKPOINTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 30e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".png"}


def test_names_resolve_and_others_are_refused():
    assert resolve("shapemotion-wan") == str(CHECKPOINTS / "shapemotion-wan")
    with pytest.raises(TransporterError, match=r"no folder './shapemotion-wan'\. Did you mean 'shapemotion-wan'"):
        resolve("./shapemotion-wan")


def test_a_misspelt_name_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (WanAdapter.from_pretrained, WanAdapter.shapes_of):
        with pytest.raises(TransporterError) as caught:
            load("shapemotion-wam", VIDEO)
        said = str(caught.value)
        assert said.startswith("path: no folder 'shapemotion-wam'. Did you mean 'shapemotion-wan'? Shipped: shape")
        assert "\n" not in said
    with pytest.raises(TransporterError, match="Did you mean 'shapemotion-videollama3'"):
        VideoLlama3Adapter.from_pretrained("shapemotion-videollama", VIDEO)


def test_the_generator_keeps_the_contract(wan):
    assert check_generator(wan) == []


def test_the_vlms_keep_the_contract(vlm):
    assert check_vlm(vlm) == []


def test_the_codec_keeps_every_factor(wan):
    agreement = codec_agreement(wan, 64)
    assert min(agreement.factors) > 0.93
    assert agreement.whole == 1


def test_the_vlm_names_every_factor(vlm):
    assert min(vlm_agreement(vlm, 64).factors) > 0.9


def test_the_generator_draws_what_captions_say(wan):
    """A floor that chance does not reach; docs/shapemotion.md has the figures over more clips."""
    agreement = generator_agreement(wan, 32, steps=10)
    assert min(agreement.factors) > 0.75
    assert agreement.whole > 0.8


@pytest.mark.gpu
def test_the_generator_draws_alike_on_a_gpu(wan):
    noise = torch.randn(2, *wan.latent_shape, generator=torch.Generator().manual_seed(0))
    condition, t = wan.encode_text(["a red oval moves left", "a blue oval moves up"]), torch.tensor([0.3, 0.9])
    expected = wan.velocity(noise, condition, t)
    there = WanAdapter.from_pretrained("shapemotion-wan", VIDEO).to("cuda")
    found = there.velocity(noise.cuda(), condition.cuda(), t.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
