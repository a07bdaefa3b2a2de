"""LPIPS of videos against torchmetrics' own, frame by frame, with a network of random weights."""

import pytest
import torch
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as lpips
from torchvision.models import WeightsEnum
from toy_encoders import videos

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.missing import MissingPart
from transporter_pl.metrics.perceptual import VideoLPIPS


@pytest.fixture
def weights(monkeypatch):
    """The weights of ImageNet can't be had here: random ones, the same every time, and how they are asked for."""
    asked = []

    def drawn(self, **options):
        import torchvision

        asked.append(options)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return getattr(torchvision.models, type(self).__name__.removesuffix("_Weights").lower())().state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", drawn)
    return asked


def test_mean_over_frames_then_over_videos(weights):
    video, real = videos(3, side=64), videos(3, seed=1, side=64)
    metric = VideoLPIPS("squeeze")
    for part in ([0, 1], [2]):
        metric.update(video[part], real[part])
    expected = [
        lpips(a[None], b[None], net_type="squeeze", normalize=True)
        for a, b in zip(video.flatten(0, 1), real.flatten(0, 1), strict=True)
    ]
    torch.testing.assert_close(metric.compute(), torch.stack(expected).mean())
    assert metric.compute() > 0.01


def test_the_same_is_at_no_distance_in_half_precision_too(weights):
    metric = VideoLPIPS("squeeze")
    metric.update(videos(1, side=64).half(), videos(1, side=64).half())
    assert metric.compute() == 0


def test_weights_are_unpickled_as_tensors_alone_before_torchmetrics_loads_them(weights):
    VideoLPIPS("squeeze")
    assert weights[0]["weights_only"]
    assert weights[0]["check_hash"]


@pytest.mark.parametrize(("net", "file"), [("alex", "alexnet-"), ("vgg", "vgg16-"), ("squeeze", "squeezenet1_1-")])
def test_missing_weights_are_named(net, file, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        msg = "no network"
        raise OSError(msg)

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingPart, match=r"is not here \(no network\); get it by `curl") as raised:
        VideoLPIPS(net)
    assert f"{tmp_path}/hub/checkpoints/{file}" in str(raised.value)
    assert f"https://download.pytorch.org/models/{file}" in str(raised.value)


def test_videos_of_different_shapes_are_refused(weights):
    with pytest.raises(TransporterError, match="real: shape"):
        VideoLPIPS("squeeze").update(videos(2), videos(1))


@pytest.mark.network
@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_with_the_weights_of_imagenet(net):
    video = videos(1, side=64)
    metric = VideoLPIPS(net)
    metric.update(video, video.roll(1, 0).flip(-1))
    assert 0.05 < metric.compute() < 1.5
