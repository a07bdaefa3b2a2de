"""LEAPS: a VLM primed by a stimulus video, and frames that cohere."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from transporter_pl.baselines.base import Canvas, Shown
from transporter_pl.baselines.pixels import PixelBaseline, normalised
from transporter_pl.baselines.terms import coherence, l2, priming
from transporter_pl.baselines.transforms import Draws, flip, roll
from transporter_pl.baselines.verifier import Verifier
from transporter_pl.errors import TransporterError, check_not_negative

BETAS = 0.5, 0.9
WARM_UP = 100  # of 1500 steps
LAST_LR = 5e-3
JITTER = 30 / 224  # of a side


class LEAPS(PixelBaseline):
    """LEAPS (Stergiou and Deligiannis 2023, arXiv 2303.09941): −log ϑ+ + L_prim + r (R_coh + R_feat).

    ``terms`` has the equations. Layers are the VLM's vision layers and its visual tokens z_Ω; the latter, a moment's
    tokens together, are the last layer, which R_coh reads, in units of their root mean square in the stimulus, so that
    one δ serves every VLM. R_feat needs a verifier with BatchNorm, and is off where none is given.

    The released code departs from the paper: it primes by a plain sum of absolute differences, and subtracts the
    coherence term. This is the paper, with one r for both regularisers. Learning rate, warm-up, jitter, r and ‖u‖₂ with
    its weight are the code's.

    Args:
        canvas: What is drawn on, with a stimulus.
        lr: Adam's after the warm-up, of normalised pixels u. The code's 0.6 belongs to its 1500 steps; with some
            hundred, 0.1 climbs higher.
        priming: Weight of L_prim.
        layer_weights: λ of each layer, first to last, the tokens' among them; ``None`` is 1 for all.
        coherence: Weight of R_coh.
        margin: δ.
        l2: Weight of ‖u‖₂, which the paper's code adds.
        batch_norm: Weight of R_feat.
        flip: Chance that a clip is mirrored in a step. The paper's code has 0.5; here it is off, as words may be
            directions, which a mirrored clip exchanges.
        verifier: A video net of torchvision; ``None`` for none.
        verifier_weights: File of its state dict.

    Raises:
        TransporterError: If an option is out of its range, one moment is to cohere, or the verifier can't be loaded.
    """

    score = "log_prob"
    needs_stimulus = True
    reads_layers = True

    def __init__(
        self,
        canvas: Canvas,
        lr: float = 0.6,
        priming: float = 1.0,
        layer_weights: list[float] | None = None,
        coherence: float = 0.1,
        margin: float = 1.0,
        l2: float = 5e-3,
        batch_norm: float = 0.1,
        flip: float = 0.0,
        verifier: str | None = None,
        verifier_weights: str | None = None,
    ) -> None:
        super().__init__(canvas)
        check_not_negative(lr=lr, priming=priming, coherence=coherence, margin=margin)
        check_not_negative(l2=l2, batch_norm=batch_norm, flip=flip)
        self.moments = canvas.moments or canvas.video.frames
        if self.moments < 2 and coherence:
            msg = f"video.frames: {canvas.video.frames} are one moment of this VLM; use more, or coherence 0"
            raise TransporterError(msg)
        self.lr, self.layer_weights, self.margin, self.flip = lr, layer_weights, margin, flip
        self.weights = {"priming": priming, "coherence": coherence, "l2": l2, "batch_norm": batch_norm}
        self.verifier = None if verifier is None else Verifier.load(verifier, verifier_weights)

    def optimiser(self, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Adam; warm-up over 100 steps, or a fifteenth of fewer than 1500, then a cosine down to 5e-3."""
        adam = self.adam(self.lr, BETAS)
        rise = max(1, min(WARM_UP, steps // 15))
        warm_up = LinearLR(adam, 1 / rise, total_iters=rise - 1)
        fall = CosineAnnealingLR(adam, max(1, steps - rise), min(LAST_LR, self.lr))
        return adam, SequentialLR(adam, [warm_up, fall], [rise])

    def transform(self, video: Tensor, progress: float, draws: Draws) -> Tensor:
        """Rolled up to 30 pixels of 224, and mirrored if so asked."""
        return flip(roll(video, round(JITTER * min(video.shape[-2:])), draws), self.flip, draws)

    def penalties(self, shown: Shown) -> dict[str, Tensor]:
        """L_prim, R_coh, ‖u‖₂ and R_feat, weighted; one that is weighted by 0 is left out."""
        terms: dict[str, Callable[[], Tensor]] = {
            "priming": lambda: priming(shown.layers, shown.stimulus, self._layer_weights(shown)),
            "coherence": lambda: coherence(self._moments(shown), self.margin),
            "l2": lambda: l2(normalised(shown.seen)),
        }
        if self.verifier is not None:
            verifier = self.verifier
            terms["batch_norm"] = lambda: verifier.penalty(shown.seen)
        return {name: self.weights[name] * term() for name, term in terms.items() if self.weights[name]}

    def _layer_weights(self, shown: Shown) -> list[float]:
        """λ of every layer."""
        if self.layer_weights is None:
            return [1.0] * len(shown.layers)
        if len(self.layer_weights) != len(shown.layers):
            msg = f"layer_weights: {len(self.layer_weights)} for {len(shown.layers)} layers, z_Ω the last of them; "
            raise TransporterError(msg + "give one for each")
        return self.layer_weights

    def _moments(self, shown: Shown) -> Tensor:
        """z_Ω by moments, (B, G, F), in units of the stimulus' root mean square."""
        tokens, stimulus = shown.layers[-1].float(), shown.stimulus[-1].float()
        if tokens.shape[1] % self.moments:
            msg = f"coherence: {tokens.shape[1]} tokens are no whole number for each of the VLM's {self.moments} "
            raise TransporterError(msg + "moments; correct moments of its adapter, or use coherence 0")
        unit = stimulus.square().mean((1, 2), keepdim=True).sqrt()
        return (tokens / unit).reshape(len(tokens), self.moments, -1)
