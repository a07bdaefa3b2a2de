"""One config, three scales: the layers over coupling/base.yaml change what they name, and train."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from caches import write_cache

from transporter_pl.cli import main
from transporter_pl.commands.arguments import PACKAGED, packaged_configs
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.key import MANIFEST, CacheKey
from transporter_pl.loading import load_vlm, pair_shapes
from transporter_pl.origin import weights_fingerprint
from transporter_pl.samples import Encoded

BASE = "coupling/base.yaml"
SCALES = ["laptop", "gpu", "cluster"]
# what a machine without GPUs can't do, and what would take long
HERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "max_steps": 2, "val_check_interval": 2}
SMALL = {"width": 16, "heads": 2, "mixer_layers": 1, "transformer_layers": 1}


def read(name):
    return yaml.safe_load((PACKAGED / name).read_text(encoding="utf-8"))


def leaves(config, path=()):
    """Every value by the names that lead to it; a list is one."""
    if not isinstance(config, dict):
        return {path: config}
    return {at: value for name, part in config.items() for at, value in leaves(part, (*path, name)).items()}


def resolved(capsys, *layers):
    words = [word for name in (BASE, *layers) for word in ("--config", name)]
    assert main(["fit", *words, "--print_config"]) == 0, capsys.readouterr().err
    return leaves(yaml.safe_load(capsys.readouterr().out))


def test_there_are_three():
    assert [name for name in packaged_configs() if name.startswith("scale/")] == sorted(
        f"scale/{s}.yaml" for s in SCALES
    )


@pytest.mark.parametrize("scale", SCALES)
def test_a_layer_changes_what_it_names_and_nothing_else(scale, capsys):
    base, found, layer = resolved(capsys), resolved(capsys, f"scale/{scale}.yaml"), leaves(read(f"scale/{scale}.yaml"))
    more = layer.pop(("trainer", "callbacks+"), [])
    assert {at: found[at] for at in layer} == layer
    callbacks = ("trainer", "callbacks")
    assert found[callbacks][: len(base[callbacks])] == base[callbacks]
    assert [c["class_path"] for c in found[callbacks][len(base[callbacks]) :]] == [c["class_path"] for c in more]
    others = base.keys() - layer.keys() - {callbacks}
    assert {at: found[at] for at in others} == {at: base[at] for at in others}
    assert found.keys() == base.keys()


@pytest.mark.parametrize("scale", ["gpu", "cluster"])
def test_a_step_has_the_papers_64_clips_on_however_many_gpus(scale, capsys):
    found = resolved(capsys, f"scale/{scale}.yaml")
    counts = ("accumulate_grad_batches", "devices", "num_nodes")
    batches, gpus, nodes = (found["trainer", name] for name in counts)
    assert batches * gpus * nodes * found["data", "init_args", "batch_size"] == 64
    assert found["trainer", "val_check_interval"] / batches == 1000  # steps, at both


@pytest.fixture(scope="module")
def cache(tiny, tmp_path_factory):
    """A cache of twelve clips of chance, of the tiny models' shapes, that knows its VLM."""
    folder, draws = tmp_path_factory.mktemp("cache"), torch.Generator().manual_seed(0)
    shapes = vars(pair_shapes(tiny.generator, tiny.vlm, tiny.video))
    made = {name: torch.randn(12, *shape, generator=draws) for name, shape in shapes.items()}
    names, captions = (tuple(f"{what}{i}" for i in range(12)) for what in ("clip", "a red oval "))
    weights = weights_fingerprint(load_vlm(tiny.vlm, tiny.video))
    key = CacheKey(tiny.generator, tiny.vlm, tiny.video, "clips", "bfloat16", vlm_weights=weights)
    write_cache(folder, key, Encoded(names, captions, **made, reencoded=made["tokens"] + 0.1))
    return folder


@pytest.mark.parametrize("scale", SCALES)
def test_a_layer_trains(scale, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    layer = read(f"scale/{scale}.yaml")
    data = layer["data"]["init_args"]
    for path in (path for name in ("path", "val_path") for path in _listed(data.get(name, []))):
        made = Path(shutil.copytree(cache, path)) / MANIFEST
        made.write_text(made.read_text().replace('"clips": "clips"', f'"clips": "{path}"'))  # as of other clips
    over = {"trainer": HERE, "model": {"init_args": {"network": SMALL}}}
    (tmp_path / "over.yaml").write_text(json.dumps(over))
    layers = [word for name in (BASE, f"scale/{scale}.yaml", "over.yaml") for word in ("--config", name)]
    assert main(["fit", *layers, "--trainer.enable_progress_bar", "false"]) == 0, capsys.readouterr().err
    assert CouplingNetwork.from_pretrained(layer["model"]["init_args"]["export"]).config.width == 16
    assert list((tmp_path / layer["trainer"]["default_root_dir"]).rglob("*.ckpt"))


def _listed(paths):
    return paths if isinstance(paths, list) else [paths]
