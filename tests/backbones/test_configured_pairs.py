"""The configs of the paper's pairs: their geometry suits the published models, and they run with tiny weights."""

import json

import pytest
import yaml
from tiny_vlms import tiny_vlm

from transporter_pl.adapters import generators, vlms
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.cli import main
from transporter_pl.commands.arguments import PACKAGED, packaged_configs
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.datamodules.shapemotion.files import write_clips
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import VideoSpec

PUBLISHED = sorted(name for name in packaged_configs() if name.startswith("backbones/wan"))
KINDS = {"wan2.2-a14b": "two_experts", "wan2.2-5b": "expanded"}  # of tests/backbones/conftest.py
NAMES = {"gemma3": "gemma3", "phi4mm": "phi4_multimodal", "videollama3": "video_llama3"}
TOKENS = {"gemma3": (9 * 256, 3840), "phi4mm": (9 * 545, 3072), "videollama3": (9 * 510, 3584)}
LATENTS = {"wan2.2-a14b": (16, 8), "wan2.2-5b": (48, 16)}
PAIRS = json.dumps([{"negative": "left", "positive": "right", "contexts": ["a red ball moves {}"]}])
QUICK = ["--model.steps", "2", "--model.sampling_steps", "2", "--model.batch_size", "2", "--model.noise_seeds", "1"]
TRAINER = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
SMALL = ["--model.network.width", "16", "--model.network.mixer_layers", "1", "--model.network.heads", "2"]


def test_each_of_the_papers_pairs_has_a_config():
    assert sorted(f"backbones/{g}_{v}.yaml" for g in KINDS for v in NAMES) == PUBLISHED


@pytest.mark.parametrize("config", PUBLISHED)
def test_geometry_suits_the_published_models(config):
    generator, vlm = config.removeprefix("backbones/").removesuffix(".yaml").split("_")
    found = yaml.safe_load((PACKAGED / config).read_text())["backbones"]
    xi, omega = (BackboneSpec(**found[kind]) for kind in ("generator", "vlm"))
    assert (xi.name, omega.name, xi.dtype, omega.dtype) == ("wan", NAMES[vlm], "bfloat16", "bfloat16")
    video = VideoSpec(**found["video"])
    channels, stride = LATENTS[generator]
    latents, condition = generators.get(xi.name).shapes_of(xi.path, video)
    assert latents == (channels, 3, video.height // stride, video.width // stride)
    assert condition == (512, 4096)
    assert vlms.get(omega.name).token_shape_of(omega.path, video) == TOKENS[vlm]


@pytest.mark.parametrize("config", PUBLISHED)
def test_the_whole_path_runs_with_tiny_weights_in_place(config, pipelines, spec, tmp_path, capsys):
    generator, vlm = config.removeprefix("backbones/").removesuffix(".yaml").split("_")
    WanAdapter(pipelines[KINDS[generator]], spec).save(tmp_path / "generator")
    tiny_vlm(NAMES[vlm]).save(tmp_path / "vlm")
    write_clips(tmp_path / "clips", 3, spec)
    run = [str(tmp_path / name) for name in ("generator", "vlm", "clips", "cache", "coupling", "concepts", "out")]
    for line in lines(config, spec, tmp_path, *run):
        assert main(line) == 0, f"{line}\n{capsys.readouterr().err}"
    assert (tmp_path / "out" / "index.html").is_file()
    trained = CouplingNetwork.from_pretrained(tmp_path / "coupling").config
    assert (trained.transformer_layers, trained.transport_options["projections"]) == (12, 100)  # the paper's


def lines(config, spec, folder, generator, vlm, clips, cache, coupling, concepts, out):
    """The commands of docs/quick-start.md with the pair's layer, at their smallest."""

    def tiny(owner=""):
        places = {f"--{owner}generator.path": generator, f"--{owner}vlm.path": vlm}
        return [word for place in places.items() for word in place]

    def small(owner):
        return [
            word for side in ("frames", "height", "width") for word in (f"--{owner}.{side}", str(getattr(spec, side)))
        ]

    layer, root = ["--config", config], ["--trainer.default_root_dir", str(folder / "runs")]
    data = ["--data", "vatex", "--data.root", clips, "--data.annotations", f"{clips}/annotations.json"]
    coupled, banked = ["--coupling", coupling], ["--concepts", concepts]
    papers = ["--config", "concept/base.yaml", "--config", "concept/paper.yaml"]
    fit = [
        "--data.path",
        cache,
        "--data.batch_size",
        "1",
        "--trainer.val_check_interval",
        "1",
        "--model.export",
        coupling,
    ]
    learn = ["--model.coupling", coupling, "--model.pairs", PAIRS, "--model.export", concepts]
    yield ["encode", *data, *layer, *tiny(), *small("data.video"), "--out", cache]
    yield ["fit", "--config", "coupling/base.yaml", *fit, *SMALL, *TRAINER, *root, "--trainer.max_steps", "1"]
    yield ["fit", *papers, *layer, *tiny("model."), *small("model.video"), *learn, *QUICK, *TRAINER, *root]
    explained = ["--pair", "left:right", "--phi", "0", "1", "--steps", "2", "--out", out]
    yield ["explain", *layer, *tiny(), *small("geometry"), *coupled, *banked, *explained]
