"""The command line, driven as a user does."""

import lightning as L  # noqa: N812
import pytest
import torch
import yaml

from transporter_pl.backbones.shipped import shipped_names
from transporter_pl.cli import main, names
from transporter_pl.commands.arguments import PACKAGED, call, find_configs, packaged_configs
from transporter_pl.errors import TransporterError
from transporter_pl.registry import datamodules
from transporter_pl.samples import Shapes, VideoSpec


class Data(L.LightningDataModule):
    """Clips whose encodings have a shape."""

    def __init__(self, width: int = 2):
        super().__init__()
        self.width = width

    @property
    def shapes(self) -> Shapes:
        return Shapes((1, 1, 1, 1), (1, 1), (1, self.width))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(4, self.width))

    val_dataloader = train_dataloader


class Plain(L.LightningModule):
    """A model that asks for no shapes."""

    def __init__(self, width: int = 2, fail: str = ""):
        super().__init__()
        self.save_hyperparameters()
        if fail == "user":
            msg = f"width: {width} is wrong; give another"
            raise TransporterError(msg)
        self.fail, self.layer = fail, torch.nn.Linear(width, 1)

    def training_step(self, batch, index):
        if self.fail == "interrupt":
            raise KeyboardInterrupt
        return self.layer(batch).mean()

    def validation_step(self, batch, index):
        self.log("loss", self.layer(batch).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


class Shaped(Plain):
    """A model built for the data's shapes."""

    def __init__(self, shapes: Shapes):
        super().__init__(shapes.tokens[1])


@pytest.fixture
def layers(tmp_path):
    """Two YAML layers: a stage, and what a user puts over it."""
    base = {
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path / "runs"),
        },
        "model": {"class_path": f"{__name__}.Plain"},
        "data": {"class_path": f"{__name__}.Data", "init_args": {"width": 2}},
    }
    over = {"trainer": {"max_steps": 1}}
    for name, content in (("base", base), ("over", over)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return ["--config", str(tmp_path / "base.yaml"), "--config", str(tmp_path / "over.yaml")]


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"    {name} " in said for name in names())


def test_every_command_has_help(capsys):
    for name in names():
        assert main([name, "--help"]) == 0, name
        assert "--help" in capsys.readouterr().out


def test_unknown_command_suggests(capsys):
    assert main(["explian"]) == 2
    assert capsys.readouterr().err.startswith("error: command: unknown name 'explian'. Did you mean 'explain'?")


def test_the_cores_commands_and_those_of_plug_ins():
    assert {"fit", "explain", "list", "ablate", "clips", "encode", "measure"} <= set(names())


def test_a_plug_ins_command_with_a_name_of_the_cores_is_refused(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "strange-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[transporter_pl.commands]\nfit = strange.commands:fit\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fit", "--help"]) == 2
    assert capsys.readouterr().err.startswith("error: command: 'fit' is the core's, but strange.commands.fit takes")
    assert main(["encode", "--help"]) == 0


def test_list_names_plug_ins_and_configs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("wan", "video_llama3", "zeta", "hellinger", "shapemotion/pretrain_vae.yaml"))
    assert all(name in said for name in shipped_names())


def test_packaged_config_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = packaged_configs()[0]
    here = str(PACKAGED / name)
    assert find_configs(["--config", name, f"-c=configs/{name}"]) == ["--config", here, f"-c={here}"]
    assert find_configs(["--data.config", name]) == ["--data.config", name]


def test_a_file_here_comes_before_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = packaged_configs()[0]
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("seed: 1")
    assert find_configs(["--config", name]) == ["--config", name]


def test_missing_config_suggests(capsys):
    assert main(["fit", "--config", "shapemotion/pretrain_va.yaml"]) == 2
    assert "Did you mean 'shapemotion/pretrain_vae.yaml'?" in capsys.readouterr().err


LAYERS = [name for name in packaged_configs() if name.startswith("backbones/") or name == "concept/paper.yaml"]
SCALES = [name for name in packaged_configs() if name.startswith("scale/")]  # layers too, see test_scales.py


@pytest.mark.parametrize("config", sorted({*packaged_configs()} - {*LAYERS, *SCALES}))
def test_every_packaged_config_parses(config, capsys):
    name = (PACKAGED / config).stem
    command = "ablate" if name.startswith("ablation_") else "encode" if config.startswith("data/") else name
    command = "evaluate" if name in {"table1", "table2", "ablation"} else command
    command = command if command in names() else "fit"
    assert main([command, "--config", config, "--print_config"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("command", "owner"), [("encode", "encode"), ("explain", "explain"), ("fit", "concept")])
@pytest.mark.parametrize("config", LAYERS)
def test_every_layer_parses_over_every_command_that_takes_it(command, owner, config, capsys):
    if config == "concept/paper.yaml" and command != "fit":
        return
    plain, layered = [], ["--config", config, "--config", config]
    for layer in (plain, layered):
        line = [command, "--config", f"shapemotion/{owner}.yaml", *layer, "--print_config"]
        assert main(line) == 0, capsys.readouterr().err
        layer[:] = [yaml.safe_load(capsys.readouterr().out)]
    before, after = (found[0]["model"]["init_args"] if command == "fit" else found[0] for found in (plain, layered))
    wanted = yaml.safe_load((PACKAGED / config).read_text())
    wanted = wanted.get("backbones") or wanted["model"]["init_args"]
    for name, value in wanted.items():
        found = after["data"]["init_args"] if command == "encode" and name == "video" else after
        name = "geometry" if command == "explain" and name == "video" else name
        assert found[name] == ({**found[name], **value} if isinstance(value, dict) else value)
    left = {name for name in before if name not in {*wanted, "data", "geometry"}}
    assert {name: after[name] for name in left} == {name: before[name] for name in left}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.split", "bogus"], "Got value: bogus"),
        (["--data.sploit", "val"], "Option 'sploit' is not accepted"),
    ],
)
def test_a_wrong_option_of_the_data_is_named(options, said, capsys):
    layers = ["--config", "data/lavib.yaml", "--config", "backbones/shapemotion_gemma3.yaml"]
    assert main(["encode", *layers, *options, "--out", "x"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["encode", "LAYER", "--out", "z"], "after --data"),
        (["fit", "LAYER", "--config", "concept/base.yaml"], "after the file that names it"),
        (["fit", "--config", "coupling/base.yaml", "LAYER"], "Φ has its cache"),
        (["clips", "--config", "shapemotion/clips.yaml", "LAYER"], "`transporter clips` takes none"),
    ],
)
def test_a_file_of_backbones_out_of_place_is_one_line(line, said, capsys):
    layer = ["--config", "backbones/shapemotion_gemma3.yaml"]
    assert main([word for part in line for word in (layer if part == "LAYER" else [part])]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: backbones: ")
    assert said in error[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("backbones: wan", "backbones: 'wan'; give generator:"),
        ("backbones: [wan]", "backbones: ['wan']; give generator:"),
        ("backbones: {vlm: gemma3}", "backbones: {'vlm': 'gemma3'}; give generator:"),
        (
            "backbones: {generater: {name: wan, path: x}}",
            "unknown 'generater'. Did you mean 'generator'? Known: generator",
        ),
    ],
)
@pytest.mark.parametrize("command", [["explain", "--pair", "a:b"], ["fit", "--config", "concept/base.yaml"]])
def test_what_is_no_file_of_backbones_is_one_line(command, content, said, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(content)
    assert main([*command, "--config", str(tmp_path / "mine.yaml")]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_data_left_empty_beside_backbones(tmp_path, capsys):
    layer = (PACKAGED / "backbones/shapemotion_gemma3.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(f"{layer}\ndata:\n")
    main(["encode", "--config", "shapemotion/encode.yaml", "--config", str(tmp_path / "mine.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["video"]["frames"] == 9


def test_options_win_over_a_file_of_backbones(capsys):
    layer = ["--config", "backbones/shapemotion_gemma3.yaml"]
    for line, group in (
        (["explain", "--config", "shapemotion/explain.yaml", *layer, "--vlm.path", "mine"], ()),
        (["fit", "--config", "shapemotion/concept.yaml", *layer, "--model.vlm.path", "mine"], ("model", "init_args")),
    ):
        assert main([*line, "--print_config"]) == 0
        found = yaml.safe_load(capsys.readouterr().out)
        for name in group:
            found = found[name]
        assert (found["vlm"]["name"], found["vlm"]["path"]) == ("gemma3", "mine")


def test_layers_and_overrides(layers, capsys):
    assert main(["fit", *layers, "--data.width", "3", "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["max_steps"] == 1
    assert shown["data"]["init_args"]["width"] == 3


@pytest.mark.parametrize("given", [["--data", "cache"], ["--data=cache"], ["--data.class_path", "cache"], "data.yaml"])
def test_data_by_its_registered_name(given, tmp_path, capsys):
    (tmp_path / "data.yaml").write_text("data: {class_path: cache, init_args: {path: elsewhere, batch_size: 3}}")
    given = ["--config", str(tmp_path / given)] if isinstance(given, str) else given
    options = ["--config", "shapemotion/pretrain_vae.yaml", *given, "--data.path", "here", "--print_config"]
    assert main(["fit", *options]) == 0, capsys.readouterr().err
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"] == "transporter_pl.datamodules.cache.datamodule.CacheDataModule"
    assert data["init_args"]["path"] == "here"


def test_encode_reads_data_by_its_registered_name(tmp_path, capsys):
    (tmp_path / "data.yaml").write_text("data: vatex")
    for given in (["--data", "vatex"], ["--config", str(tmp_path / "data.yaml")]):
        assert main(["encode", "--config", "shapemotion/encode.yaml", *given, "--print_config"]) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["data"]["class_path"] == "transporter_pl.datamodules.vatex.VatexClips"


@pytest.fixture
def registered(monkeypatch):
    """A data module of the user's own script."""
    monkeypatch.setattr(datamodules, "_registered", {})
    return datamodules.register("my-clips")(Data)


def test_data_registered_in_a_script(layers, registered, capsys):
    assert main(["fit", *layers, "--data", "my-clips", "--data.width", "3", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["class_path"] == f"{__name__}.Data"


@pytest.mark.parametrize("command", ["fit", "encode"])
@pytest.mark.parametrize("data", ["vatx", "{class_path: vatx}"])
def test_unknown_data_lists_and_suggests(command, data, tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(f"data: {data}")
    assert main([command, "--config", str(tmp_path / "data.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: datamodules: unknown name 'vatx'. Did you mean 'vatex'? Known: cache, ego4d,")
    assert len(said.splitlines()) == 1


def test_broken_yaml_is_no_traceback(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("model: [1\ndata: }")
    assert main(["fit", "--config", str(tmp_path / "broken.yaml")]) == 2
    assert "Problems parsing config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        ("validate", "concept", "validate: ConceptStage has no validation_step; use `transporter fit`"),
        ("test", "concept", "test: ConceptStage has no test_step; use `transporter fit`"),
        ("test", "pretrain_vae", "VAEPretraining has no test_step; use `transporter fit` or `transporter validate`"),
    ],
)
def test_a_command_without_a_step_is_refused(command, config, said, capsys):
    assert main([command, "--config", f"shapemotion/{config}.yaml"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_command_without_batches_is_refused(layers, capsys):
    assert main(["fit", *layers, "--data", "null"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: fit: Plain has no train_dataloader; use a stage or data module that has one"


def test_fit_twice_then_validate(layers, tmp_path):
    """A second run in the same folder does not stumble over the first one's config."""
    assert main(["fit", *layers]) == 0
    assert main(["fit", *layers]) == 0
    assert yaml.safe_load((tmp_path / "runs" / "config.yaml").read_text())["trainer"]["max_steps"] == 1
    checkpoint = next((tmp_path / "runs" / "checkpoints").glob("*.ckpt"))
    assert main(["validate", *layers, "--ckpt_path", str(checkpoint)]) == 0


def test_shapes_reach_the_model_that_asks(layers):
    assert main(["fit", *layers, "--model", f"{__name__}.Shaped", "--data.width", "5"]) == 0


def test_users_error_in_a_model_is_one_line(layers, capsys):
    assert main(["fit", *layers, "--model.fail", "user"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "error: width: 2 is wrong; give another"
    assert "Traceback" not in "\n".join(said)


def test_ctrl_c(layers):
    assert main(["fit", *layers, "--model.fail", "interrupt"]) == 130


def test_unknown_option_is_no_traceback(layers, capsys):
    assert main(["fit", *layers, "--model.depth", "3"]) == 2
    assert "depth" in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback(layers):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        main(["fit", *layers, "--model.width", "3"])


def typed(video: VideoSpec, phi: tuple[float, ...] = (0.5,), out: str = "here") -> tuple:
    """A command.

    Args:
        video: Geometry.
        phi: Numbers.
        out: Folder.
    """
    return video, phi, out


def test_a_functions_signature_is_its_command_line(tmp_path):
    config, over = tmp_path / "video.yaml", tmp_path / "over.yaml"
    config.write_text("video: {frames: 9, height: 8, width: 8}")
    over.write_text("phi: [0, 1]")
    arguments = ["--config", str(config)]
    assert call(typed, "typed", arguments) == (VideoSpec(9, 8, 8), (0.5,), "here")
    arguments += ["--config", str(over)]
    assert call(typed, "typed", arguments) == (VideoSpec(9, 8, 8), (0.0, 1.0), "here")
    arguments += ["--video.width", "16", "--phi", "0", "-.5", "nan", "--out", "there"]
    video, phi, out = call(typed, "typed", arguments)
    assert video == VideoSpec(9, 8, 16)
    assert phi[:2] == (0, -0.5)
    assert phi[2] != phi[2]
    assert out == "there"
