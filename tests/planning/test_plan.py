"""What a plan says is what a run takes, on the same architectures with real tensors."""

import json
from dataclasses import replace

import pytest
import torch
from measured_plan import BATCHES, SMALL, check

from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.cli import main
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_pair
from transporter_pl.planning.gpus import GIB, GPU
from transporter_pl.planning.plan import Cost, Spread, make_plan
from transporter_pl.planning.sizes import sizes_of
from transporter_pl.planning.steps import Batches
from transporter_pl.planning.totals import clip_bytes
from transporter_pl.samples import Shapes, VideoSpec


@pytest.mark.parametrize("source", ["reencoded", "latents"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_predicted_peak_is_the_measured_one(tiny, source, precision):
    half = replace(tiny, vlm=replace(tiny.vlm, dtype="bfloat16"))
    check(half, replace(SMALL, source=source), precision=precision)


@pytest.mark.parametrize("transport", ["reencoded", "sinkhorn", "sliced_gw"])
def test_and_with_another_transport(tiny, transport):
    check(tiny, replace(SMALL, transport=transport, transport_options={}))


def test_and_where_activations_are_larger_than_weights(tiny):
    plan = check(replace(tiny, video=VideoSpec(9, 64, 64)), batches=Batches(1, 4, 4, 1))
    assert max(cost.memory for cost in plan.costs) > 3 * sum(size.bytes for size in plan.sizes)


def test_and_with_batches_in_single_precision(tiny):
    stored, exact = check(tiny), check(tiny, storage="float32")
    peaks = [next(cost.memory for cost in plan.costs if cost.stage == "stage 1") for plan in (stored, exact)]
    assert peaks[1] > peaks[0]


def test_shapes_and_sizes_are_those_of_the_models(tiny):
    plan = make_plan(tiny.generator, tiny.vlm, tiny.video, SMALL, BATCHES)
    xi, omega = load_pair(tiny.generator, tiny.vlm, tiny.video)
    assert plan.shapes == Shapes(xi.latent_shape, xi.condition_shape, omega.token_shape)
    for name, model in (("generator", xi), ("vlm", omega)):
        parts = [size for size in plan.sizes if size.name.startswith(name)]
        assert sum(size.parameters for size in parts) == sum(p.numel() for p in model.parameters())
        assert sum(size.bytes for size in parts) == sum(p.nbytes for p in model.parameters())


def test_parts_share_weights_once():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False), "b": torch.nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    assert [(size.name, size.parameters) for size in sizes_of("m", model)] == [("m.a", 4)]


def test_spreading_stage_1():
    assert Spread().memory(100, 10) == 100
    assert Spread("ddp", 2).memory(100, 10) == 110
    assert Spread("fsdp", 4).memory(100, 10) == 100 - 40 + 10 + 20
    assert Spread("fsdp", 2, nodes=2).memory(100, 10) == Spread("fsdp", 4).memory(100, 10)
    for strategy, *many in (("single", 2), ("single", 1, 2), ("ddp", 1)):
        with pytest.raises(TransporterError, match=r"spread\.gpus: .* use 1 with single, more with ddp or fsdp"):
            Spread(strategy, *many)
    with pytest.raises(TransporterError, match=r"spread\.gpus: 0 is too small"):
        Spread("fsdp", 0)


def test_what_fits_leaves_room_for_what_is_no_tensor():
    from transporter_pl.commands.plan import fits

    gpu = GPU("small", 10 * GIB)
    assert fits(Cost("explain", "answers", 8 * GIB, 0), gpu)
    assert not fits(Cost("explain", "answers", 9 * GIB, 0), gpu)


def arguments(tiny, **options):
    text = {
        "generator": vars(tiny.generator),
        "vlm": vars(tiny.vlm),
        "video": vars(tiny.video),
        "network": {"width": 16, "heads": 2, "mixer_layers": 1, "transformer_layers": 1},
        "batches": {"coupling": 2},
    }
    given = [word for name, value in text.items() for word in (f"--{name}", json.dumps(value))]
    return ["plan", *given, *[word for name, value in options.items() for word in (f"--{name}", str(value))]]


def test_the_command_prints_tables_and_writes_json(tiny, tmp_path, capsys):
    options = {"work.clips": 7, "work.captions": 2, "storage": "float32", "speed.utilisation": 0.5}
    assert main(arguments(tiny, gpu="l40s", out=tmp_path / "plan.json", **options)) == 0
    printed = capsys.readouterr().out
    assert all(
        said in printed for said in ("stage 1", "On L40S 48GB", "at 50% of the peak of L40S", "float32, 7 clips")
    )
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["cache_bytes"] == 7 * found["clip_bytes"] == found["totals"][0]["moved"]
    shapes = Shapes(**found["shapes"])
    assert found["clip_bytes"] == clip_bytes(shapes, "float32", 2)
    encode, further = (cost["flops"] / 8 for cost in found["costs"][:2])
    assert found["totals"][0]["seconds"] == pytest.approx(7 * (encode + further) / (362e12 / 2))
    assert [cost["stage"] for cost in found["costs"]] == [
        *["encode", "encode", "stage 1", "stage 2", "stage 2", "stage 2", "explain", "explain", "explain"]
    ]
    assert all(cost["fits"] for cost in found["costs"])


def test_of_a_gpu_of_unknown_speed_no_hours_are_told(tiny, tmp_path, capsys):
    assert main(arguments(tiny, gpu="24", out=tmp_path / "plan.json")) == 0
    printed = capsys.readouterr().out
    assert "On 24 GiB" in printed
    assert "In all" not in printed
    assert json.loads((tmp_path / "plan.json").read_text())["totals"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "H300"}, "gpu: 'H300' is unknown"),
        ({"work.clips": 0}, "work.clips: 0 is too small"),
        ({"speed.utilisation": 2}, "speed.utilisation: 2 is not in (0, 1]"),
        ({"batches.coupling": 0}, "batches.coupling: 0 is too small"),
        ({"video.height": 33}, "video.height: 33 is not a multiple"),
        ({"generator.path": "some-lab/none-of-ours"}, "path: can't load 'some-lab/none-of-ours'"),
        ({"network.patch": "[2, 1, 1]", "video.frames": 9}, "patch: (2, 1, 1) does not divide"),
        ({"network.transport": "zta"}, "transports: unknown name 'zta'. Did you mean 'zeta'"),
        ({"spread.strategy": "ddp"}, "spread.gpus: 1 with strategy 'ddp'"),
        ({"out": "/"}, "out: '/' is a folder"),
    ],
)
def test_bad_input_is_one_line(tiny, capsys, options, message):
    assert main(arguments(tiny, **options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transport": "zta"}, r"transports: unknown name 'zta'\. Did you mean 'zeta'"),
        ({"transport_options": {"warmth": 1}}, "transport_options: 'zeta' has no option 'warmth'"),
        ({"patch": (1, 7, 7)}, r"patch: \(1, 7, 7\) does not divide the latent grid \(2, 2, 2\)"),
    ],
)
def test_options_of_the_coupling_are_checked_before_a_backbone_is_built(tiny, monkeypatch, options, message):
    monkeypatch.setattr(WanAdapter, "from_config", None)
    with pytest.raises(TransporterError, match=message):
        make_plan(tiny.generator, tiny.vlm, tiny.video, replace(SMALL, **options))
