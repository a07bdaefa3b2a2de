"""Parts may be run again, as whoever times them does, and stage 1 stands alone."""

import runpy
import weakref
from pathlib import Path

import pytest
from measured_plan import BATCHES, SMALL

from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.loading import load_pair, pair_shapes
from transporter_pl.planning.stages import stages
from transporter_pl.planning.steps import Part

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan.py"


@pytest.fixture(scope="module")
def measure():
    return runpy.run_path(str(BENCHMARK))["measure"]


def test_the_first_run_is_weighed_and_the_second_timed(measure):
    seconds, runs = [0.0], []

    def work(name, duration):
        runs.append(name)
        seconds[0] += duration

    def peak_of(run):
        run()
        return 100 * len(runs)

    parts = [Part("a", lambda: work("a", 2.0)), Part("b", lambda: work("b", 0.5))]
    assert measure(parts, peak_of, lambda: seconds[0]) == [("a", 100, 2.0), ("b", 300, 0.5)]
    assert runs == ["a", "a", "b", "b"]


def test_every_part_can_be_run_again_and_stage_1_holds_no_backbone(tiny, measure):
    config = CouplingConfig.of(pair_shapes(tiny.generator, tiny.vlm, tiny.video), SMALL)
    pair = load_pair(tiny.generator, tiny.vlm, tiny.video)
    backbones, run = [weakref.ref(adapter) for adapter in pair], stages(*pair, config, BATCHES, "32-true")
    del pair
    ran, alive = [], []

    def peak_of(work):
        work()
        return 0

    for stage in run:
        ran += [(stage.name, name) for name, _, _ in measure(stage.parts, peak_of, lambda: 0.0)]
        alive.append([adapter() is not None for adapter in backbones])
    assert [stage for stage, _ in ran] == ["encode", "encode", *["stage 2"] * 3, *["explain"] * 3, "stage 1"]
    assert alive == [[True, True]] * 3 + [[False, False]]
