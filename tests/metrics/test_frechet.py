"""The Fréchet distance against SciPy in double precision, and I3D's public check value."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from toy_encoders import Channels, videos

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.encoders import video_encoders
from transporter_pl.metrics.frechet import FrechetVideoDistance
from transporter_pl.metrics.i3d import I3D, URL
from transporter_pl.metrics.missing import MissingPart


def distance(real, generated, batch=5):
    metric = FrechetVideoDistance(Channels())
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in generated.split(batch):
        metric.update(part, real=False)
    return metric.compute()


def by_scipy(real, generated):
    """The formula as it is written."""
    a, b = (Channels()(video).double().numpy() for video in (real, generated))
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)


def test_distance_is_the_formula_s():
    real, generated = videos(40), 0.3 + 0.5 * videos(24, seed=1)
    found = distance(real, generated)
    assert found.dtype == torch.float64
    # eigenvalues of a product of near-singular matrices: a little lower than double precision
    assert found.item() == pytest.approx(by_scipy(real, generated), abs=1e-6)
    assert found > 0.05


def test_videos_of_the_same_kind_are_near():
    assert distance(videos(40), videos(40)) < 1e-6
    assert distance(videos(40), videos(40, seed=1)) < 0.01 * distance(videos(40), videos(40, seed=1).square())


def test_half_precision_is_summed_in_double():
    real, generated = videos(40), videos(40, seed=1).square()
    half = distance(real.half(), generated.half())
    assert half.dtype == torch.float64
    assert half.item() == pytest.approx(distance(real, generated).item(), rel=1e-3)


def test_one_video_has_no_spread():
    with pytest.raises(TransporterError, match="1 real and 6 generated; a spread needs at least 2 of each"):
        distance(videos(1), videos(6))


def test_a_stray_shape_is_refused():
    with pytest.raises(TransporterError, match=r"video: torch.uint8 of shape .*; give floats in \[0, 1\]"):
        I3D(torch.nn.Identity())(torch.zeros(1, 12, 3, 8, 8, dtype=torch.uint8))


class Kinetics(torch.nn.Module):
    """Takes what the public file takes, and returns what it was given."""

    def forward(self, pixels: torch.Tensor, rescale: bool, resize: bool, return_features: bool):
        assert rescale
        assert resize
        assert return_features
        return pixels.double().mean((3, 4)).flatten(1)


def test_i3d_gives_bytes_in_the_layout_of_the_file(tmp_path):
    """The file can't be had here: what stands in for it shows what it would be given."""
    torch.jit.script(Kinetics()).save(tmp_path / "i3d.pt")
    encoder = video_encoders.get("i3d").from_pretrained(str(tmp_path / "i3d.pt"))
    video = videos(2, frames=11)
    said = encoder(video)
    assert said.dtype == torch.float32
    expected = (video * 255).round().mean((3, 4)).transpose(1, 2).flatten(1)  # (B, 3 · T): channels before frames
    torch.testing.assert_close(said, expected)
    torch.testing.assert_close(encoder(video.half()), expected, atol=0.2, rtol=0)
    with pytest.raises(TransporterError, match="10 frames are too few for I3D; give at least 11"):
        encoder(video[:, :10])


@pytest.mark.parametrize("path", [None, "no/i3d.pt"])
def test_i3d_says_where_its_file_is_to_be_had(path):
    with pytest.raises(MissingPart, match=r"curl -L -o i3d_torchscript\.pt") as raised:
        I3D.from_pretrained(path)
    assert URL in str(raised.value)


def test_another_file_is_no_i3d(tmp_path):
    (tmp_path / "i3d.pt").write_bytes(b"<html>")
    with pytest.raises(TransporterError, match="is no TorchScript file; download it again"):
        I3D.from_pretrained(str(tmp_path / "i3d.pt"))


@pytest.mark.network
def test_fvd_has_its_public_check_value(tmp_path):
    torch.hub.download_url_to_file(URL, str(tmp_path / "i3d.pt"), progress=False)
    metric = FrechetVideoDistance(I3D.from_pretrained(str(tmp_path / "i3d.pt")))
    metric.update(torch.zeros(8, 30, 3, 64, 64), real=True)
    metric.update(torch.ones(8, 30, 3, 64, 64), real=False)
    assert metric.compute().item() == pytest.approx(151.26, abs=0.5)
