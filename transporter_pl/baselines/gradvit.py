"""GradViT-prior: the priors of GradViT around a VLM's logit."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from transporter_pl.baselines.base import Canvas, Shown
from transporter_pl.baselines.pixels import PixelBaseline, normalised
from transporter_pl.baselines.terms import l2, patch_borders, total_variation
from transporter_pl.baselines.verifier import Verifier
from transporter_pl.errors import TransporterError, check_not_negative

IMAGE_PRIOR_FROM = 0.5  # share of the steps


class GradViT(PixelBaseline):
    """GradViT-prior: what GradViT (Hatamizadeh et al. 2022, arXiv 2203.11894) knows of images, for a VLM's token.

    GradViT recovers images from the gradients that they gave in a training. A VLM's token has no such gradient to
    match, so the objective, as cross-entropy, stands in its place: what is left are the priors. The patch prior counts
    in all steps, the image prior in the second half alone, as the paper's schedule has it: total variation and ‖u‖₂ of
    the normalised pixels u, and a verifier's BatchNorm statistics where one is given. Frames are images; no term asks
    that they cohere. The weights are such that on a small VLM the priors smooth the noise and the token still rises.

    Args:
        canvas: What is drawn on.
        lr: Adam's at the start, of u.
        patch_prior: Weight of ``terms.patch_borders`` of u, where the VLM cuts it.
        tv: Weight of ``terms.total_variation`` of u.
        l2: Weight of ``terms.l2`` of u.
        batch_norm: Weight of ``Verifier.penalty``.
        verifier: A video net of torchvision; ``None`` for none.
        verifier_weights: File of its state dict.

    Raises:
        TransporterError: If an option is out of its range, the VLM does not say where it cuts, or the verifier can't be
            loaded.
    """

    score = "log_prob"

    def __init__(
        self,
        canvas: Canvas,
        lr: float = 0.1,
        patch_prior: float = 0.1,
        tv: float = 100.0,
        l2: float = 1e-2,
        batch_norm: float = 0.1,
        verifier: str | None = None,
        verifier_weights: str | None = None,
    ) -> None:
        super().__init__(canvas)
        check_not_negative(lr=lr, patch_prior=patch_prior, tv=tv, l2=l2, batch_norm=batch_norm)
        if patch_prior and canvas.patch_size is None:
            msg = f"patch_prior: {patch_prior}, but this VLM does not say where it cuts; give its adapter a patch_size"
            raise TransporterError(msg + ", or use patch_prior 0")
        self.lr, self.patch_prior = lr, patch_prior
        self.tv, self.l2, self.batch_norm = tv, l2, batch_norm
        self.verifier = None if verifier is None else Verifier.load(verifier, verifier_weights)

    def optimiser(self, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Adam, whose learning rate falls to 0 as a cosine."""
        adam = self.adam(self.lr)
        return adam, CosineAnnealingLR(adam, steps)

    def penalties(self, shown: Shown) -> dict[str, Tensor]:
        """The patch prior, and in the second half the image prior."""
        u = normalised(shown.video)
        size = self.canvas.patch_size
        terms = {"patches": self.patch_prior * patch_borders(u, size)} if self.patch_prior and size else {}
        if shown.progress < IMAGE_PRIOR_FROM:
            return terms
        terms |= {"tv": self.tv * total_variation(u), "l2": self.l2 * l2(u)}
        if self.verifier is not None:
            terms["batch_norm"] = self.batch_norm * self.verifier.penalty(shown.video)
        return terms
