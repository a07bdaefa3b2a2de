"""Φ has the parts that its transport reads, and no others; with every transport it learns, is saved and is used."""

import lightning as L  # noqa: N812
import pytest
import torch
from caches import write_cache
from test_bridge import CONDITION, LATENTS, TOKENS, VIDEO, LinearGenerator, LinearVLM

from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.coupling.losses import coupling_loss
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.datamodules.cache.key import CacheKey
from transporter_pl.encoding import reencode
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.origin import origin_of
from transporter_pl.samples import Encoded, Shapes, TokenStatistics
from transporter_pl.stages.coupling import CouplingStage
from transporter_pl.transport import new_transport, transports

SHAPES = Shapes(LATENTS, CONDITION, TOKENS)
SMALL = {"width": 8, "heads": 2, "mixer_layers": 1, "transformer_layers": 1}
NAMES = transports.names()


def network(transport, source="reencoded"):
    torch.manual_seed(0)
    made = CouplingNetwork(CouplingConfig.of(SHAPES, CouplingOptions(**SMALL, transport=transport, source=source)))
    made.set_statistics(TokenStatistics(torch.linspace(-5, 5, TOKENS[1]), torch.linspace(0.5, 2, TOKENS[1])))
    return made


def clips(seed=0):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=draws) for shape in (LATENTS, CONDITION, TOKENS)]


def weights(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_parts_that_are_not_read_are_not_built(name):
    phi, whole = network(name), network("mean")
    reads = phi.transport.reads
    assert (phi.mixer is not None, phi.transformer is not None) == ("first" in reads, "second" in reads)
    parts = [part for part, read in ((whole.mixer, "first"), (whole.transformer, "second")) if read in reads]
    assert weights(phi) == sum(map(weights, parts)) + weights(new_transport(name, TOKENS[1], {}))
    coupled = phi(*clips())
    assert (coupled.first is not None, coupled.second is not None) == ("first" in reads, "second" in reads)
    assert coupled.tokens.shape == (2, *TOKENS)


@pytest.mark.parametrize(
    ("transport", "source", "needed"),
    [
        *[("zeta", "reencoded", True), ("zeta", "latents", False)],
        *[("second_only", "reencoded", True), ("second_only", "latents", False)],
        *[("first_only", "reencoded", False), ("first_only", "latents", False)],
        *[("reencoded", "reencoded", True), ("reencoded", "latents", True)],
    ],
)
def test_what_nobody_reads_is_not_asked_for(transport, source, needed):
    phi, (latents, condition, reencoded) = network(transport, source), clips()
    assert phi.needs_reencoded == needed
    if needed:
        with pytest.raises(TransporterError, match="reencoded: missing, but this network reads it"):
            phi(latents, condition)
        assert phi(latents, condition, reencoded).tokens.isfinite().all()
    else:
        assert phi(latents, condition).tokens.isfinite().all()


def test_reencoded_tokens_come_out_as_they_went_in():
    phi, (latents, condition, reencoded) = network("reencoded"), clips()
    assert weights(phi) == 0
    torch.testing.assert_close(phi(latents, condition, reencoded).tokens, reencoded)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_reaches_every_weight(name):
    phi, batch = network(name), clips()
    loss = coupling_loss(phi.standardised(*batch), phi.standardise(torch.randn(2, *TOKENS)))
    assert (loss.first is None, loss.second is None) == (phi.mixer is None, phi.transformer is None)
    assert loss.total.requires_grad == bool(weights(phi))
    if weights(phi):
        loss.total.backward()
    assert [name for name, p in phi.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    phi, batch = network(name), clips()
    phi.save(tmp_path / "coupling")
    torch.manual_seed(1)
    again = CouplingNetwork.from_pretrained(tmp_path / "coupling")
    assert again.config == phi.config
    torch.testing.assert_close(again(*batch).tokens, phi(*batch).tokens)


@pytest.mark.parametrize("name", NAMES)
def test_between_two_backbones(name):
    generator, vlm, phi = LinearGenerator(), LinearVLM(), network(name)
    latents, condition, _ = clips()
    bridge = Bridge(generator, vlm, phi)
    reencoded = reencode(generator, vlm, latents) if phi.needs_reencoded else None
    torch.testing.assert_close(bridge.tokens(latents, condition), phi(latents, condition, reencoded).tokens)


@pytest.fixture
def backbones():
    torch.manual_seed(0)
    return LinearGenerator(), LinearVLM()


@pytest.fixture
def cache(backbones, tmp_path):
    """What ``encode`` writes of eight clips."""
    latents, condition = torch.randn(8, *LATENTS), torch.randn(8, *CONDITION)
    reencoded, origin = reencode(*backbones, latents), origin_of(*backbones)
    names = tuple(map(str, range(8)))
    specs = BackboneSpec("generator", origin.generator), BackboneSpec("vlm", origin.vlm)
    key = CacheKey(*specs, VIDEO, "clips", "float32", "", origin.generator_weights, origin.vlm_weights)
    tokens = reencoded + 0.1 * torch.randn(8, *TOKENS)
    write_cache(tmp_path / "cache", key, Encoded(names, names, latents, condition, tokens, reencoded))
    return CacheDataModule(str(tmp_path / "cache"), batch_size=2, val_fraction=0.25)


def test_what_learns_nothing_is_written_at_once_and_used(backbones, cache, tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(**quiet, max_epochs=3, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.fit(CouplingStage(SHAPES, CouplingOptions(**SMALL, transport="reencoded")), datamodule=cache)
    assert trainer.fit_loop.epoch_progress.total.ready == 0
    phi = CouplingNetwork.from_pretrained(tmp_path / "coupling")
    assert phi.origin == origin_of(*backbones)
    torch.testing.assert_close(phi.token_mean, cache.token_statistics().mean)
    latents, condition, _ = clips()
    tokens = Bridge(*backbones, phi).tokens(latents, condition)
    torch.testing.assert_close(tokens, reencode(*backbones, latents))
