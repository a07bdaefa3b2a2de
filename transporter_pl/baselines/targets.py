"""What a baseline asks of the VLM: the token of each video, and the objective that is maximised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import one_hot

Objective = Literal["positive", "moved"]
Score = Literal["logit", "log_prob"]


@dataclass(frozen=True)
class Targets:
    """What each of B videos shall make the VLM say.

    Attributes:
        prefixes: The answer up to the contrast, one a video.
        positive: Token id of ε+ at the contrast, (B,).
        start: ϑ−, the VLM's probabilities there for a clip of ε−, (B, V); ``None`` where it is not asked for.
        change: Δϑ, how far ϑ− is moved towards the positive token, in [0, 1], (B,); ``None`` likewise.
    """

    prefixes: tuple[str, ...]
    positive: Tensor
    start: Tensor | None = None
    change: Tensor | None = None

    def repeated(self, times: int) -> Targets:
        """Every target so many times in a row: the restarts of a video are neighbours."""
        named = {name: getattr(self, name) for name in ("positive", "start", "change")}
        again: dict[str, Any] = {n: None if t is None else t.repeat_interleave(times, 0) for n, t in named.items()}
        return replace(self, prefixes=tuple(p for p in self.prefixes for _ in range(times)), **again)

    def moved(self) -> Tensor:
        """τ = ϑ− + Δϑ (e₊ − ϑ−), e₊ all on the positive token: ϑ− at Δϑ = 0, that token alone at 1; (B, V)."""
        if self.start is None or self.change is None:
            msg = "Targets.moved: made without start and change"
            raise ValueError(msg)
        whole = one_hot(self.positive, self.start.shape[-1]).to(self.start)
        return self.start + self.change[:, None] * (whole - self.start)


def target_logit(logits: Tensor, targets: Targets, score: Score) -> Tensor:
    """The positive token's logit, or its log probability; logits (B, V) → (B,)."""
    values = logits.float().log_softmax(-1) if score == "log_prob" else logits.float()
    return values.gather(1, targets.positive[:, None])[:, 0]


def objective(logits: Tensor, targets: Targets, kind: Objective, score: Score) -> Tensor:
    """What is maximised: logits (B, V) → (B,).

    ``positive`` is max ϑ+, as ``score`` reads it; ``moved`` is ϑ− + Δϑ: −CE(τ, softmax(logits)), at its largest where
    the VLM's answer is τ itself. The paper names both objectives and defines neither.
    """
    if kind == "positive":
        return target_logit(logits, targets, score)
    return (targets.moved() * logits.float().log_softmax(-1)).sum(-1)
