"""Φ between two backbones; linear ones implement the ports here, so that every number is known."""

import pytest
import torch
from torch import nn

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.encoding import reencode
from transporter_pl.errors import TransporterError
from transporter_pl.origin import origin_of
from transporter_pl.samples import Origin, VideoSpec

VIDEO = VideoSpec(2, 4, 4)
ORIGIN = Origin("./runs/linear-generator", "linear-vlm", VIDEO)
LATENTS, CONDITION, TOKENS = (2, 1, 2, 2), (3, 5), (4, 6)


class LinearGenerator(GeneratorAdapter):
    latent_shape, condition_shape, guidance_scale = LATENTS, CONDITION, 1.0

    def __init__(self, source="hub/linear-generator", video=VIDEO):
        super().__init__()
        self.source, self.video = source, video
        self.decoder = nn.Linear(8, 96)
        self.freeze()

    def decode(self, latents):
        return self.decoder(latents.flatten(1)).sigmoid().view(-1, 2, 3, 4, 4)

    from_pretrained = shapes_of = save = encode = encode_text = velocity = schedule = None


class LinearVLM(VLMAdapter):
    token_shape, default_prompt = TOKENS, "?"

    def __init__(self, source="hub/linear-vlm"):
        super().__init__()
        self.source = source
        self.encoder = nn.Linear(96, 24)
        self.freeze()

    def encode(self, video):
        return self.encoder(video.flatten(1)).view(-1, *TOKENS)

    from_pretrained = token_shape_of = save = logits = caption = token_ids = text = None


def network(source="reencoded", origin=ORIGIN, **shapes):
    shapes = {"latent_shape": LATENTS, "condition_shape": CONDITION, "token_shape": TOKENS, **shapes}
    made = CouplingNetwork(
        CouplingConfig(**shapes, width=8, heads=2, mixer_layers=1, transformer_layers=1, source=source)
    )
    made.origin = origin
    return made


@pytest.mark.parametrize("source", ["reencoded", "latents"])
def test_couples_as_the_network_does(source):
    generator, vlm, phi = LinearGenerator(), LinearVLM(), network(source)
    latents, condition = torch.randn(2, *LATENTS), torch.randn(2, *CONDITION)
    bridge = Bridge(generator, vlm, phi)
    reencoded = reencode(generator, vlm, latents) if phi.needs_reencoded else None
    torch.testing.assert_close(bridge.couple(latents, condition).second, phi(latents, condition, reencoded).second)
    torch.testing.assert_close(bridge.tokens(latents, condition), phi(latents, condition, reencoded).tokens)


@pytest.mark.parametrize("source", ["reencoded", "latents"])
def test_gradients_reach_the_latents_and_no_weight(source):
    bridge = Bridge(LinearGenerator(), LinearVLM(), network(source)).train()
    assert not any(module.training for module in bridge.modules())
    latents, condition = (torch.randn(1, *s).requires_grad_() for s in (LATENTS, CONDITION))
    bridge.tokens(latents, condition).square().sum().backward()
    assert (latents.grad != 0).all()
    assert (condition.grad != 0).any()
    assert not any(p.requires_grad for p in bridge.parameters())


def test_tokens_are_of_the_vlm_s_type():
    bridge = Bridge(LinearGenerator(), LinearVLM().bfloat16(), network("latents"))
    latents, condition = torch.randn(2, *LATENTS), torch.randn(2, *CONDITION)
    assert bridge.couple(latents.bfloat16(), condition.bfloat16()).tokens.dtype == torch.float32
    assert bridge.tokens(latents, condition).dtype == torch.bfloat16


def test_weights_trained_anew_under_the_same_name_are_refused():
    generator, vlm = LinearGenerator(), LinearVLM()
    made = origin_of(generator, vlm)
    assert Bridge(generator, vlm, network(origin=made)).origin == made
    with pytest.raises(TransporterError, match=f"generator: .*network was trained .* {made.generator_weights}, not"):
        Bridge(LinearGenerator(), vlm, network(origin=made))
    with pytest.raises(TransporterError, match=f"vlm: .*network was trained .* {made.vlm_weights}, not"):
        Bridge(generator, LinearVLM(), network(origin=made))


@pytest.mark.parametrize(
    ("generator", "vlm", "phi", "says"),
    [
        (LinearGenerator("hub/wan"), LinearVLM(), network(), "generator: .* for linear-generator, not wan;"),
        (LinearGenerator(), LinearVLM("hub/gemma"), network(), "vlm: .* for linear-vlm, not gemma;"),
        (LinearGenerator(video=VideoSpec(2, 8, 4)), LinearVLM(), network(), r"video\.height: .* for 4, not 8;"),
        (LinearGenerator(), LinearVLM(), network(token_shape=(4, 7)), r"tokens: .* for \(4, 7\), not \(4, 6\)"),
        (LinearGenerator(), LinearVLM(), network(origin=None, condition_shape=(9, 5)), r"condition: .* for \(9, 5\)"),
    ],
)
def test_other_backbones_are_refused(generator, vlm, phi, says):
    with pytest.raises(TransporterError, match=says):
        Bridge(generator, vlm, phi)
