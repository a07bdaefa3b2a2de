"""A video net with BatchNorm as a verifier: do a video's features have the statistics that it has learned?"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import BatchNorm2d, BatchNorm3d

from transporter_pl.errors import TransporterError, did_you_mean

# what torchvision's video nets expect, which are trained on Kinetics-400
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


class Verifier:
    """R_feat of LEAPS (arXiv 2303.09941), the BatchNorm prior of GradViT: Σ_l ‖μ_l(x) − μ̂_l‖₂ + ‖σ²_l(x) − σ̂²_l‖₂.

    μ̂_l and σ̂²_l are the running statistics of BatchNorm l, μ_l and σ²_l those of what enters it, of each video alone
    over time and space, where the papers take a batch: so videos do not know of each other.

    Args:
        net: Takes (B, 3, T, H, W), normalised as torchvision's video nets; it is frozen.

    Raises:
        TransporterError: If it has no BatchNorm with running statistics.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval().requires_grad_(False)
        kinds = BatchNorm2d, BatchNorm3d
        self.norms = [m for m in net.modules() if isinstance(m, kinds) and m.running_mean is not None]
        if not self.norms:
            msg = f"verifier: {type(net).__name__} has no BatchNorm with running statistics; use another net"
            raise TransporterError(msg)

    @classmethod
    def load(cls, name: str, weights: str | Path | None) -> Verifier:
        """A video net of torchvision with the weights of a local file.

        Args:
            name: As ``torchvision.models.video`` has it, such as ``r3d_18``.
            weights: Its state dict, as torchvision gives it for download.

        Raises:
            TransporterError: If torchvision is missing, has no such video net, or the file can't be read or is none of
                its state dicts.
        """
        try:
            from torchvision.models import get_model, list_models, video
        except ImportError as error:
            msg = f"verifier: {name!r} needs torchvision: {error}; try: pip install torchvision"
            raise TransporterError(msg) from error
        known = list_models(module=video)
        if name not in known:
            msg = f"verifier: torchvision has no video net {name!r}.{did_you_mean(name, known)} Known: "
            raise TransporterError(msg + ", ".join(known))
        try:
            state = torch.load(weights or "", map_location="cpu", weights_only=True)
            with torch.device("meta"):  # no weights are drawn only to be replaced
                net = get_model(name, weights=None)
            net.load_state_dict(state, assign=True)
        except (OSError, RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            msg = f"verifier_weights: {str(weights or '')!r} can't be read as a state dict of {name}; "
            raise TransporterError(msg + "give the file that torchvision has for it") from error
        return cls(net)

    def penalty(self, video: Tensor) -> Tensor:
        """R_feat of each video; (B, T, 3, H, W) in [0, 1] → (B,), differentiable."""
        self.net.to(video.device)
        found: list[Tensor] = []

        def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
            found.append(_gap(norm, given[0], len(video)))

        hooks = [norm.register_forward_pre_hook(look) for norm in self.norms]
        mean, std = (video.new_tensor(x)[:, None, None] for x in (MEAN, STD))
        try:
            self.net(((video - mean) / std).transpose(1, 2))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found).sum(0)


def _gap(norm: nn.Module, features: Tensor, count: int) -> Tensor:
    """How far statistics are from the running ones: features (B, C, …), or (B · T, C, …) of a 2-D norm → (B,)."""
    channels: Tensor = torch.unflatten(features, 0, (count, -1)).transpose(1, 2).flatten(2)  # (B, C, places)
    mean: Tensor = torch.linalg.vector_norm(channels.mean(2) - norm.get_buffer("running_mean"), dim=1)
    variance: Tensor = torch.linalg.vector_norm(channels.var(2, correction=0) - norm.get_buffer("running_var"), dim=1)
    return mean + variance
