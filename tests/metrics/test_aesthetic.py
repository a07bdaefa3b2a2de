"""The aesthetic head against the network that its file was written by."""

import pytest
import torch
from test_clip_scores import encoder, folder  # noqa: F401  (fixtures)
from torch import nn
from toy_encoders import videos

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.aesthetic import URL, Aesthetic, load_head
from transporter_pl.metrics.encoders import ImageTextEncoder
from transporter_pl.metrics.missing import MissingPart


class Published(nn.Module):
    """The layout of the published file: linear layers with dropout between the first four."""

    def __init__(self):
        super().__init__()
        wide = [nn.Linear(768, 1024), nn.Dropout(), nn.Linear(1024, 128), nn.Dropout(), nn.Linear(128, 64)]
        self.layers = nn.Sequential(*wide, nn.Dropout(), nn.Linear(64, 16), nn.Linear(16, 1))


class Wide(ImageTextEncoder):
    """Embeddings as wide as those of CLIP ViT-L/14."""

    label = "wide"

    @classmethod
    def from_pretrained(cls, path=None, device="cpu"):
        assert path is None
        return cls()

    def images(self, video):
        return torch.cat([video.flatten(2)[..., :700], 5 * video.flatten(2)[..., :68]], -1)

    def texts(self, captions):
        raise NotImplementedError


@pytest.fixture
def head(tmp_path):
    published = Published().eval()
    torch.save(published.state_dict(), tmp_path / "head.pth")
    return published.layers, str(tmp_path / "head.pth")


def test_score_is_that_of_the_published_network(head, monkeypatch):
    layers, path = head
    monkeypatch.setattr("transporter_pl.metrics.aesthetic.text_encoders.get", {"clip": Wide}.get)
    video, metric = videos(3, side=16), Aesthetic(path)
    metric.update(video[:1])
    metric.update(video[1:])
    embedded = Wide().images(video)
    with torch.no_grad():
        expected = layers(embedded / embedded.norm(dim=-1, keepdim=True)).mean()
    torch.testing.assert_close(metric.compute(), expected)


def test_a_head_has_no_gradient_and_stays_as_it_is(head):
    assert not any(weight.requires_grad for weight in load_head(head[1]).parameters())


def test_clip_is_loaded_from_where_it_is(head, folder):  # noqa: F811
    metric = Aesthetic(head[1], folder)
    assert metric.encoder.images(videos(1)).shape == (1, 4, 12)


@pytest.mark.parametrize("path", ["", "no/head.pth"])
def test_a_missing_file_is_named(path):
    with pytest.raises(MissingPart, match=r"aesthetic: no (file .*|head is given); get it by `curl") as raised:
        Aesthetic(path)
    assert URL in str(raised.value)


def test_another_file_is_no_head(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "page.pth").write_bytes(b"<html>")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")  # would run code where it is unpickled
    for name in ("other", "page", "code"):
        with pytest.raises(TransporterError, match="is not the head"):
            load_head(str(tmp_path / f"{name}.pth"))
