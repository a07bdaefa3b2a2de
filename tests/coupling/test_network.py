"""Shapes, options, learnability and errors of Φ."""

import pytest
import torch

from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.coupling.losses import coupling_loss
from transporter_pl.coupling.mixer import CouplingMixer, MixerLayer
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.coupling.transformer import CouplingTransformer
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Shapes, TokenStatistics
from transporter_pl.transport import transports

SHAPES = Shapes(latents=(4, 2, 4, 4), condition=(3, 6), tokens=(10, 8))
SMALL = {"width": 16, "heads": 2, "expansion": 2, "mixer_layers": 2, "transformer_layers": 2}


def network(**options):
    torch.manual_seed(0)
    return CouplingNetwork(CouplingConfig.of(SHAPES, CouplingOptions(**{**SMALL, **options})))


def clips(count=3, seed=0):
    draws = torch.Generator().manual_seed(seed)
    shapes = (SHAPES.latents, SHAPES.condition, SHAPES.tokens)
    return [torch.randn(count, *shape, generator=draws) for shape in shapes]


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 4, 2)])
@pytest.mark.parametrize("source", ["reencoded", "latents"])
@pytest.mark.parametrize("transport", ["zeta", "mean"])
def test_shapes(patch, source, transport):
    phi = network(patch=patch, source=source, transport=transport)
    assert phi.needs_reencoded == (source == "reencoded")
    latents, condition, reencoded = clips()
    coupled = phi(latents, condition, reencoded if phi.needs_reencoded else None)
    assert {x.shape for x in (coupled.first, coupled.second, coupled.tokens)} == {(3, 10, 8)}


@pytest.mark.parametrize("source", ["reencoded", "latents"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_inputs_may_be_of_another_type_than_the_network(source, kind):
    phi = network(source=source).to(kind)
    other = torch.float32 if kind == torch.bfloat16 else torch.bfloat16
    latents, condition, reencoded = (x.to(other) for x in clips())
    coupled = phi(latents, condition, reencoded if phi.needs_reencoded else None)
    assert {x.dtype for x in (coupled.first, coupled.second, coupled.tokens)} == {kind}


def test_parts():
    config = CouplingConfig.of(SHAPES, CouplingOptions(**SMALL))
    latents, condition, reencoded = clips()
    mixer, transformer = CouplingMixer(config), CouplingTransformer(config)
    assert sum(isinstance(m, MixerLayer) for m in mixer.modules()) == 2
    assert mixer(latents, condition).shape == reencoded.shape
    assert transformer(latents, condition, reencoded).shape == reencoded.shape


def test_the_paper_s_depths_are_the_defaults():
    options = CouplingOptions()
    assert (options.mixer_layers, options.transformer_layers, options.source) == (24, 12, "reencoded")
    assert (options.transport, options.transport_options) == ("zeta", {})


def test_the_condition_and_every_latent_reach_the_first_tokens():
    latents, condition, _ = (x.requires_grad_() for x in clips())
    network(transport="first_only")(latents, condition).tokens.square().sum().backward()
    assert (latents.grad != 0).all()
    assert (condition.grad != 0).all()


def test_the_second_tokens_start_as_the_reencoded():
    latents, condition, reencoded = clips()
    torch.testing.assert_close(network()(latents, condition, reencoded).second, reencoded)


def test_statistics_are_undone_outside():
    phi, (latents, condition, reencoded) = network(), clips()
    mean, std = torch.linspace(-50, 50, 8), torch.logspace(-2, 2, 8)
    phi.set_statistics(TokenStatistics(mean, std))
    inner, outer = (f(latents, condition, reencoded * std + mean) for f in (phi.standardised, phi.forward))
    torch.testing.assert_close(phi.standardise(outer.tokens), inner.tokens, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(inner.second, reencoded, atol=1e-2, rtol=1e-3)


def test_a_constant_feature_keeps_its_unit():
    phi, (*_, tokens) = network(), clips()
    tokens[..., 3] = 7
    phi.set_statistics(TokenStatistics.of(tokens))
    assert phi.token_std[3] == 1
    assert phi.token_mean[3] == 7


@pytest.mark.parametrize("transport", transports.names())
def test_a_token_that_never_changes_is_kept_and_the_others_are_learned(transport):
    phi, (latents, condition, reencoded) = network(transport=transport), clips()
    tokens = clips(5, seed=1)[2]
    tokens[:, [2, 7]] = torch.randn(2, 8)
    phi.set_statistics(TokenStatistics.of(tokens))
    coupled = phi(latents, condition, reencoded)
    for moved in filter(torch.is_tensor, (coupled.first, coupled.second, coupled.tokens)):
        kept = torch.isclose(moved, tokens[0], atol=1e-4).all(-1)
        assert kept.nonzero()[:, 1].tolist() == [2, 7] * 3
    again = network(transport=transport)
    again.load_state_dict({n: v for n, v in phi.state_dict().items() if n not in ("token_fixed", "token_values")})
    assert not again.token_fixed.any()  # a file from before there were any


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("source", ["reencoded", "latents"])
def test_bfloat16_autocast(training, source):
    phi, batch = network(source=source).train(training), clips()
    exact = phi(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = phi.standardised(*batch)
        loss = coupling_loss(rounded, batch[2])
    assert loss.total.dtype == torch.float32
    assert loss.total.isfinite()
    torch.testing.assert_close(rounded.tokens.float(), exact.tokens, atol=0.1, rtol=0.1)


def test_learns_a_synthetic_map():
    """A small Φ fits tokens that are a random smooth function of the latents, better than re-encoding does."""
    draws = torch.Generator().manual_seed(1)
    factors = torch.randn(64, 3, generator=draws)

    def rendered(*shape):
        weights = torch.randn(3, *shape, generator=draws)
        return torch.tanh(torch.einsum("bf,f...->b...", factors, weights))

    latents, condition, tokens = (rendered(*s) for s in (SHAPES.latents, SHAPES.condition, SHAPES.tokens))
    reencoded = tokens + 0.5 * torch.randn(tokens.shape, generator=draws)
    phi = network(width=32, transport_options={"projections": 16})
    phi.set_statistics(TokenStatistics.of(tokens))
    target, optimizer = phi.standardise(tokens), torch.optim.AdamW(phi.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=120)
    for _ in range(120):
        coupled = phi.standardised(latents, condition, reencoded)
        optimizer.zero_grad()
        coupling_loss(coupled, target).total.backward()
        optimizer.step()
        schedule.step()
    first, moved, reread = (
        (x - target).square().mean() for x in (coupled.first, coupled.tokens, phi.standardise(reencoded))
    )
    assert first < 0.2
    assert moved < 0.3 < reread


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": 3}, "heads: 3 heads don't divide the width 16"),
        ({"mixer_layers": 0}, "mixer_layers: 0"),
        ({"source": "pixels"}, "source: 'pixels' is unknown; use reencoded or latents"),
        ({"gram": "cosine"}, "gram: 'cosine'"),
        ({"patch": (1, 3, 3)}, r"patch: \(1, 3, 3\) does not divide the latent grid \(2, 4, 4\)"),
        ({"transport_options": {"eps": 1}}, "'zeta' has no option 'eps'"),
        ({"transport": "zetta"}, "Did you mean 'zeta'"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(TransporterError, match=says):
        network(**options)


def test_wrong_inputs():
    phi, (latents, condition, reencoded) = network(), clips()
    with pytest.raises(
        TransporterError, match=r"latents: shape \(3, 4, 1, 4, 4\), but the network was built for \(B, 4"
    ):
        phi(latents[:, :, :1], condition, reencoded)
    with pytest.raises(TransporterError, match="condition: shape"):
        phi(latents, condition[:, :2], reencoded)
    with pytest.raises(TransporterError, match="reencoded: missing"):
        phi(latents, condition)
    with pytest.raises(TransporterError, match=r"token mean: shape \(7,\)"):
        phi.set_statistics(TokenStatistics(torch.zeros(7), torch.ones(8)))
    with pytest.raises(TransporterError, match="token std: -1 is not above 0"):
        phi.set_statistics(TokenStatistics(torch.zeros(8), -torch.ones(8)))
