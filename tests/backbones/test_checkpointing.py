"""Activations computed anew: the same gradients from fewer that are kept, in eval mode, and nothing else changes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from transporter_pl.adapters import Frozen
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_generator, load_vlm
from transporter_pl.testing import check_generator, check_vlm


class Plain(WanAdapter):
    checkpoint_activations = Frozen.checkpoint_activations


def gradient(function, value):
    """Of the outputs' squares, and how many bytes were kept for it."""
    kept, value = [], value.detach().requires_grad_()
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor):
        loss = function(value).square().sum()
    loss.backward()
    return value.grad, sum(kept)


def assert_saves(plain, checkpointed, value):
    (expected, much), (found, little) = (gradient(function, value) for function in (plain, checkpointed))
    torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-4)
    assert little < 0.7 * much


def test_wan_to_the_condition_through_every_expert(wan):
    saving = copy.deepcopy(wan)
    saving.checkpoint_activations()
    saving.train()
    latents, condition = torch.randn(2, *wan.latent_shape), torch.randn(2, *wan.condition_shape)
    for t in (torch.tensor([0.95, 0.9]), torch.tensor([0.3, 0.1])):
        plain, checkpointed = (lambda c, a=a, t=t: a.velocity(latents, c, t) for a in (wan, saving))
        assert_saves(plain, checkpointed, condition)
    assert check_generator(saving) == []


def test_a_vlm_to_its_tokens_and_pixels(vlm, video):
    saving = copy.deepcopy(vlm)
    saving.checkpoint_activations()
    saving.train()
    assert_saves(vlm.encode, saving.encode, video)
    tokens = vlm.encode(video).detach()
    assert_saves(vlm.logits, saving.logits, tokens)
    assert saving.caption(tokens, max_new_tokens=6) == vlm.caption(tokens, max_new_tokens=6)
    assert not any(module.training for module in saving.modules())
    assert check_vlm(saving) == []


@pytest.mark.parametrize("kind", ["generator", "vlm"])
def test_a_spec_asks_for_it(tiny, kind):
    load, spec = {"generator": load_generator, "vlm": load_vlm}[kind], getattr(tiny, kind)
    plain, saving = load(spec, tiny.video), load(replace(spec, checkpointing=True), tiny.video)
    if kind == "generator":
        latents, t = torch.randn(1, *plain.latent_shape), torch.tensor([0.5])
        calls = [lambda c, a=a: a.velocity(latents, c, t) for a in (plain, saving)]
        return assert_saves(*calls, torch.randn(1, *plain.condition_shape))
    return assert_saves(plain.logits, saving.logits, torch.randn(1, *plain.token_shape))


def test_an_adapter_without_it_says_so_before_weights_are_read(tiny):
    spec = replace(tiny.generator, name=f"{__name__}.Plain", path="/none", checkpointing=True)
    with pytest.raises(TransporterError, match=r"checkpointing: the adapter .*Plain' does not offer it; leave it out"):
        load_generator(spec, tiny.video)


def test_asked_for_directly_it_says_so_too(small_wan):
    with pytest.raises(TransporterError, match="checkpointing: Plain does not offer it; leave it out"):
        Plain(small_wan.pipeline, small_wan.video).checkpoint_activations()
