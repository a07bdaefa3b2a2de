"""Φ's layers with checkpointing, Φ as a compiler sees it, and its Gram loss from narrow tokens to wide ones."""

import math

import torch

from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.coupling.losses import coupling_loss
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.planning.meter import Meter
from transporter_pl.samples import Coupled, Shapes

SHAPES = Shapes(latents=(4, 2, 4, 4), condition=(3, 6), tokens=(10, 8))


def network(**options):
    torch.manual_seed(0)
    small = {"width": 16, "heads": 2, "expansion": 2, "mixer_layers": 6, "transformer_layers": 4, **options}
    return CouplingNetwork(CouplingConfig.of(SHAPES, CouplingOptions(**small)))


def clips(count=3):
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(count, *s, generator=draws) for s in (SHAPES.latents, SHAPES.condition, SHAPES.tokens)]


def gradients(run, phi, count=3):
    latents, condition, reencoded = clips(count)
    loss = coupling_loss(run(latents, condition, reencoded), reencoded).total
    return loss, torch.autograd.grad(loss, list(phi.parameters()))


def test_checkpointing_changes_no_gradient():
    plain, kept = network(), network(checkpointing=True)
    assert list(plain.state_dict()) == list(kept.state_dict())
    torch.testing.assert_close(gradients(kept, kept), gradients(plain, plain))


def test_checkpointing_takes_less_memory():
    peaks = []
    for checkpointing in (False, True):
        phi = network(transport="mean", mixer_layers=16, checkpointing=checkpointing)
        with Meter() as meter:
            gradients(phi, phi, 64)
        peaks.append(meter.peak)
    assert peaks[1] < 0.7 * peaks[0]


def test_nothing_is_kept_without_gradients():
    phi = network(checkpointing=True)
    with torch.no_grad():
        assert not phi(*clips()).tokens.requires_grad


def test_compiles_whole():
    phi = network(mixer_layers=1, transformer_layers=1, checkpointing=True)
    compiled = torch.compile(phi, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled, phi), gradients(phi, phi))


def test_one_learning_rate_serves_every_width():
    """How steep the Gram loss is along a token holds from D = 64 to 3840, for tokens of eight factors."""
    found = {}
    for normalisation in ("width", "none"):
        for width in (64, 3840):
            draws = torch.Generator().manual_seed(0)
            factors, loads = torch.randn(2, 1, 400, 8, generator=draws), torch.randn(8, width, generator=draws)
            target, second = factors @ loads / math.sqrt(8)
            second.requires_grad_()
            loss = coupling_loss(Coupled(target, None, second), target, gram_normalisation=normalisation).second
            slope = torch.autograd.grad(loss, second)[0].norm(dim=-1).mean() * second.norm(dim=-1).mean()
            found[normalisation, width] = slope.item()
    assert 0.3 < found["width", 3840] / found["width", 64] < 3
    assert found["none", 3840] / found["none", 64] > 1000
