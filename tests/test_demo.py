"""The demo's command lines, and the path that they make up, on tiny models with random weights."""

import json
from pathlib import Path

import pytest
import yaml

from transporter_pl.cli import main
from transporter_pl.commands.demo import FAST, FULL, Budget, commands, page_folder

TINY = Budget(
    clips=6,
    coupling_steps=2,
    concept_steps=2,
    denoising_steps=2,
    pairs=("left:right",),
    measured_clips=4,
    measured_seeds=2,
)
PAIRS = json.dumps([{"negative": "left", "positive": "right", "contexts": ["a red oval moves {} slowly"]}])


LAYER = ["--config", "backbones/shapemotion_gemma3.yaml"]


@pytest.mark.parametrize("budget", [FAST, FULL])
@pytest.mark.parametrize("layer", [[], LAYER])
def test_every_line_parses(budget, layer, tmp_path, capsys):
    for line in commands(budget, tmp_path, 0, layer):
        assert main([*line, "--print_config"]) == 0, f"{line}\n{capsys.readouterr().err}"


def test_another_vlm_reaches_every_step_that_loads_one(tmp_path, capsys):
    lines = [line for line in commands(FAST, tmp_path, 0, LAYER) if LAYER[1] in line]
    assert [line[0] for line in lines] == ["encode", "fit", "explain", "measure"]
    for line in lines:
        main([*line, "--print_config"])
        shown = yaml.safe_load(capsys.readouterr().out)
        found = shown["model"]["init_args"] if line[0] == "fit" else shown
        assert (found["vlm"]["name"], found["vlm"]["path"]) == ("gemma3", "shapemotion-gemma3")


def test_an_unknown_vlm_lists_the_known(capsys):
    assert main(["demo", "--vlm", "gemma"]) == 2
    said = capsys.readouterr().err
    assert said == "error: vlm: no small VLM 'gemma'. Did you mean 'gemma3'? Known: gemma3, phi4mm, videollama3\n"


def test_fast_is_a_flag(capsys):
    assert main(["demo", "--fast", "--print_config"]) == 0
    assert "fast: true" in capsys.readouterr().out
    assert main(["demo", "--help"]) == 0
    assert "shows that everything runs" in capsys.readouterr().out


def test_the_seed_reaches_every_step_that_draws(tmp_path):
    lines = {step_of(line): line for line in commands(FAST, tmp_path, seed=7)}
    seeds = {"clips": "--seed", "coupling": "--seed_everything", "concept": "--model.seed", "explain": "--seed"}
    for name, option in seeds.items():
        line = lines[name]
        assert line[line.index(option) + 1] == "7", name


def step_of(line):
    """Which step a line is, by its first config."""
    return {"coupling/base.yaml": "coupling"}.get(line[2]) or Path(line[2]).stem


def over_tiny(line, tiny):
    """Options that put the tiny models in place of the shipped ones."""

    def video(group):
        return [f"--{group}.frames", "5", f"--{group}.height", "32", f"--{group}.width", "32"]

    def models(prefix=""):
        specs = {"generator": tiny.generator, "vlm": tiny.vlm}
        parts = [(kind, part) for kind in specs for part in ("name", "path")]
        return [w for kind, part in parts for w in (f"--{prefix}{kind}.{part}", getattr(specs[kind], part))]

    trainer = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    small = ["--model.network.width", "16", "--model.network.mixer_layers", "1", "--model.network.heads", "2"]
    small += ["--model.network.transformer_layers", "1", "--data.batch_size", "2", "--trainer.val_check_interval", "1"]
    quick = ["--model.pairs", PAIRS, "--model.sampling_steps", "2", "--model.batch_size", "2"]
    return {
        "clips": video("spec"),
        "encode": [*models(), *video("data.video")],
        "coupling": [*trainer, *small],
        "concept": [*trainer, *models("model."), *video("model.video"), *quick],
        "explain": [*models(), *video("geometry")],
        "measure": [*models(), *video("video")],
    }[step_of(line)]


def test_the_whole_path(tiny, tmp_path, capsys):
    for line in commands(TINY, tmp_path, seed=0):
        assert main([*line, *over_tiny(line, tiny)]) == 0, f"{line}\n{capsys.readouterr().err}"
    folder = page_folder(tmp_path, "left:right")
    assert (folder / "index.html").is_file()
    assert len(list(folder.glob("*.mp4"))) == 5
    figures = json.loads((folder / "explanation.json").read_text())
    assert len(figures["through_coupling"]["captions"]) == 5
    assert figures["through_coupling"]["divergence"][0] == pytest.approx(0, abs=1e-3)
    measured = json.loads((tmp_path / "measure.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert len(measured["agreement"]) == 6
    assert [effect["row"] for effect in measured["effects"]] == ["learned q", "ε+ − ε−", "ε+"]


@pytest.mark.parametrize("vlm", ["gemma3", "phi4mm"])
def test_the_whole_path_on_every_other_small_vlm(vlm, tmp_path, capsys):
    trainer = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    quick = {
        "coupling": [*trainer, "--trainer.val_check_interval", "1", "--data.batch_size", "2"],
        "concept": [*trainer, "--model.pairs", PAIRS, "--model.sampling_steps", "2", "--model.batch_size", "2"],
    }
    for line in commands(TINY, tmp_path, 0, ["--config", f"backbones/shapemotion_{vlm}.yaml"]):
        over = quick.get(step_of(line), [])
        assert main([*line, *over]) == 0, f"{line}\n{capsys.readouterr().err}"
    measured = json.loads((tmp_path / "measure.json").read_text(), parse_constant=pytest.fail)
    on_pixels = next(row for row in measured["agreement"] if row["source"] == "pixels")
    assert min(on_pixels["factors"]) >= 0.75  # of four clips


def test_errors_come_before_models_are_loaded(tiny, tmp_path, capsys):
    """The folders of Φ and the concepts are not there: what is reported is what was wrong before."""
    base = ["explain", "--config", "shapemotion/explain.yaml", "--concepts", str(tmp_path), "--coupling", str(tmp_path)]
    for options, message in (
        (["--pair", "left:right", "--phi", "0", "nan"], "phi: 0 nan; give finite numbers"),
        (["--pair", "left:right", "--phi", "1", "1"], "phi: 1 1 holds a value twice"),
        (["--pair", "left:left"], "pair: 'left:left' differs in nothing"),
        (["--pair", "left"], "pair: 'left' is not two words"),
        (["--pair", "left:right", "--steps", "0"], "steps: 0 is too small; give at least 1"),
        (["--pair", "left:right", "--guidance", "0.5"], "guidance: 0.5 is too small; give at least 1"),
        (["--pair", "left:right", "--batch_size", "0"], "batch_size: 0 is too small; give at least 1"),
        (["--pair", "left:right", "--window", "0.5"], "window: 0.5 is no part of [0, 1]; give (low, high)"),
        (["--pair", "left:right", "--window", "0.5", "2"], "window: 0.5 2 is no part of [0, 1]"),
        (["--pair", "left:right", "--depth", "7"], "depth: 7 is not in (0, 1]"),
        (["--pair", "left:right", "--also", "[{pair: red:red}]"], "pair: 'red:red' differs in nothing"),
        (["--pair", "left:right", "--also", "{pair: red:red}"], "pair: 'red:red' differs in nothing"),
        (["--pair", "left:right", "--also+={pair: red}"], "pair: 'red' is not two words"),
        (["--pair", "left:right", "--also={pair: a:b, phi: .nan}"], "phi: nan of a:b is not finite"),
        (["--pair", "left:right", "--also={pair: a:b, window: [0, 2]}"], "window: 0 2 is no part of [0, 1]"),
    ):
        assert main([*base, *options]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {message}"), said
        assert said.count("\n") == 1
