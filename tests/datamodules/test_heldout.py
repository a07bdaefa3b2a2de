"""Held-out clips and how a Φ is measured by them."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, mse_loss

from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.shapemotion.heldout import Bench, HeldOut, fidelity, generated_clips, rendered_clips
from transporter_pl.datamodules.shapemotion.measure import caption_words
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import combinations
from transporter_pl.encoding import reencode
from transporter_pl.loading import load_pair
from transporter_pl.samples import TokenStatistics


@pytest.fixture(scope="module")
def pair(tiny):
    return load_pair(tiny.generator, tiny.vlm, tiny.video)


@pytest.fixture(scope="module")
def real(pair):
    return rendered_clips(*pair, 3)


@pytest.fixture(scope="module")
def generated(pair):
    return generated_clips(*pair, 2, steps=2)


def reencoding(pair, statistics=None):
    """The Φ that decodes and re-encodes."""
    generator, vlm = pair
    shapes = {"latent_shape": generator.latent_shape, "condition_shape": generator.condition_shape}
    config = CouplingConfig(width=16, heads=2, transport="reencoded", token_shape=vlm.token_shape, **shapes)
    network = CouplingNetwork(config)
    if statistics is not None:
        network.set_statistics(statistics)
    return network


def test_rendered_clips_are_of_words_that_training_never_sees(pair, real):
    generator, vlm = pair
    (batch,) = real.batches
    held_out = combinations(held_out=True).tolist()
    assert all(words in held_out for words in real.words.tolist())
    assert caption_words(list(batch.captions)).equal(real.words)
    torch.testing.assert_close(batch.reencoded, reencode(generator, vlm, batch.latents))
    assert not torch.allclose(batch.tokens, batch.reencoded)


def test_the_truth_of_generated_clips_is_what_is_seen_in_them(pair, generated):
    generator, vlm = pair
    (batch,) = generated.batches
    video = generator.decode(batch.latents)
    assert read(video).words.equal(generated.words)
    torch.testing.assert_close(batch.tokens, vlm.encode(video))
    assert batch.reencoded.equal(batch.tokens)


def test_clips_are_the_same_in_every_call(pair, real, generated):
    assert rendered_clips(*pair, 3).batches[0].tokens.equal(real.batches[0].tokens)
    assert generated_clips(*pair, 2, steps=2).batches[0].latents.equal(generated.batches[0].latents)


def test_cosine_and_gram_are_of_standardised_tokens(pair, real, generated):
    (batch,) = real.batches
    mean, std = batch.tokens.mean((0, 1)), batch.tokens.std((0, 1))
    found = fidelity(reencoding(pair, TokenStatistics(mean, std)), Bench(pair[1], real, generated))
    moved, target = (batch.reencoded - mean) / std, (batch.tokens - mean) / std
    width = target.shape[-1]
    assert found.cosine == pytest.approx(cosine_similarity(moved, target, dim=-1).mean().item(), abs=1e-5)
    assert found.gram == pytest.approx(mse_loss(moved @ moved.mT / width, target @ target.mT / width).item(), rel=1e-3)


def test_every_clip_counts_alike_whatever_its_batch(pair, real, generated):
    network, (batch,) = reencoding(pair), real.batches
    names = ("latents", "condition", "tokens", "reencoded")
    parts = tuple(
        replace(batch, ids=batch.ids[part], **{n: getattr(batch, n)[part] for n in names})
        for part in (slice(0, 1), slice(1, 3))
    )
    whole = fidelity(network, Bench(pair[1], real, generated))
    split = fidelity(network, Bench(pair[1], HeldOut(parts, real.words), generated))
    assert split.real == whole.real
    assert (split.cosine, split.gram) == pytest.approx((whole.cosine, whole.gram), rel=1e-5)


def test_captions_are_held_to_the_words_of_their_own_clips(pair, real, generated):
    vlm = pair[1]
    said, drawn = (caption_words(vlm.caption(held.batches[0].reencoded)) for held in (real, generated))
    wrong = drawn.clone()
    wrong[:, 2] += 1
    wrong[0, 4] += 1
    found = fidelity(reencoding(pair), Bench(vlm, replace(real, words=said), replace(generated, words=wrong)))
    assert found.real == (1.0,) * 6
    assert found.generated == (1.0, 1.0, 0.0, 1.0, 0.5, 1.0)
