"""The ablation as a user runs it: what it leaves, what it takes up again, what it refuses and when."""

import io
import json
import re
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
import yaml
from caches import write_cache
from rich.console import Console

from transporter_pl.commands.arguments import call
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.cache.joined import JoinedCaches
from transporter_pl.datamodules.cache.key import MANIFEST, CacheKey
from transporter_pl.datamodules.shapemotion.ablation import ablate
from transporter_pl.datamodules.shapemotion.ablation_table import COLUMNS, ablation_table, spread
from transporter_pl.datamodules.shapemotion.heldout import rendered_clips
from transporter_pl.errors import TransporterError
from transporter_pl.loading import load_pair
from transporter_pl.origin import origin_of

SMALL = {"width": 16, "heads": 2, "expansion": 2, "mixer_layers": 1, "transformer_layers": 1}
VARIANTS = {
    "reencoded": {"transport": "reencoded"},
    "mean": {"transport": "mean"},
    "zeta_4": {"transport": "zeta", "transport_options": {"projections": 4}},
}


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory):
    """A whole config of the command, over a cache of eight clips."""
    folder = tmp_path_factory.mktemp("ablation")
    generator, vlm = load_pair(tiny.generator, tiny.vlm, tiny.video)
    made = origin_of(generator, vlm)
    weights = made.generator_weights, made.vlm_weights
    key = CacheKey(tiny.generator, tiny.vlm, tiny.video, "clips", "float32", "", *weights)
    (batch,) = rendered_clips(generator, vlm, 8, seed=0).batches
    write_cache(folder / "cache", key, replace(batch, ids=tuple("abcdefgh")))
    numbers = {"steps": 2, "batch_size": 4, "warmup": 0, "clips": 2, "generated": 1, "denoising_steps": 1}
    backbones = {name: asdict(getattr(tiny, name)) for name in ("generator", "vlm", "video")}
    places = {"cache": str(folder / "cache"), "out": str(folder / "out"), "device": "cpu"}
    return {**backbones, **places, **numbers, "network": SMALL, "variants": VARIANTS, "seeds": 2}


@pytest.fixture(scope="module")
def found(settings):
    """What the first call returns."""
    return run(settings)


@pytest.fixture
def again(settings, found, tmp_path):
    """The same config over a copy of all that the first call left."""
    shutil.copytree(settings["out"], tmp_path / "out")
    return {**settings, "out": str(tmp_path / "out")}


def run(settings):
    """The command, its arguments read as users give them."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(settings, sort_keys=False))
        file.flush()
        return call(ablate, "transporter ablate", ["--config", file.name])


def without_weights(settings, folder):
    """The same config with a generator that has none: whoever loads it, meets that."""
    source = settings["generator"]["path"]
    path = shutil.copytree(source, folder / "wan", ignore=shutil.ignore_patterns("*.safetensors"))
    return {**settings, "generator": {**settings["generator"], "path": str(path)}}


def stamps(out):
    """When every run's file was written."""
    return {file: file.stat().st_mtime_ns for file in Path(out).glob("*/*/**/*") if file.is_file()}


def test_every_run_leaves_its_network_and_its_figures(settings, found):
    for name in VARIANTS:
        for seed in range(2):
            folder = Path(settings["out"]) / name / f"seed{seed}"
            network = CouplingNetwork.from_pretrained(folder / "coupling")
            assert network.config.transport == VARIANTS[name]["transport"]
            assert network.config.width == 16
            said = json.loads((folder / "result.json").read_text())
            assert said["settings"]["seed"] == seed
            assert said["outcome"]["fidelity"]["cosine"] == found[name][seed].fidelity.cosine
    assert [run.seconds for run in found["reencoded"]] == [None, None]
    assert all(run.seconds > 0 for run in found["mean"])


def test_a_seed_draws_weights_of_its_own(settings, found):
    one, two = (
        CouplingNetwork.from_pretrained(f"{settings['out']}/mean/seed{k}/coupling").state_dict() for k in (0, 1)
    )
    assert not torch.equal(one["mixer.head.1.weight"], two["mixer.head.1.weight"])


def test_the_tables_hold_mean_and_spread(settings, found):
    out = Path(settings["out"])
    row = json.loads((out / "table.json").read_text())["variants"]["mean"]
    values = [outcome.fidelity.gram for outcome in found["mean"]]
    assert row["Gram"] == {"mean": fmean(values), "std": stdev(values)}
    assert [r["fidelity"]["gram"] for r in row["runs"]] == values
    text = (out / "table.md").read_text()
    assert "over 2 seed(s)" in text
    assert f"{fmean(values):.4f} ±{stdev(values):.4f}" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("|")][2:] == list(VARIANTS)


def test_the_table_fits_80_columns(found):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(ablation_table(found))
    said = console.export_text()
    assert all(name in said for name in [*VARIANTS, *COLUMNS])
    assert "…" not in said


def test_a_single_seed_has_no_spread(found):
    assert spread(found["mean"][:1], lambda outcome: 3.0) == (3.0, None)
    assert spread(found["reencoded"], lambda outcome: outcome.seconds) == (None, None)


def test_a_second_call_trains_nothing_and_loads_nothing(again, found, tmp_path):
    before = stamps(again["out"])
    assert run(without_weights(again, tmp_path)) == found
    assert stamps(again["out"]) == before


def test_variants_of_a_seed_see_the_clips_in_one_order(settings, tmp_path, monkeypatch):
    seen, read = [], JoinedCaches.__getitem__
    monkeypatch.setattr(JoinedCaches, "__getitem__", lambda cache, rows: seen.append(rows) or read(cache, rows))
    run({**settings, "out": str(tmp_path), "seeds": 1})
    batches = [rows for rows in seen if isinstance(rows, list)]
    assert len(batches) == 2 * 2  # two steps each of the mean and of ζ-OT; decode-and-re-encode learns nothing
    assert batches[:2] == batches[2:]


def test_a_run_without_result_is_done_again_and_no_other(again, found, capsys):
    before = stamps(again["out"])
    folder = Path(again["out"]) / "mean" / "seed1"
    (folder / "result.json").unlink()
    (folder / "coupling" / "coupling.safetensors").write_bytes(b"half a file")
    repeated = run(again)
    assert re.findall("^run .*", capsys.readouterr().out, re.M) == ["run 5 of 6: mean, seed 1"]
    assert repeated["mean"][1].fidelity == found["mean"][1].fidelity
    changed = {file for file, when in stamps(again["out"]).items() if before[file] != when}
    assert {file.parent for file in changed} == {folder, folder / "coupling"}


def test_more_seeds_and_variants_go_on_with_what_is_there(again):
    before = stamps(again["out"])
    variants = {**VARIANTS, "first_only": {"transport": "first_only"}}
    grown = run({**again, "seeds": 1, "variants": variants})
    assert list(grown) == list(variants)
    assert {file: when for file, when in stamps(again["out"]).items() if file in before} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, r"steps: '.*reencoded/seed0/result.json' was made with 2, not 3; give another folder as out"),
        ({"lr": 1e-4}, "lr: .* was made with 0.001, not 0.0001"),
        ({"clips": 4}, "clips: .* was made with 2, not 4"),
        ({"network": {**SMALL, "gram": "none"}}, "network.gram: .* was made with 'width', not 'none'"),
        (
            {"variants": {"zeta_4": {"transport": "zeta", "transport_options": {"projections": 5}}}},
            "network.transport_options.projections: .*zeta_4.* was made with 4, not 5",
        ),
        ({"variants": {"zeta_4": {"transport": "zeta"}}}, "network.transport_options.projections: .* 4, not None"),
    ],
)
def test_results_of_other_settings_are_refused(again, tmp_path, change, message):
    with pytest.raises(TransporterError, match=message):
        run({**without_weights(again, tmp_path), **change})


def test_a_result_older_than_an_option_is_one_of_its_default(again, found, tmp_path):
    file = Path(again["out"]) / "mean" / "seed0" / "result.json"
    said = json.loads(file.read_text())
    del said["settings"]["network"]["gram"]
    file.write_text(json.dumps(said))
    assert run(without_weights(again, tmp_path)) == found


def test_a_result_that_cannot_be_read_is_refused(again, tmp_path):
    (Path(again["out"]) / "mean" / "seed0" / "result.json").write_text("{}")
    with pytest.raises(TransporterError, match=r"out: '.*mean/seed0/result.json' can't be read .* delete it"):
        run(without_weights(again, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds: 0 is too small"),
        ({"steps": 0}, "steps: 0 is too small"),
        ({"generated": 0}, "generated: 0 is too small"),
        ({"lr": -1.0}, "lr: -1 is no learning rate"),
        ({"warmup": -1}, "warmup: -1 is negative"),
        ({"cache": "/none"}, "no latent cache in '/none'"),
        ({"out": __file__}, "out: .* is a file; give a folder"),
        ({"variants": {}}, "variants: none; give at least one"),
        ({"variants": {"../mean": {"transport": "mean"}}}, "variants: '../mean' names a folder"),
        ({"variants": {"it": {"transport": "maen"}}}, "variants.it: .*Did you mean 'mean'"),
        (
            {"variants": {"it": {"transport": "zeta", "transport_options": {"slices": 4}}}},
            "variants.it: transport_options: 'zeta' has no option 'slices'",
        ),
        ({"variants": {"it": {"transport": "zeta", "transport_options": {"projections": 0}}}}, "variants.it: projecti"),
        ({"video": {"frames": 9, "height": 32, "width": 32}}, "video: '9 frames .* was made with '5 frames"),
        ({"vlm": {"name": "video_llama3", "path": "other"}}, "vlm: 'other', but the cache in .* was made with 'vlm'"),
    ],
)
def test_bad_input_is_refused_before_weights_are_loaded(settings, tmp_path, change, message):
    with pytest.raises(TransporterError, match=message):
        run({**without_weights(settings, tmp_path), "out": str(tmp_path / "out"), **change})


def test_a_cache_of_other_weights_is_refused_before_anything_is_drawn(settings, tmp_path):
    cache = shutil.copytree(settings["cache"], tmp_path / "cache")
    index = json.loads((cache / MANIFEST).read_text())
    index["key"]["vlm_weights"] = "others"
    (cache / MANIFEST).write_text(json.dumps(index))
    with pytest.raises(TransporterError, match=r"vlm's weights: .* was made with 'others'; give that"):
        run({**settings, "cache": str(cache), "out": str(tmp_path / "out"), "generated": 10**9})


def test_a_run_that_fails_does_not_end_the_others(settings, tmp_path, capsys):
    """A learning rate at which only those that train go wrong."""
    with pytest.raises(
        TransporterError, match=r"variants: mean, seed 0: loss: .*; zeta_4, seed 0: .* tries these again"
    ):
        run({**settings, "out": str(tmp_path / "out"), "seeds": 1, "steps": 9, "lr": 1e30})
    assert (tmp_path / "out" / "reencoded" / "seed0" / "result.json").is_file()
    assert not (tmp_path / "out" / "mean" / "seed0" / "result.json").exists()
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "| mean | – |" in table
    assert "run 3 of 3" in capsys.readouterr().out
