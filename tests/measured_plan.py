"""A plan beside the same steps with real tensors."""

from dataclasses import replace

import pytest

from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.loading import load_pair, pair_shapes
from transporter_pl.planning.plan import costs_of, linear_attention, make_plan
from transporter_pl.planning.stages import stages
from transporter_pl.planning.steps import Batches

SMALL = CouplingOptions(width=32, heads=4, mixer_layers=2, transformer_layers=2, transport_options={"projections": 8})
BATCHES = Batches(encode=2, coupling=3, concept=4, explain=2)


def measured(tiny, options, batches, precision, storage):
    """What every part takes, with real tensors, by the names of stage and part."""
    config = CouplingConfig.of(pair_shapes(tiny.generator, tiny.vlm, tiny.video), options)
    pair = load_pair(replace(tiny.generator, weights="random"), replace(tiny.vlm, weights="random"), tiny.video)
    with linear_attention():
        costs = [cost for stage in stages(*pair, config, batches, precision, storage) for cost in costs_of(stage)]
    return {(cost.stage, cost.part): cost for cost in costs}


def check(tiny, options=SMALL, batches=BATCHES, precision="32-true", storage="bfloat16"):
    plan = make_plan(tiny.generator, tiny.vlm, tiny.video, options, batches, precision, storage=storage)
    found = measured(tiny, options, batches, precision, storage)
    assert len(plan.costs) == len(found) == 9
    for cost in plan.costs:
        real = found[cost.stage, cost.part]
        assert cost.memory == pytest.approx(real.memory, rel=0.02), (cost.stage, cost.part)
        assert cost.flops == real.flops, (cost.stage, cost.part)
    return plan
