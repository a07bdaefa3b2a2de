import math

import pytest

from transporter_pl.cli import main
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

FITS = {"frames": 9, "height": 64, "width": 64, "fps": 8.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [("frames", 0), ("height", -1), ("width", 0), ("fps", 0), ("fps", -8.0), ("fps", math.nan), ("fps", math.inf)],
)
def test_a_geometry_is_refused_by_its_field(field, value):
    with pytest.raises(TransporterError, match=rf"^video\.{field}: {value:g} is .*; give"):
        VideoSpec(**{**FITS, field: value})


@pytest.mark.parametrize(
    "line",
    [
        ["encode", "--config", "shapemotion/encode.yaml", "--data.video.fps", "0"],
        [
            *("explain", "--config", "shapemotion/explain.yaml", "--config", "backbones/shapemotion_gemma3.yaml"),
            *("--pair", "left:right", "--geometry.fps", "0"),
        ],
        ["fit", "--config", "shapemotion/concept.yaml", "--model.video.fps", "0"],
    ],
)
def test_the_command_line_says_it_in_one_line(line, capsys):
    assert main(line) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "error: video.fps: 0 is no frame rate; give a finite number above 0, such as 8"
