"""The packaged configs of data sets, with files as each data set has them: from the command line to a cache."""

import json

import pytest
import torch
import yaml

from transporter_pl.cli import main
from transporter_pl.commands.arguments import packaged_configs
from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.report.video import write_video

CONFIGS = [name for name in packaged_configs() if name.startswith("data/")]
PAIRS = [name for name in packaged_configs() if name.startswith("backbones/wan")]
VATEX, EGO4D = "nJ6KPT1uwe8_000047_000057", "3a6f9b1e-0000-4000-8000-000000000001"


def _vatex(root):
    (root / "annotations.json").write_text(json.dumps([{"videoID": VATEX, "enCap": ["a red oval", "a blue oval"]}]))
    return (
        {f"{VATEX}.mp4": 10},
        ["--data.annotations", str(root / "annotations.json")],
        (VATEX, ("a red oval", "a blue oval")),
    )


def _lavib(root):
    (root / "annotations").mkdir()
    table = '"name","shot","tmp_crop","vrt_crop","hrz_crop"\n"5998","0","8","0","0"\n'
    (root / "annotations" / "train.csv").write_text(table)
    return {"segments/5998_shot0_8_0_0/vid.mp4": 1}, [], ("5998_shot0_8_0_0", ("",))


def _ego4d(root):
    said = [{"timestamp_sec": 3.0, "narration_text": text} for text in ("#C C moves", "#C C moves left")]
    (root / "v2" / "annotations").mkdir(parents=True)
    narrations = {EGO4D: {"narration_pass_1": {"narrations": said}}}
    (root / "v2" / "annotations" / "narration.json").write_text(json.dumps(narrations))
    (root / "ego4d.json").write_text(json.dumps({"videos": [{"video_uid": EGO4D, "duration_sec": 4.0}]}))
    return (
        {f"v2/full_scale/{EGO4D}.mp4": 4},
        [],
        (f"{EGO4D}_000003000", ("the camera wearer moves", "the camera wearer moves left")),
    )


def _folder(root):
    (root / "captions.csv").write_text("video,caption\nmine/a.mp4,a red oval\n")
    return {"mine/a.mp4": 2}, ["--data.captions_file", str(root / "captions.csv")], ("mine/a", ("a red oval",))


LAID_OUT = {
    "data/vatex.yaml": _vatex,
    "data/lavib.yaml": _lavib,
    "data/ego4d.yaml": _ego4d,
    "data/folder.yaml": _folder,
}


def test_every_data_set_has_a_config():
    assert set(CONFIGS) == set(LAID_OUT)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_file_of_backbones_goes_over_it(config, pair, capsys):
    assert main(["encode", "--config", config, "--config", pair, "--out", "cache", "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    side = 448 if "phi4mm" in pair else 480
    assert found["data"]["init_args"]["video"]["height"] == side
    assert found["generator"]["path"].startswith("Wan-AI/")


@pytest.mark.parametrize("config", CONFIGS)
def test_files_as_they_lie_become_a_cache(config, tiny, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    seconds, options, names = LAID_OUT[config](root)
    for file, length in seconds.items():
        video = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        write_video(root / file, video, 16 / length)
    video = f"{{frames: {tiny.video.frames}, height: {tiny.video.height}, width: {tiny.video.width}, fps: 8}}"
    options += ["--data.root", str(root), "--data.video", video, "--out", str(tmp_path / "cache"), "--device", "cpu"]
    for part, spec in (("generator", tiny.generator), ("vlm", tiny.vlm)):
        options += [f"--{part}.name", spec.name, f"--{part}.path", spec.path]
    assert main(["encode", "--config", config, *options]) == 0
    cache = LatentCache(tmp_path / "cache")
    assert len(cache) == 1
    assert cache.names(0) == names
