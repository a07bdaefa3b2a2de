"""What the tests of an evaluation share: captions, a column and methods, and the command as users call it."""

import os
import tempfile
from pathlib import Path

import torch
import yaml

from transporter_pl.cli import main
from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.folder import FolderClips
from transporter_pl.evaluation.columns import Column
from transporter_pl.evaluation.evaluate import evaluate as command
from transporter_pl.evaluation.methods.base import Method
from transporter_pl.evaluation.methods.real import Real
from transporter_pl.evaluation.setup import Explained, Row
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import VideoSpec

FACTS = {"divergence": 0.5, "steps": 1, "loss": 0.1, "explained": 0.9, "prompt": "", "objective": "velocity"}
WITH, WITHOUT = "a red oval moves right slowly", "a red oval moves left slowly"


def random_bank(tiny, folder: Path, *pairs: Pair) -> str:
    """Folder of a bank whose vectors are drawn."""
    draws = torch.Generator().manual_seed(0)
    entries = tuple(Concept(pair=pair, vector=torch.randn(12, 16, generator=draws), **FACTS) for pair in pairs)
    ConceptBank(tiny.generator.path, tiny.vlm.path, "coupling", entries).save(folder)
    return str(folder)


class Brightness(Column):
    """Mean of the pixels drawn, as far as they go beyond the references'."""

    label = "brightness"

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def measure(self, judged):
        references = torch.cat(list(judged.references.batches(2)))
        return self.scale * float(judged.drawn.video.mean() - references.mean())


class Bare(Column):
    """Without what stands above it."""

    def measure(self, judged):
        return 0.0


class Failing(Method):
    """Draws nothing with seed 0."""

    def draw(self, studio, cases, seed, folder):
        if seed == 0:
            msg = "no brush"
            raise RuntimeError(msg)
        return Real().draw(studio, cases, seed, folder)


class Dying(Method):
    """Takes its process with it, with seed 1."""

    def draw(self, studio, cases, seed, folder):
        if seed == 1:
            os._exit(3)
        return Real().draw(studio, cases, seed, folder)


def called(settings):
    """The command's function, called with what a config says: where it is not the parser that is tested."""
    init = settings["data"]["init_args"]
    given = {
        "data": FolderClips(**{**init, "video": VideoSpec(**init["video"])}),
        "generator": BackboneSpec(**settings["generator"]),
        "vlms": {k: Explained(**{**v, "vlm": BackboneSpec(**v["vlm"])}) for k, v in settings["vlms"].items()},
        "rows": {key: Row(**row) for key, row in settings["rows"].items()},
        "out": Path(settings["out"]),
    }
    return command(**{**settings, **given})


def evaluate(settings):
    """``transporter evaluate`` with a config; its exit code."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(settings, file, sort_keys=False)
        file.flush()
        return main(["evaluate", "--config", file.name])
