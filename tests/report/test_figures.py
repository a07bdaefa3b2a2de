"""Videos and pictures."""

import av
import matplotlib.image
import numpy as np
import pytest
import torch

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.errors import TransporterError
from transporter_pl.report.calibration import calibration
from transporter_pl.report.figures import NEGATIVE, POSITIVE, colour_of
from transporter_pl.report.filmstrip import filmstrip
from transporter_pl.report.video import write_video


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pixels = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return stream, torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255


def test_video_keeps_frames_rate_and_factors(explanation, tmp_path):
    write_video(tmp_path / "clip.mp4", explanation.video[0], fps=8)
    stream, frames = frames_of(tmp_path / "clip.mp4")
    assert frames.shape == explanation.video[0].shape
    assert stream.average_rate == 8
    assert stream.codec_context.pix_fmt == "yuv420p"  # what every browser plays
    before, after = (read(v[None]) for v in (explanation.video[0], frames))
    assert torch.equal(before.words, after.words)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_odd_sides_are_refused(tmp_path):
    with pytest.raises(TransporterError, match="7x8 has an odd side"):
        write_video(tmp_path / "clip.mp4", torch.zeros(5, 3, 7, 8), fps=8)


def test_filmstrip_shows_phi_down_and_time_across(explanation, tmp_path):
    filmstrip(tmp_path / "strip.png", explanation.video, explanation.phi.tolist(), fps=8)
    picture = matplotlib.image.imread(tmp_path / "strip.png")[..., :3]
    saturated = picture.max(-1) - picture.min(-1) > 0.5
    thirds = np.array_split(np.arange(len(picture)), 3)
    means = [picture[rows][saturated[rows]].mean(0) for rows in thirds]
    red, yellow, green = (m.round(1) for m in means)
    assert red[0] > 2 * red[1]
    assert min(yellow[0], yellow[1]) > 2 * yellow[2]
    assert green[1] > 2 * green[0]
    assert [p.name for p in tmp_path.iterdir()] == ["strip.png"]


@pytest.mark.parametrize("frames", [1, 5, 81])
def test_filmstrip_of_any_length(frames, tmp_path):
    filmstrip(tmp_path / "strip.png", torch.rand(2, frames, 3, 8, 12), [0, 1], fps=8)
    assert (tmp_path / "strip.png").stat().st_size > 0


def test_filmstrip_wants_one_phi_a_video(tmp_path):
    with pytest.raises(TransporterError, match="2 values for 3 videos"):
        filmstrip(tmp_path / "strip.png", torch.rand(3, 5, 3, 8, 8), [0, 1], fps=8)


@pytest.mark.parametrize("phi", [[0.0], [1.0, -0.5, 0.25], [0, 2]])
def test_calibration_of_any_sweep(phi, tmp_path):
    swept = sorted({0.0, *phi})
    values = [0.5] * len(swept)
    calibration(tmp_path / "plot.svg", Calibration(swept, *[values] * 5), word="a<b")
    assert (tmp_path / "plot.svg").read_text().lstrip().startswith("<?xml")


def test_colours_run_from_the_negative_to_the_positive():
    assert colour_of(-3) == colour_of(0) == NEGATIVE
    assert colour_of(1) == colour_of(4) == POSITIVE
    assert colour_of(0.5) not in {NEGATIVE, POSITIVE}
