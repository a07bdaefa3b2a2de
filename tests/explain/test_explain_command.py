"""``transporter explain``, as a user types it."""

import json

import pytest
import torch

from transporter_pl.cli import main
from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.report.video import write_video
from transporter_pl.samples import Origin


@pytest.fixture
def trained(tiny, tiny_coupling, tmp_path):
    """The beginning of a line, with an untrained Φ that knows its geometry, and a bank with random vectors."""
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    network.origin = Origin(tiny.generator.path, tiny.vlm.path, tiny.video)
    network.save(tmp_path / "coupling")
    facts = {"divergence": 0.5, "steps": 1, "loss": 0.1, "explained": 0.9, "prompt": "", "objective": "velocity"}
    pairs = Pair("left", "right", ("a red oval moves {} slowly",)), Pair("red", "blue"), Pair("slowly", "quickly")
    entries = tuple(Concept(pair=pair, vector=torch.randn(12, 16), **facts) for pair in pairs)
    ConceptBank(tiny.generator.path, tiny.vlm.path, "coupling", entries).save(tmp_path / "bank")
    models = [
        f"--{kind}.{k}={v}"
        for kind, spec in (("generator", tiny.generator), ("vlm", tiny.vlm))
        for k, v in (("name", spec.name), ("path", spec.path))
    ]
    folders = [f"--coupling={tmp_path / 'coupling'}", f"--concepts={tmp_path / 'bank'}", f"--out={tmp_path / 'page'}"]
    return ["explain", *models, *folders, "--pair", "left:right", "--steps", "3", "--phi", "0", "1"]


def test_every_modulation_on_the_command_line(trained, tmp_path, capsys):
    write_video(tmp_path / "mine.mp4", torch.rand(12, 3, 40, 64), fps=8)
    where = ["--window", "0.1", "1", "--span", "0.125s-0.5s", "--ramp", "1"]
    also = ["--also", "{pair: red:blue, phi: 0.5, window: [0, 0.8], span: 1-2}", "--also+={pair: slowly:quickly}"]
    clip = ["--video", str(tmp_path / "mine.mp4"), "--start", "inverted", "--depth", "0.9"]
    caption = ["--caption", "a red oval moves left"]
    assert main([*trained, *where, *also, *clip, *caption]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "left:right " in said
    assert str(tmp_path / "page" / "index.html") in said
    made_with = json.loads((tmp_path / "page" / "explanation.json").read_text())["made_with"]
    assert made_with["window"] == "0.1 ≤ t ≤ 1"
    assert made_with["frames"] == "0.125s-0.5s, ramp 1"
    assert made_with["also red:blue"] == "φ = 0.5, window 0 ≤ t ≤ 0.8, frames 1-2"
    assert made_with["also slowly:quickly"] == "φ = 1"
    assert made_with["from a clip"] == "inverted, depth 0.9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pair", "up:down"], "error: pair: the bank holds no 'up:down'; it holds left:right, red:blue, slowly"),
        (["--caption", "an oval"], "error: caption: 'an oval' does not hold the word 'left'"),
        (["--pair", "red:blue"], "error: caption: the bank holds no caption for 'red:blue'; give one with the word"),
        (["--also", "[{pair: up:down}]"], "error: pair: the bank holds no 'up:down'"),
        (["--also", "{pair: up}"], "error: pair: 'up' is not two words with one colon between; write it as left:right"),
        (["--also", "[{pair: left:right}]"], "error: also: 'left:right' is turned twice"),
        (["--span", "2-9"], "error: span: '2-9' goes beyond the clip, whose last frame is 4"),
        (["--also", "[{pair: red:blue, span: 2-9}]"], "error: span: '2-9' goes beyond the clip"),
        (["--video", "none.mp4"], "error: video: 'none.mp4' can't be read"),
        (
            ["--geometry.frames", "9", "--geometry.height", "32", "--geometry.width", "32"],
            "error: video.frames: the coup",
        ),
    ],
)
def test_what_is_wrong_comes_before_weights(trained, options, message, monkeypatch, capsys):
    monkeypatch.setattr("transporter_pl.loading.load_generator", None)
    assert main([*trained, *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
