"""What the vision layers say while a clip is encoded: transformers' own hidden states, clip by clip, and z_Ω last."""

import copy

import pytest
import torch
from tiny_vlms import SPEC, tiny_vlm
from transformers.modeling_layers import GradientCheckpointingLayer

from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.errors import TransporterError
from transporter_pl.testing import check_vlm

KINDS = ["video_llama3", "gemma3", "phi4_multimodal", "qwen3_vl"]


def hidden_states(adapter, video):
    """Of the vision tower, called as its own model is."""
    model = adapter.model
    if adapter.model_type == "gemma3":
        return model.model.vision_tower(adapter.grid.images(video), output_hidden_states=True).hidden_states[1:]
    if adapter.model_type == "phi4_multimodal":
        views, seen = adapter.grid.views(video), adapter.grid.seen
        tower = model.model.embed_tokens_extend.image_embed.img_processor
        said = tower(views.flatten(0, 1), patch_attention_mask=seen.repeat(len(views), 1, 1), output_hidden_states=True)
        return said.hidden_states[1:-1]  # of feature_layer −2 the last is not read
    rows = adapter.grid.rows(video)
    shape, merge = adapter.grid.shapes(len(video), SPEC.frames, rows.device)
    return model.model.vision_model(rows, shape, merge, output_hidden_states=True).hidden_states[1:]


def test_tokens_come_last_and_as_encode_has_them(vlm, video):
    *layers, tokens = vlm.encode_layers(video)
    assert torch.equal(tokens, vlm.encode(video))
    assert layers
    assert all(layer.shape[0] == len(video) and layer.ndim == 3 for layer in layers)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_layers_are_transformers_own_hidden_states(kind, video):
    adapter = tiny_vlm(kind)
    *layers, _ = adapter.encode_layers(video)
    expected = hidden_states(adapter, video)
    assert len(layers) == len(expected)
    for found, states in zip(layers, expected, strict=True):
        torch.testing.assert_close(found.flatten(), states.flatten())


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_has_a_place_for_every_patch_of_every_moment(kind, video):
    adapter = tiny_vlm(kind)
    height, width = adapter.patch_size
    places = adapter.moments * (SPEC.height / height) * (SPEC.width / width)
    if kind == "phi4_multimodal":
        places *= 2  # the crop, and the whole view
    assert adapter.encode_layers(video)[0].shape[1] == places


def test_clips_keep_to_themselves(vlm, video):
    both = vlm.encode_layers(video)
    for row in range(len(video)):
        for together, alone in zip(both, vlm.encode_layers(video[row : row + 1]), strict=True):
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_told_is_read_and_no_other(kind, video):
    adapter = copy.deepcopy(tiny_vlm(kind))
    *layers, tokens = adapter.encode_layers(video)
    changing = []
    for layer in (m for m in adapter.modules() if isinstance(m, GradientCheckpointingLayer)):
        weights = copy.deepcopy(layer.state_dict())
        layer.load_state_dict({name: 1.5 * weight for name, weight in weights.items()})
        if not torch.equal(adapter.encode(video), tokens):
            changing.append(layer)
        layer.load_state_dict(weights)
    assert len(layers) == len(changing)
    assert [layer for layer in adapter.vision_layers() if layer in changing] == changing


def test_layers_reach_the_pixels(vlm, video):
    video = video.clone().requires_grad_()
    for layer in vlm.encode_layers(video):
        (slope,) = torch.autograd.grad(layer.square().sum(), video, retain_graph=True)
        assert slope.flatten(3).abs().amax(-1).all()  # of every clip, frame and channel


def test_layers_are_the_same_with_activations_computed_anew(vlm, video):
    saving = copy.deepcopy(vlm)
    saving.checkpoint_activations()
    slopes = []
    for adapter in (vlm, saving):
        pixels = video.clone().requires_grad_()
        layers = adapter.encode_layers(pixels)
        sum(layer.square().mean() for layer in layers).backward()
        slopes.append(pixels.grad)
    torch.testing.assert_close(slopes[0], slopes[1])
    for found, expected in zip(layers, vlm.encode_layers(video), strict=True):
        torch.testing.assert_close(found, expected)


def test_nothing_is_left_hanging(vlm, video):
    def hooks():
        return sum(len(module._forward_hooks) for module in vlm.modules())

    before = hooks()
    vlm.encode_layers(video)
    with pytest.raises(TransporterError, match="video"):
        vlm.encode_layers(video[:, :-1])
    assert hooks() == before


class Packed(VideoLlama3Adapter):
    """Leaves the clips' patches in one row, and the tokens out."""

    def encode_layers(self, video):
        return tuple(layer.flatten(0, 1) for layer in super().encode_layers(video)[:-1])


def test_the_contract_asks_for_clips_and_for_the_tokens(small_vlm):
    packed = Packed(small_vlm.model, small_vlm.tokenizer, SPEC, "tiny", small_vlm.processor).freeze()
    said = [finding.message for finding in check_vlm(packed) if "encode_layers" in finding.message]
    assert len(said) == 2
    assert said[0].startswith("encode_layers: what comes last and encode's tokens")
    assert said[1] == "encode_layers: layer 0 of two clips has shape (160, 32), not (2, n, D)"
