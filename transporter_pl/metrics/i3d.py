"""The I3D network that the Fréchet video distance is usually measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.encoders import VideoEncoder, check_videos
from transporter_pl.metrics.missing import MissingPart
from transporter_pl.video import to_bytes

URL = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"
LEAST_FRAMES = 11  # below, its last pooling has nothing left to pool


class I3D(VideoEncoder):
    """I3D trained on Kinetics-400 (arXiv 1705.07750): the 400 logits of a video.

    The public TorchScript file, which scales pixels and resizes frames to 224x224 by itself. It takes videos of more
    than 10 frames; a shorter one is refused, as frames made up would change the distance.

    Args:
        network: The loaded file.
    """

    label = "I3D (Kinetics-400)"
    num_features = 400

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.freeze()

    @classmethod
    def from_pretrained(cls, path: str | None = None, device: torch.device | str = "cpu") -> Self:
        """Load the file; there is none that comes with a package.

        Raises:
            MissingPart: If there is no such file.
            TransporterError: If it is no TorchScript.
        """
        if not path or not Path(path).is_file():
            msg = f"encoder i3d: no file {path!r}; get it by `curl -L -o i3d_torchscript.pt '{URL}'` and give its path"
            raise MissingPart(msg)
        try:
            return cls(torch.jit.load(str(path), map_location=device))  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            msg = f"encoder i3d: {path!r} is no TorchScript file; download it again from {URL}"
            raise TransporterError(msg) from error

    def forward(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → (B, 400).

        Raises:
            TransporterError: If it has 10 frames or fewer.
        """
        check_videos(video=video)
        if video.shape[1] < LEAST_FRAMES:
            msg = f"video: {video.shape[1]} frames are too few for I3D; give at least {LEAST_FRAMES}, or another "
            raise TransporterError(msg + "encoder")
        pixels = to_bytes(video).transpose(1, 2).contiguous()
        features: Tensor = self.network(pixels, rescale=True, resize=True, return_features=True)
        return features.float()
