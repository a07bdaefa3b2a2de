"""Few clips in files, and a whole config of ``transporter evaluate`` over tiny backbones."""

import csv
from dataclasses import asdict

import pytest
import torch
from evaluating import WITH, WITHOUT, random_bank

from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.report.video import write_video
from transporter_pl.samples import Origin


@pytest.fixture(scope="session")
def clips(tiny, tmp_path_factory):
    """Folder of twelve clips; every other caption holds "right"."""
    folder = tmp_path_factory.mktemp("clips")
    draws = torch.Generator().manual_seed(0)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "caption"])
        for number in range(12):
            video = torch.rand(tiny.video.frames, 3, tiny.video.height, tiny.video.width, generator=draws)
            write_video(folder / f"{number}.mp4", video, tiny.video.fps)
            rows.writerow([f"{number}.mp4", WITH if number % 2 else WITHOUT])
    return folder


@pytest.fixture(scope="session")
def trained(tiny, tiny_coupling, tmp_path_factory):
    """What a VLM is explained with: an untrained Φ that knows its geometry, and a bank with random vectors."""
    folder = tmp_path_factory.mktemp("trained")
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    network.origin = Origin(tiny.generator.path, tiny.vlm.path, tiny.video)
    network.save(folder / "coupling")
    concepts = random_bank(tiny, folder / "bank", Pair("left", "right"))
    return {"vlm": asdict(tiny.vlm), "coupling": str(folder / "coupling"), "concepts": concepts}


@pytest.fixture(scope="session")
def settings(tiny, clips, trained):
    """A config; ``out`` is for the test to give."""
    data = {"root": str(clips), "captions_file": str(clips / "captions.csv"), "video": asdict(tiny.video)}
    return {
        "data": {"class_path": "folder", "init_args": data},
        "generator": asdict(tiny.generator),
        "vlms": {"tiny": trained},
        "rows": {
            "real": {"method": "real", "label": "real clips"},
            "generator": {"method": "generator"},
            "ours": {"method": "transporter", "options": {"phi": 0.5}},
        },
        "columns": {"evaluating.Brightness": {}},
        "pairs": ["left:right"],
        "title": "A table",
        "scenes": 2,
        "seeds": 2,
        "steps": 2,
        "references": 3,
        "device": "cpu",
    }
