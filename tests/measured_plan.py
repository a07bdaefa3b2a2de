"""A plan beside the same steps with real tensors."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.encoding import encode
from transporter_pl.loading import load_pair
from transporter_pl.planning.meter import Meter
from transporter_pl.planning.plan import make_plan
from transporter_pl.planning.steps import CAPTION, Batches, ConceptSteps, CouplingSteps, encode_parts, new_network
from transporter_pl.samples import Clips, Shapes

SMALL = CouplingOptions(width=32, heads=4, mixer_layers=2, transformer_layers=2, transport_options={"projections": 8})
BATCHES = Batches(encode=2, coupling=3, concept=2, pairs=2, trajectories=2, explain=2)


@contextmanager
def linear_attention():
    """Without the CPU's fast path of frozen layers, which keeps N² weights, as no GPU does."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def measured(tiny, options, batches, precision):
    """The peak of every part, with real tensors."""
    xi, omega = load_pair(replace(tiny.generator, weights="random"), replace(tiny.vlm, weights="random"), tiny.video)
    spec, count = tiny.video, batches.coupling
    config = CouplingConfig.of(Shapes(xi.latent_shape, xi.condition_shape, omega.token_shape), options)
    clips = torch.rand(count, spec.frames, 3, spec.height, spec.width)
    batch = encode(xi, omega, Clips(("",) * count, clips, (CAPTION,) * count))
    phi, found = new_network(config, precision), []
    tensors = [getattr(batch, name) for name in ("latents", "condition", "tokens", "reencoded")]
    steps = ConceptSteps(xi, omega, new_network(config, "32-true"), batches, precision)
    for held, parts in (
        ([xi, omega], encode_parts(xi, omega, batches.encode)),
        ([phi, *tensors], CouplingSteps(phi, batch, precision).parts()),
        ([steps.bridge, steps.ends], steps.parts()),
        ([steps.bridge], steps.explain_parts()),
    ):
        meter = Meter()
        meter.hold(*held)
        with meter:
            for part in parts:
                meter.restart()
                part.run()
                found.append((part.name, meter.peak, meter.flops))
    return found


def check(tiny, options=SMALL, batches=BATCHES, precision="32-true"):
    plan = make_plan(tiny.generator, tiny.vlm, tiny.video, options, batches, precision)
    with linear_attention():
        found = measured(tiny, options, batches, precision)
    assert [cost.part for cost in plan.costs] == [name for name, _, _ in found]
    for cost, (name, memory, flops) in zip(plan.costs, found, strict=True):
        assert cost.memory == pytest.approx(memory, rel=0.02), (cost.stage, name)
        assert cost.flops == flops, (cost.stage, name)
    return plan
