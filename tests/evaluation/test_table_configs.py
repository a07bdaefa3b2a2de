"""The configs of the paper's tables run as they are, with tiny models and small numbers in the place of theirs."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from evaluating import evaluate
from safetensors.torch import load_file

from transporter_pl.commands.arguments import packaged_configs
from transporter_pl.concepts.trajectories import generated_trajectories
from transporter_pl.datamodules.encode import encode_videos
from transporter_pl.datamodules.folder import FolderClips
from transporter_pl.evaluation.columns import new_columns
from transporter_pl.evaluation.methods.base import new_method

TABLES = [name for name in packaged_configs() if Path(name).stem in {"table1", "table2", "ablation"}]
FEW = {  # rows that are drawn, of many that train, and of those that table1 draws likewise
    "ablation": ("reencoded", "sliced_gw", "zeta_100_kl"),
    "table2": ("real", "leaps", "transporter"),
}
PACKAGED = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def cache(settings, tiny, tmp_path_factory):
    """Latent cache of the clips."""
    init, out = settings["data"]["init_args"], tmp_path_factory.mktemp("cache")
    data = FolderClips(**{**init, "video": tiny.video})
    encode_videos(data, tiny.generator, tiny.vlm, out, batch_size=4, device="cpu")
    return str(out)


def shrunk(config, settings, cache, out):
    """A packaged config with the tests' models and clips, and no more than two steps of anything."""
    given = yaml.safe_load((PACKAGED / config).read_text())
    assert set(given["vlms"]) == {"videollama3", "gemma3", "phi4mm"}
    (explained,) = settings["vlms"].values()
    given["vlms"] = {"tiny": {**explained, "cache": cache}}
    for name in ("data", "generator"):
        given[name] = settings[name]
    for row in given["rows"].values():
        options = row.get("options", {})
        if row["method"] == "ascent":
            options["forwards"] = 8
        if row["method"] == "trained":
            options.update(steps=2, batch_size=2, accumulate=1, warmup=1)
            options["network"].update(width=8, heads=2, mixer_layers=1, transformer_layers=1)
            options["concepts"].update(steps=2, noise_seeds=1, sampling_steps=2)
    for name in ("meteor", "spice"):  # Java programs, which have tests of their own
        given["columns"].pop(name, None)
    small = {"pairs": ["a red oval moves {left|right} slowly"], "scenes": 1, "seeds": 1, "steps": 2, "references": 3}
    return {**given, **small, "out": str(out)}


@pytest.mark.parametrize("config", TABLES)
def test_every_table_runs(config, settings, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("transporter_pl.evaluation.evaluate.write_pages", lambda *_: Path())  # the same for all
    given = yaml.safe_load((PACKAGED / config).read_text())
    new_columns(given["columns"])
    for row in given["rows"].values():
        new_method(row["method"], row.get("options", {}))
    given = shrunk(config, settings, cache, tmp_path)
    few = FEW.get(Path(config).stem, given["rows"])
    given["rows"] = {name: given["rows"][name] for name in few}
    assert evaluate(given) == 0
    table = json.loads((tmp_path / given["title"] / "table.json").read_text())
    assert len(table["cells"]) == len(given["rows"])
    for key in given["rows"]:
        video = load_file(tmp_path / "tiny" / key / "seed0" / "drawn.safetensors")["video"]
        assert video.shape[0] == 1
    names = set(given["columns"])
    for cell in table["cells"]:
        figures = cell["figures"]
        assert set(figures["values"]) == names
        # what is no number says why: files that are not here, and models of another geometry
        assert {name for name, value in figures["values"].items() if value is None} == set(figures["missing"])
        always = names & {"token", "token_gain", "cos", "l1", "l2", "kl", "bleu4", "seconds"}
        assert not always & set(figures["missing"])


@pytest.mark.parametrize("folder", ["shapemotion", "paper"])
def test_two_tables_of_the_same_drawings_differ_in_their_columns_alone(folder):
    one, two = (yaml.safe_load((PACKAGED / folder / f"table{n}.yaml").read_text()) for n in (1, 2))
    assert {name for name in one if one[name] != two[name]} == {"title", "columns"}


def test_rows_share_the_network_that_they_have_in_common(settings, cache, tmp_path, monkeypatch, capsys):
    """Those that differ in the divergence alone train one Φ; all of a seed learn from the same trajectories."""
    drawn = []

    def counted(*args):
        drawn.append(generated_trajectories(*args))
        return drawn[-1]

    monkeypatch.setattr("transporter_pl.concepts.teacher.generated_trajectories", counted)
    monkeypatch.setattr("transporter_pl.evaluation.evaluate.write_pages", lambda *_: Path())
    given = shrunk("shapemotion/ablation.yaml", settings, cache, tmp_path)
    given["rows"] = {name: given["rows"][name] for name in ("zeta_100", "zeta_100_kl", "mean")}
    given["columns"] = {"bleu4": {}}
    assert evaluate(given) == 0
    trained = [folder.name for folder in (tmp_path / "trained").iterdir()]
    assert sorted(name.partition("-")[0] for name in trained) == ["mean", "zeta"]
    assert len(drawn) == 1
    alone = {**given, "rows": {"mean": given["rows"]["mean"]}, "out": str(tmp_path / "alone")}
    assert evaluate(alone) == 0
    assert len(drawn) == 2
    files = (folder / "tiny" / "mean" / "seed0" / "drawn.safetensors" for folder in (tmp_path, tmp_path / "alone"))
    one, other = (load_file(file)["video"] for file in files)
    assert torch.equal(one, other)
    # concepts that are learned in other scenes are others, though the cases are the same
    assert evaluate({**given, "pairs": ["a blue oval moves {left|right} quickly"]}) == 2
    assert "error: concepts.pairs.0.contexts.0: " in capsys.readouterr().err
