"""How different a generated video looks from a real one, frame by frame."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from transporter_pl.metrics.encoders import check_videos
from transporter_pl.metrics.missing import MissingPart

Net = Literal["alex", "vgg", "squeeze"]
MODELS = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet1_1"}  # their weights' names in torchvision


class VideoLPIPS(MeanMetric):
    """LPIPS_v: LPIPS (arXiv 1801.03924) of the frames that stand at the same time, mean over frames, then over videos.

    Args:
        net: The network whose layers are compared; its ImageNet weights are torchvision's.

    Raises:
        MissingPart: If torchvision or its weights are not here.
    """

    def __init__(self, net: Net = "alex") -> None:
        super().__init__(nan_strategy="disable")
        _check_weights(net)
        # of torchmetrics' metric the network alone: its list of scores stalls processes with different counts
        self.net = LearnedPerceptualImagePatchSimilarity(net).net

    def update(self, video: Tensor, real: Tensor) -> None:  # type: ignore[override]
        """Add generated videos and the real ones that they are compared with, both (B, T, 3, H, W) in [0, 1]."""
        check_videos(video=video, real=real)
        pairs = zip(video.float(), real.float(), strict=True)
        super().update(torch.stack([self.net(a, b, normalize=True).mean() for a, b in pairs]))


def _check_weights(net: Net) -> None:
    """Have torchvision's weights at hand, read as tensors alone."""
    try:
        from torchvision.models import get_weight

        weights = get_weight(f"{MODELS[net]}_Weights.DEFAULT")
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except ImportError as error:
        msg = "LPIPS: torchvision is not installed; get it by `pip install torchvision`, of the version for your torch"
        raise MissingPart(msg) from error
    except OSError as error:
        file = f"{torch.hub.get_dir()}/checkpoints/{urlsplit(weights.url).path.rpartition('/')[2]}"
        msg = f"LPIPS: {file} is not here ({error}); get it by `curl -L --create-dirs -o {file} {weights.url}`"
        raise MissingPart(msg) from error
