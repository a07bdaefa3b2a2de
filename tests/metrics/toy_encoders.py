"""Encoders without weights, whose features can be computed by hand."""

import torch

from transporter_pl.metrics.encoders import ImageTextEncoder, VideoEncoder


class Channels(VideoEncoder):
    """The mean and the spread of every channel."""

    label = "channels"
    num_features = 6

    @classmethod
    def from_pretrained(cls, path=None, device="cpu"):
        return cls().to(device)

    def forward(self, video):
        pixels = video.float().transpose(1, 2).flatten(2)
        return torch.cat([pixels.mean(2), pixels.std(2)], 1)


class Colours(ImageTextEncoder):
    """A frame is its mean colour, a caption the sum of the colours that it names."""

    label = "colours"
    names = ("red", "green", "blue")

    @classmethod
    def from_pretrained(cls, path=None, device="cpu"):
        return cls().to(device)

    def images(self, video):
        return video.mean((3, 4))

    def texts(self, captions):
        return torch.tensor([[float(caption.split().count(name)) for name in self.names] for caption in captions])


def videos(count, seed=0, frames=4, side=8):
    return torch.rand(count, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))
