"""One VLM's view of what a baseline draws: the objective of every step, and what was reached at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transporter_pl.adapters import VLMAdapter
from transporter_pl.baselines.base import Baseline, Shown
from transporter_pl.baselines.references import References
from transporter_pl.baselines.targets import Objective, Targets, objective, target_logit
from transporter_pl.chance import draws_of
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.errors import TransporterError


@dataclass(frozen=True)
class Climb:
    """One step's figures, (B,) each.

    Attributes:
        loss: What is minimised: the penalties less the objective.
        objective: What is maximised.
        probability: P(token+) of what the VLM was shown.
        penalties: The penalties by name.
    """

    loss: Tensor
    objective: Tensor
    probability: Tensor
    penalties: dict[str, Tensor]


@dataclass(frozen=True)
class Reached:
    """Where the drawing has arrived, of K targets the best restart each.

    Attributes:
        video: (K, T, 3, H, W) in [0, 1].
        objective: What was maximised, without transforms and penalties, (K,).
        logit: The positive token's logit, (K,).
        probability: P(token+), (K,).
        restart: Which restart it is, (K,).
    """

    video: Tensor
    objective: Tensor
    logit: Tensor
    probability: Tensor
    restart: Tensor


@torch.no_grad()
def targets_of(
    vlm: VLMAdapter, asked: Sequence[tuple[Pair, str]], kind: Objective, references: References, prompt: str | None
) -> Targets:
    """The targets of pairs in their contexts.

    Of ``moved``, Δϑ is the Hellinger distance between the VLM's answers for the clips of ε− and of ε+.

    Args:
        vlm: The VLM.
        asked: K pairs, each with a context.
        kind: The objective.
        references: Clips of the K captions, where the objective looks at them.
        prompt: The question; ``None`` takes the VLM's own.

    Raises:
        TransporterError: If the VLM's tokenizer sees no contrast in a pair, or ``moved`` lacks the clips.
    """
    found = [Contrast.of(vlm, pair, context) for pair, context in asked]
    positive = torch.tensor([contrast.positive for contrast in found])
    prefixes = tuple(contrast.prefix for contrast in found)
    targets = Targets(prefixes, positive.to(vlm.device))
    if kind == "positive":
        return targets
    if references.negative is None or references.positive is None:
        msg = "clips: the objective moved reads a clip of ε− and one of ε+; give both for each caption"
        raise TransporterError(msg)
    ends = (
        vlm.logits(vlm.encode(clips.to(vlm.device)), prompt, prefixes).float().softmax(-1)
        for clips in (references.negative, references.positive)
    )
    start, end = ends
    return replace(targets, start=start, change=hellinger(start, end))


class Ascent:
    """Asks a VLM about what a baseline draws.

    Args:
        vlm: The VLM, frozen.
        baseline: What draws B = K · restarts videos, the restarts of a target side by side.
        targets: The K targets.
        kind: The objective.
        prompt: The question; ``None`` takes the VLM's own.
    """

    def __init__(
        self, vlm: VLMAdapter, baseline: Baseline, targets: Targets, kind: Objective, prompt: str | None = None
    ) -> None:
        self.vlm, self.baseline, self.kind, self.prompt = vlm, baseline, kind, prompt
        self.count = len(targets.prefixes)
        self.targets = targets.repeated(len(baseline.canvas.seeds) // self.count)
        stimulus = baseline.canvas.stimulus if baseline.needs_stimulus else None
        with torch.no_grad():
            self.stimulus = () if stimulus is None else self._seen(stimulus.to(vlm.device))

    def _seen(self, video: Tensor) -> tuple[Tensor, ...]:
        return self.vlm.encode_layers(video) if self.baseline.reads_layers else (self.vlm.encode(video),)

    def climb(self, step: int, steps: int) -> Climb:
        """The figures of one of the steps, differentiable down to the baseline's parameters.

        Chance is a function of each video's seed and the step: of nothing that came before, so that a drawing that is
        resumed goes on as it would have.
        """
        progress, draws = step / steps, [draws_of(f"{seed}-{step}") for seed in self.baseline.canvas.seeds]
        video = self.baseline.pixels()
        seen = self.baseline.transform(video, progress, draws)
        layers = self._seen(seen)
        logits = self.vlm.logits(layers[-1], self.prompt, self.targets.prefixes)
        value = objective(logits, self.targets, self.kind, self.baseline.score)
        penalties = self.baseline.penalties(Shown(video, seen, layers, self.stimulus, progress))
        probability = target_logit(logits.detach(), self.targets, "log_prob").exp()
        return Climb(torch.stack([*penalties.values(), -value]).sum(0), value, probability, penalties)

    @torch.no_grad()
    def reached(self) -> Reached:
        """What there is now, by one look at the videos as they are."""
        video = self.baseline.pixels()
        logits = self.vlm.logits(self.vlm.encode(video), self.prompt, self.targets.prefixes)
        value = objective(logits, self.targets, self.kind, self.baseline.score)
        best = value.nan_to_num(-torch.inf).view(self.count, -1).argmax(1)
        rows = best + torch.arange(self.count, device=best.device) * (len(value) // self.count)
        logit, log_prob = (target_logit(logits, self.targets, score)[rows] for score in ("logit", "log_prob"))
        return Reached(video[rows], value[rows], logit, log_prob.exp(), best)
