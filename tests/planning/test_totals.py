"""Disk, hours and bytes a second of a whole run, beside closed forms and beside runs whose operations are counted."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from transporter_pl import planning
from transporter_pl.cli import main
from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.datamodules.encode import encode_videos
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.datamodules.vatex import VatexClips
from transporter_pl.errors import TransporterError
from transporter_pl.explain.explainer import CALIBRATED
from transporter_pl.planning.meter import Meter
from transporter_pl.planning.plan import Cost, Plan, Spread, make_plan
from transporter_pl.planning.steps import Batches
from transporter_pl.planning.totals import Speed, Total, Work, clip_bytes, totals
from transporter_pl.precision import Storage
from transporter_pl.samples import Shapes

FULL = Shapes(latents=(48, 3, 30, 52), condition=(512, 4096), tokens=(4590, 3584))  # Wan 2.2 5B and VideoLLaMA 3
VISUAL = 48 * 3 * 30 * 52 + 2 * 4590 * 3584
BATCHES = Batches(encode=2, coupling=3, concept=4, explain=5)
WORK = Work(clips=70, captions=3, steps=11, accumulate=13, pairs=17, contexts=19, concept_steps=23, sampling_steps=29)
# operations of one clip, caption, point or video in every part: primes, so that no two sums are alike
EACH = {
    ("encode", "clips → cache"): 101,
    ("encode", "captions → cache"): 103,
    ("stage 1", "step"): 107,
    ("stage 2", "trajectory step"): 109,
    ("stage 2", "divergence"): 113,
    ("stage 2", "step"): 127,
    ("explain", "sampling step"): 131,
    ("explain", "decode, Φ, encode"): 137,
    ("explain", "answers"): 139,
}
AT_ONCE = {"encode": 2, "stage 1": 3, "stage 2": 4, "explain": 5}
PLAN = Plan(FULL, (), tuple(Cost(s, p, 0, n * AT_ONCE[s]) for (s, p), n in EACH.items()))


SPREAD, HALF = Spread("ddp", 8, 2), Speed(0.5)


def whole(spread=SPREAD, speed=HALF):
    return totals(PLAN, WORK, BATCHES, "bfloat16", spread, 1000.0, speed)


@pytest.mark.parametrize(("storage", "size", "scale"), [("bfloat16", 2, 0), ("float32", 4, 0), ("float8_e4m3fn", 1, 4)])
@pytest.mark.parametrize("captions", [1, 10])
def test_a_clip_holds_its_visual_tensors_once_and_its_conditions_without_padding(storage, size, scale, captions):
    assert clip_bytes(FULL, storage, captions) == size * (VISUAL + captions * 32 * 4096) + scale * (3 + captions)


def test_a_condition_that_is_shorter_is_stored_whole():
    short = replace(FULL, condition=(12, 4096))
    assert clip_bytes(FULL, "bfloat16") - clip_bytes(short, "bfloat16") == 2 * (32 - 12) * 4096


def test_encode_is_shared_by_all_gpus():
    encode, _, _ = whole()
    assert (encode.stage, encode.amount, encode.gpus) == ("encode", "70 clips", 16)
    assert encode.arithmetic == pytest.approx(70 * (101 + 2 * 103) / (500 * 16))
    assert encode.moved == 70 * clip_bytes(FULL, "bfloat16", 3)


def test_stage_1_reads_a_clip_with_one_caption_for_every_clip_of_every_batch_of_every_gpu():
    _, stage, _ = whole()
    seen = 11 * 13 * 3 * 16
    assert stage.arithmetic == pytest.approx(seen * 107 / (500 * 16))
    assert stage.moved == seen * clip_bytes(FULL, "bfloat16")
    assert stage.amount == f"11 steps of {13 * 3 * 16} clips, {seen / 70:.3g} epochs"
    # a batch's bytes, while a batch is computed
    assert stage.demand / 16 == pytest.approx(3 * clip_bytes(FULL, "bfloat16") / (3 * 107 / 500))


def test_more_gpus_see_more_clips_in_the_same_hours():
    (_, one, _), (_, many, _) = whole(Spread()), whole()
    assert many.arithmetic == pytest.approx(one.arithmetic)
    assert many.moved == 16 * one.moved


def test_stage_2_is_one_gpus():
    _, _, stage = whole()
    drawn, learned, judged = 2 * 17 * 19 * 29 * 109, 2 * 23 * 4 * 127, 17 * 16 * (113 + 2 * 127)
    calibrated = 17 * 2 * len(CALIBRATED) * (29 * 131 + 137 + 139)
    assert (stage.gpus, stage.moved, stage.bound) == (1, 0, "arithmetic")
    assert stage.arithmetic == pytest.approx((drawn + learned + judged + calibrated) / 500)


def test_the_slower_of_disk_and_arithmetic_is_the_bound():
    _, free, _ = whole()
    assert (free.disk, free.bound, free.seconds) == (0, "arithmetic", free.arithmetic)
    enough = free.demand / 2 / 1e9  # of each of two nodes
    _, slow, _ = whole(speed=Speed(0.5, enough / 4))
    _, fast, _ = whole(speed=Speed(0.5, enough * 4))
    assert (slow.bound, fast.bound) == ("disk", "arithmetic")
    assert slow.seconds == pytest.approx(4 * free.arithmetic)
    assert fast.seconds == free.arithmetic


@given(st.integers(1, 64), st.integers(1, 16), st.floats(0.01, 1), st.floats(0.01, 100))
def test_no_run_is_faster_than_its_arithmetic_or_its_disk(gpus, nodes, utilisation, bandwidth):
    spread = Spread() if gpus * nodes == 1 else Spread("ddp", gpus, nodes)
    for total in whole(spread, Speed(utilisation, bandwidth)):
        assert total.seconds == max(total.arithmetic, total.disk)
        assert total.disk == pytest.approx(total.moved / (bandwidth * 1e9 * nodes))


def test_what_is_demanded_of_the_disk_makes_it_as_fast_as_the_arithmetic():
    total = Total("stage 1", "", 4, 10.0, 500, 0.0)
    assert total.moved / total.demand == total.arithmetic


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Work(clips=0), "work.clips: 0 is too small"),
        (lambda: Work(captions=0), "work.captions: 0 is too small"),
        (lambda: Speed(utilisation=0), r"speed.utilisation: 0 is not in \(0, 1\]"),
        (lambda: Speed(utilisation=1.5), r"speed.utilisation: 1.5 is not in \(0, 1\]"),
        (lambda: Speed(bandwidth=0), "speed.bandwidth: 0 is not above 0"),
        (lambda: Speed(bandwidth=float("inf")), "speed.bandwidth: inf is not above 0"),
    ],
)
def test_amounts_and_speeds_that_are_none_are_refused(make, message):
    with pytest.raises(TransporterError, match=message):
        make()


# -- beside real runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(tiny):
    network = CouplingOptions(width=16, mixer_layers=1, transformer_layers=1, heads=2)  # as tiny_coupling is
    return make_plan(tiny.generator, tiny.vlm, tiny.video, network, batches=Batches(2, 2, 2, 2))


def planned(plan, **work):
    """Operations of every stage, on one GPU."""
    found = totals(plan, Work(**work), Batches(2, 2, 2, 2), "bfloat16", Spread(), 1.0, Speed(1.0))
    return {total.stage: total.arithmetic for total in found}


@pytest.mark.parametrize("storage", get_args(Storage))
def test_encode_computes_and_writes_what_was_planned(plan, tiny, storage, tmp_path):
    write_clips(tmp_path / "clips", 3, tiny.video)
    clips = VatexClips(tmp_path / "clips", tmp_path / "clips" / "annotations.json", tiny.video, captions="all")
    with Meter() as meter:
        encode_videos(clips, tiny.generator, tiny.vlm, tmp_path / "cache", 2, storage, device="cpu")
    cache = LatentCache(tmp_path / "cache")
    (count,) = {len(cache.names(row)[1]) for row in range(3)}
    assert meter.flops == planned(plan, clips=3, captions=count)["encode"]
    written = 0
    for file in (tmp_path / "cache").glob("shard-*"):
        with safe_open(file, "pt") as shard:
            written += sum(shard.get_tensor(name).nbytes for name in shard.keys())  # noqa: SIM118  (no mapping)
    assert written == 3 * clip_bytes(plan.shapes, storage, count)


def test_stage_2_computes_what_was_planned(plan, tiny, tiny_coupling, tmp_path, monkeypatch):
    contexts = [f"a {size} {colour} oval moves {{}}" for size in ("small", "large") for colour in ("red", "blue")]
    words = [("left", "right"), ("slowly", "quickly")]
    options = {
        **{name: vars(getattr(tiny, name)) for name in ("generator", "vlm", "video")},
        **{"coupling": tiny_coupling, "export": str(tmp_path / "concepts")},
        **{"steps": 10, "batch_size": 2, "sampling_steps": 3, "calibration_seeds": 0},
        "pairs": [{"negative": negative, "positive": positive, "contexts": contexts} for negative, positive in words],
    }
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "default_root_dir": str(tmp_path)}
    (tmp_path / "mine.yaml").write_text(json.dumps({"trainer": trainer, "model": {"init_args": options}}))
    with Meter() as meter:
        assert main(["fit", "--config", "concept/base.yaml", "--config", str(tmp_path / "mine.yaml")]) == 0
    monkeypatch.setattr(planning.totals, "SEEDS", 0)  # the length of a calibration's answers depends on data
    work = planned(plan, pairs=2, contexts=4, concept_steps=10, sampling_steps=3)
    assert meter.flops == pytest.approx(work["stage 2"], rel=0.03)
