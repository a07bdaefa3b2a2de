"""BatchNorm statistics of drawn videos against those that a net has learned."""

import copy
import sys

import pytest
import torch
from torch import nn

from transporter_pl.baselines.verifier import MEAN, STD, Verifier
from transporter_pl.errors import TransporterError

models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def videos():
    return torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def r3d():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.get_model("r3d_18", weights=None)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm3d)):
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    return net


def normalised(video):
    return (video.transpose(1, 2) - torch.tensor(MEAN)[:, None, None, None]) / torch.tensor(STD)[:, None, None, None]


def test_one_norm_in_closed_form(videos):
    net = nn.Sequential(nn.Identity(), nn.BatchNorm3d(3))
    net[1].running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    net[1].running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    pixels = normalised(videos).double().flatten(2)
    mean, variance = pixels.mean(2), pixels.var(2, correction=0)
    expected = (mean - net[1].running_mean).norm(dim=1) + (variance - net[1].running_var).norm(dim=1)
    torch.testing.assert_close(Verifier(net).penalty(videos).double(), expected, atol=1e-4, rtol=1e-5)


def test_a_norm_of_frames_counts_all_frames_of_a_clip(videos):
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x.transpose(1, 2).flatten(0, 1))

    torch.testing.assert_close(Verifier(Frames()).penalty(videos), Verifier(nn.BatchNorm3d(3)).penalty(videos))


def test_a_video_that_the_net_was_made_for_costs_nothing(r3d, videos):
    """Its running statistics are set to those of one clip."""
    net, clip = copy.deepcopy(r3d), videos[:1]
    verifier = Verifier(net)
    before = verifier.penalty(clip)
    for norm in verifier.norms:  # one after the other: what enters a norm depends on those before
        seen = []
        hook = norm.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        net(normalised(clip))
        hook.remove()
        norm.running_mean.copy_(seen[0].mean((0, 2, 3, 4)))
        norm.running_var.copy_(seen[0].var((0, 2, 3, 4), correction=0))
    assert verifier.penalty(clip).item() < 1e-3 < before.item()


def test_videos_keep_to_themselves_and_the_net_stays_as_it_is(r3d, videos):
    verifier = Verifier(r3d)
    state = {name: value.clone() for name, value in r3d.state_dict().items()}
    pixels = videos.clone().requires_grad_()
    both = verifier.penalty(pixels)
    torch.testing.assert_close(both, torch.cat([verifier.penalty(clip[None]) for clip in videos]), rtol=1e-4, atol=1e-3)
    both[0].backward()
    assert pixels.grad[0].abs().amax((1, 2, 3)).all()
    assert not pixels.grad[1].any()
    assert all(torch.equal(value, state[name]) for name, value in r3d.state_dict().items())
    assert not any(module._forward_pre_hooks for module in r3d.modules())


def test_weights_come_from_a_file(r3d, videos, tmp_path):
    torch.save(r3d.state_dict(), tmp_path / "r3d_18.pth")
    loaded = Verifier.load("r3d_18", tmp_path / "r3d_18.pth")
    torch.testing.assert_close(loaded.penalty(videos), Verifier(r3d).penalty(videos))


def test_what_is_no_verifier_is_refused(tmp_path):
    with pytest.raises(
        TransporterError, match=r"verifier: torchvision has no video net 'r3d_19'. Did you mean 'r3d_18'"
    ):
        Verifier.load("r3d_19", None)
    with pytest.raises(TransporterError, match=r"verifier_weights: '' can't be read as a state dict of r3d_18; give"):
        Verifier.load("r3d_18", None)
    for name, content in {"other.pth": {"weight": torch.zeros(1)}, "list.pth": [1, 2]}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(TransporterError, match=f"verifier_weights: .*{name}"):
            Verifier.load("r3d_18", tmp_path / name)
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(TransporterError, match="verifier_weights"):
        Verifier.load("r3d_18", tmp_path / "text.pth")
    with pytest.raises(TransporterError, match="verifier: Conv3d has no BatchNorm with running statistics"):
        Verifier(nn.Conv3d(3, 3, 1))


def test_torchvision_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(TransporterError, match=r"verifier: 'r3d_18' needs torchvision: .*pip install torchvision"):
        Verifier.load("r3d_18", None)
