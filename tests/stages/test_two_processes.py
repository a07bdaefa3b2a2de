"""Two processes do what one does with the same global batch; under torchrun and under Lightning's own launcher."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resumable_data import OrderedEncodings
from safetensors.torch import load_file
from test_coupling_stage import write_cache
from test_survival import QUIET, command, launched, phi, same, signalled
from two_processes import concepts, coupling

from transporter_pl.cli import main

HERE = Path(__file__).parent
# what these add to all features of a token, a LayerNorm takes away: no gradient, of which Adam makes steps of chance
WITHOUT_GRADIENT = ("token_mlp.2.bias", "resample.bias")


def close(one, other, tolerance=2e-6):
    return all(
        torch.allclose(value, other[name], atol=tolerance)
        for name, value in one.items()
        if not name.endswith(WITHOUT_GRADIENT)
    )


@pytest.fixture(scope="module")
def arguments(tiny, tiny_coupling):
    return {
        "generator": tiny.generator,
        "vlm": tiny.vlm,
        "video": tiny.video,
        "coupling": tiny_coupling,
        "pairs": ["a red oval moves {left|right} slowly", "a {red|blue} oval moves left"],
        "sampling_steps": 3,
        "steps": 4,
        "calibration_seeds": 0,
    }


@pytest.fixture(scope="module")
def folder(arguments, tmp_path_factory):
    """What two processes have done."""
    folder = tmp_path_factory.mktemp("two")
    plain = {name: vars(value) if hasattr(value, "__dict__") else value for name, value in arguments.items()}
    (folder / "concepts.json").write_text(json.dumps(plain))
    write_cache(folder / "cache", batch=OrderedEncodings(dtype="float32").batch(list(range(28))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, str(HERE / "two_processes.py"), str(folder), "3"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process does with batches of twice the size."""
    folder = tmp_path_factory.mktemp("one")
    return folder, float(coupling(folder, 4))


def test_the_weights_are_those_of_one_process(folder, alone):
    assert close(phi(alone[0]), phi(folder / "ddp"))


def test_a_latent_cache_trains_as_in_one_process(folder, tmp_path):
    """Batches that accumulate, in an order of its own, over the end of an epoch."""
    validated = float(coupling(tmp_path, 4, cache=folder / "cache"))
    assert close(phi(tmp_path), phi(folder / "cached"))
    assert json.loads((folder / "rank0.json").read_text())["cached"] == pytest.approx(validated, rel=1e-5)


def test_validation_is_of_all_clips(folder, alone):
    for rank in (0, 1):
        assert json.loads((folder / f"rank{rank}.json").read_text())["val"] == pytest.approx(alone[1], rel=1e-5)


def test_a_sharded_network_is_exported_whole(folder, alone):
    assert close(phi(alone[0]), phi(folder / "fsdp"))
    assert same(phi(folder / "fsdp"), phi(folder / "from-fsdp"))
    assert close(phi(folder / "fsdp"), phi(folder / "from-ddp"))


def test_a_sharded_checkpoint_is_one_file_that_one_process_can_go_on_from(folder, tmp_path):
    whole, half = (torch.load(folder / "fsdp" / f"step={n}.ckpt", weights_only=True)["state_dict"] for n in (4, 2))
    assert same(phi(folder / "fsdp"), {name.removeprefix("network."): value for name, value in whole.items()})
    assert not same(whole, half)
    coupling(tmp_path, 4, folder / "fsdp" / "step=2.ckpt")
    assert close(phi(folder / "fsdp"), phi(tmp_path))


def test_a_clip_of_one_process_stops_both_with_one_message(folder):
    said = [json.loads((folder / f"rank{rank}.json").read_text())["error"] for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("loss: nan, in optimiser step ")
    assert " of which 3 hold values that are not finite" in said[0]
    assert not (folder / "spoiled" / "coupling").exists()


@pytest.mark.parametrize("objective", ["velocity", "vlm_guided"])
def test_concepts_are_those_of_one_process(folder, arguments, tmp_path, objective):
    if not (alone := folder / "alone").exists():
        concepts(alone, arguments, 4)
    runs = [place / objective for place in (alone, folder / "two")]
    moments = [torch.load(next(run.rglob("*.ckpt")), weights_only=True)["optimizer_states"][0]["state"] for run in runs]
    for index, state in moments[0].items():  # Adam makes much of what is nearly 0, its moments do not
        assert relative(state["exp_avg"], moments[1][index]["exp_avg"]) < 1e-4
    vectors, others = (load_file(run / "concepts" / "concepts.safetensors") for run in runs)
    assert all(relative(value, others[name]) < 1e-4 for name, value in vectors.items())
    stories = [json.loads((run / "concepts" / "concepts.json").read_text())["concepts"] for run in runs]
    assert [c["objective"] for c in stories[0]] == [c["objective"] for c in stories[1]]


def test_few_vectors_are_not_sharded(folder):
    said = json.loads((folder / "rank1.json").read_text())["sharded"]
    assert said == "strategy: the vectors are few, there is nothing to shard; use ddp"


def relative(value, other):
    return (value - other).norm() / value.norm()


def test_a_signal_to_the_first_of_two_ends_both_and_one_process_goes_on(tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    data = ["--data.dtype=float32", "--data.batch_size"]
    two = [*data, "2", "--trainer.devices=2", "--trainer.strategy=ddp"]
    ended = launched(*command(torn, *QUIET, *two, *signalled(int(signal.SIGTERM), 4, rank=0)))
    assert ended.returncode == 143, ended.stderr[-5000:]
    assert ended.stderr.count("stopped by SIGTERM after step 3; the checkpoint is ") == 1
    assert main(command(torn, *QUIET, *data, "4", "--ckpt_path=last")) == 0
    assert main(command(whole, *QUIET, *data, "4")) == 0
    assert close(phi(whole), phi(torn))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the names of threads in /proc")
def test_the_command_ends_after_the_threads_of_its_group(tmp_path):
    """They would abort an interpreter that ends before them, after all is done."""
    unfinished = ["--trainer.callbacks+=resumable_data.Unfinished", f"--trainer.callbacks.folder={tmp_path}"]
    ended = launched(*command(tmp_path, *QUIET, "--trainer.devices=2", "--trainer.strategy=ddp", *unfinished))
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["True 0 False"] * 2
