"""How near the VLM's visual tokens of generated videos are to those of real ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchmetrics import Metric
from torchmetrics.functional.regression import kl_divergence

from transporter_pl.errors import TransporterError

FIGURES = ("cos", "l1", "l2", "kl")


class EmbeddingSimilarity(Metric):
    """cos, l1, l2 and KL of tokens z of a generated video and r of a real one, mean over videos.

    The paper names the four and defines none. Ours, so that VLMs with other widths and scales can be compared:
    cos = mean_n cos(z_n, r_n) over the tokens; l1 = Σ|z − r| / Σ|r| and l2 = ‖z − r‖ / ‖r‖ over the whole clip, so that
    1 is as far off as no tokens at all; kl = mean_n KL(softmax(r_n/τ) ‖ softmax(z_n/τ)) in nats, the softmax over the
    D features. kl does depend on the tokens' scale; τ is for that.

    Args:
        temperature: τ.

    Raises:
        TransporterError: If it is not positive and finite.
    """

    higher_is_better = None
    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            msg = f"temperature: {temperature} is not positive and finite; 1.0 is the default"
            raise TransporterError(msg)
        self.temperature = temperature
        self.add_state("sums", torch.zeros(len(FIGURES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, tokens: Tensor, real_tokens: Tensor) -> None:
        """Add tokens of generated videos and of the real ones they are compared with, both (B, N, D)."""
        if tokens.ndim != 3 or tokens.shape != real_tokens.shape:
            msg = f"tokens: {tuple(tokens.shape)} beside {tuple(real_tokens.shape)} of the real clips; give (B, N, D)"
            raise TransporterError(msg)
        z, r = tokens.float(), real_tokens.float()
        # torch's cosine: that of torchmetrics is no number where a token is 0
        figures = [
            cosine_similarity(z, r, dim=-1).mean(1),
            _relative(z, r, 1),
            _relative(z, r, 2),
            self._divergence(z, r),
        ]
        self.sums += torch.stack(figures).double().sum(1)
        self.count += len(tokens)

    def compute(self) -> dict[str, Tensor]:
        """The four figures by name.

        Raises:
            TransporterError: If nothing was added.
        """
        if not self.count:
            msg = "tokens: none were added; there is nothing to compare"
            raise TransporterError(msg)
        return dict(zip(FIGURES, self.sums / self.count, strict=True))

    def _divergence(self, z: Tensor, r: Tensor) -> Tensor:
        generated, real = ((x.flatten(0, 1) / self.temperature).log_softmax(-1) for x in (z, r))
        nats: Tensor = kl_divergence(real, generated, log_prob=True, reduction="none")
        return nats.view(z.shape[:2]).mean(1)


def _relative(z: Tensor, r: Tensor, order: int) -> Tensor:
    """‖z − r‖ / ‖r‖ of whole clips, (B,)."""
    apart, whole = (torch.linalg.vector_norm(x.flatten(1), order, dim=1) for x in (z - r, r))
    relative: Tensor = apart / whole
    return relative
