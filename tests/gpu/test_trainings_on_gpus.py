"""What CPUs can't show: mixed precision and several GPUs, as the packaged layers have them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from transporter_pl.cli import main

pytestmark = pytest.mark.gpu
STAGES = Path(__file__).parents[1] / "stages"
SMALL = ["width=16", "heads=2", "mixer_layers=2", "transformer_layers=1", "transport_options.projections=4"]


def command(folder, *more):
    return [
        "fit",
        *["--model=transporter_pl.stages.coupling.CouplingStage", "--data=resumable_data.OrderedEncodings"],
        *["--trainer.accelerator=gpu", "--trainer.enable_progress_bar=false", "--trainer.logger=false"],
        *["--trainer.max_steps=6", "--trainer.gradient_clip_val=1.0", f"--trainer.default_root_dir={folder}"],
        *(f"--model.network.{option}" for option in SMALL),
        *more,
    ]


@pytest.fixture(autouse=True)
def data_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(STAGES))


def phi(folder):
    return load_file(folder / "coupling" / "coupling.safetensors")


SHARDED = ["--config=cluster/fsdp.yaml"]  # over a mesh of one, where there is one GPU


@pytest.mark.parametrize(
    ("precision", "layer"),
    [("32-true", []), ("bf16-mixed", []), ("16-mixed", []), ("32-true", SHARDED), ("bf16-mixed", SHARDED)],
)
def test_one_gpu_trains_in_full_precision_whatever_the_type_of_the_data(tmp_path, precision, layer):
    """A preempted run goes on; sums on a GPU may differ in their last bits, unless they are asked not to."""
    options = [f"--trainer.precision={precision}", "--trainer.devices=1", "--trainer.deterministic=warn", *layer]
    assert main(command(tmp_path / "whole", *options)) == 0
    stop = [
        "--trainer.callbacks+=resumable_data.Signalled",
        "--trainer.callbacks.number=15",
        "--trainer.callbacks.batch=2",
    ]
    assert main(command(tmp_path / "torn", *options, *stop)) == 143
    assert main(command(tmp_path / "torn", *options, "--ckpt_path=last")) == 0
    whole, torn = phi(tmp_path / "whole"), phi(tmp_path / "torn")
    assert {value.dtype for value in whole.values()} == {torch.float32}
    for name, value in whole.items():
        torch.testing.assert_close(value, torn[name], atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("layer", [["--trainer.strategy=ddp"], SHARDED], ids=["ddp", "fsdp"])
def test_two_gpus_do_what_one_does_and_go_on(tmp_path, precision, layer):
    data = ["--data.dtype=float32", f"--trainer.precision={precision}"]
    assert main(command(tmp_path / "one", "--trainer.devices=1", "--data.batch_size=4", *data)) == 0
    two = ["--trainer.devices=2", "--data.batch_size=2", *data, *layer]
    stop = ["--trainer.callbacks+=resumable_data.Signalled", "--trainer.callbacks.number=15"]
    stop += ["--trainer.callbacks.batch=2", "--trainer.callbacks.rank=0"]
    ended = launched(command(tmp_path / "two", *two, *stop))
    assert ended.returncode == 143, ended.stderr[-5000:]
    ended = launched(command(tmp_path / "two", *two, "--ckpt_path=last"))
    assert ended.returncode == 0, ended.stderr[-5000:]
    one, several = phi(tmp_path / "one"), phi(tmp_path / "two")
    assert one.keys() == several.keys()
    # the tokens' statistics are exact in every precision
    assert torch.equal(one["token_mean"], several["token_mean"])
    tolerance = 1e-4 if precision == "32-true" else 1e-2
    for name, value in one.items():
        if not name.endswith(("token_mlp.2.bias", "resample.bias")):  # without a gradient but rounding errors
            torch.testing.assert_close(value, several[name], atol=tolerance, rtol=0)
    assert json.loads((tmp_path / "two" / "coupling" / "config.json").read_text())["coupling"]["width"] == 16


def launched(words):
    script = Path(sys.executable).with_name("transporter")
    environment = {**os.environ, "PYTHONPATH": str(STAGES)}
    return subprocess.run(
        [sys.executable, script, *words], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
