"""What two processes do that torchrun starts: ``two_processes.py FOLDER CLIP``, see ``test_two_processes``."""

import json
import pkgutil
import sys
from pathlib import Path

import lightning as L  # noqa: N812
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from resumable_data import SHAPES, OrderedEncodings

from transporter_pl.cli import leave_process_group
from transporter_pl.commands.arguments import PACKAGED
from transporter_pl.coupling.config import CouplingOptions
from transporter_pl.datamodules.cache.datamodule import CacheDataModule
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import VideoSpec
from transporter_pl.stages.concept import ConceptStage
from transporter_pl.stages.coupling import CouplingStage

SMALL = CouplingOptions(
    width=16, heads=2, expansion=2, mixer_layers=2, transformer_layers=1, transport_options={"projections": 4}
)
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
STEPS = {"max_steps": 4, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}


def coupling(folder, batch_size, resumed=None, spoiled=None, cache=None, **options):
    """Train Φ on a latent cache, or on data in memory; returns the loss of the last validation."""
    torch.manual_seed(0)
    stage = CouplingStage(SHAPES, network=SMALL, warmup=1)
    if cache is None:
        data = OrderedEncodings(batch_size=batch_size, dtype="float32")
    else:
        data = CacheDataModule(cache, batch_size=batch_size, val_fraction=0.2)
    if spoiled is not None:
        data.tensors["latents"][spoiled] = torch.nan
    fit = L.Trainer(default_root_dir=folder, **{**QUIET, **STEPS, **options})
    fit.fit(stage, datamodule=data, ckpt_path=resumed)
    return fit.callback_metrics.get("val/total")


def concepts(folder, arguments, batch_size, **options):
    """Learn concepts with both objectives, a bank and checkpoints each."""
    torch.manual_seed(0)
    for name, learned in (("velocity", {}), ("vlm_guided", {"words": 3})):
        stage = ConceptStage(**arguments, objective=name, objective_options=learned, batch_size=batch_size)
        L.Trainer(default_root_dir=folder / name, max_epochs=-1, **{**QUIET, **options}).fit(stage)


def every_second(folder):
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)


def sharded():
    """The packaged layer's strategy."""
    layer = yaml.safe_load((PACKAGED / "cluster" / "fsdp.yaml").read_text())
    return pkgutil.resolve_name(layer["trainer"]["strategy"]["class_path"])()


def main(folder):
    two = {"devices": 2, "strategy": "ddp"}
    found = {"val": float(coupling(folder / "ddp", 2, callbacks=[every_second(folder / "ddp")], **two))}
    found["cached"] = float(coupling(folder / "cached", 2, cache=folder / "cache", **two))
    coupling(folder / "fsdp", 2, devices=2, strategy=sharded(), callbacks=[every_second(folder / "fsdp")])
    for name in ("ddp", "fsdp"):  # goes on sharded
        resumed = folder / name / "step=2.ckpt"
        coupling(folder / f"from-{name}", 2, resumed, devices=2, strategy=sharded(), enable_checkpointing=False)
    try:
        coupling(folder / "spoiled", 2, spoiled=int(sys.argv[2]), **two)
    except TransporterError as error:
        found["error"] = str(error)
    arguments = json.loads((folder / "concepts.json").read_text())
    for name in ("generator", "vlm"):
        arguments[name] = BackboneSpec(**arguments[name])
    arguments["video"] = VideoSpec(**arguments["video"])
    concepts(folder / "two", arguments, 2, **two)
    try:
        concepts(folder / "sharded", arguments, 2, devices=2, strategy=sharded())
    except TransporterError as error:
        found["sharded"] = str(error)
    (folder / f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_process_group()
