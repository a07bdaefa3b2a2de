"""Drawn latents as videos, and what the VLM says of them by both routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.pairs import Contrast
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.explain.explanation import Reading
from transporter_pl.explain.preservation import elsewhere

FADED = 0.4  # share of the contrast of φ = 0


@dataclass(frozen=True)
class Seen:
    """A sweep of P videos, and the VLM's readings.

    Attributes:
        video: D_Ξ(z), (P, T, 3, H, W) in [0, 1].
        coupled: The reading through Φ.
        reencoded: That of the decoded videos, encoded again.
        elsewhere: How much else changed from φ = 0, (P,).
    """

    video: Tensor
    coupled: Reading
    reencoded: Reading
    elsewhere: Tensor

    def first(self, count: int) -> Seen:
        """The first of them."""
        coupled, reencoded = _first(self.coupled, count), _first(self.reencoded, count)
        return Seen(self.video[:count], coupled, reencoded, self.elsewhere[:count])

    def calibration(self, phi: Tensor) -> Calibration:
        """What the dial did, φ ascending."""
        order = phi.argsort()
        columns = {"negative": self.coupled.negative, "positive": self.coupled.positive}
        moved = {
            "coupled": self.coupled.divergence,
            "reencoded": self.reencoded.divergence,
            "elsewhere": self.elsewhere,
        }
        return Calibration(**{name: tuple(c[order].tolist()) for name, c in {"phi": phi, **columns, **moved}.items()})


def look(
    bridge: Bridge,
    latents: Tensor,
    condition: Tensor,
    contrast: Contrast,
    prompt: str | None,
    origin: int,
    batch_size: int,
) -> Seen:
    """Decode a sweep and ask the VLM.

    Args:
        bridge: Generator, Φ and VLM.
        latents: z, (P, C, T', H', W').
        condition: The moved conditions that Φ is given with them, (P, L, D_c).
        contrast: Where the pair's captions part.
        prompt: The question; ``None`` takes the VLM's own.
        origin: Row of φ = 0, from which changes are measured.
        batch_size: Videos at once.
    """
    videos, answers = [], []
    for z, moved in zip(torch.split(latents, batch_size), torch.split(condition, batch_size), strict=True):
        video = bridge.generator.decode(z)
        routes = bridge.tokens(z, moved), bridge.vlm.encode(video)
        videos.append(video.cpu())
        answers.append([_ask(bridge, tokens, contrast, prompt) for tokens in routes])
    drawn = torch.cat(videos)
    coupled, reencoded = (_read(route, origin, contrast) for route in zip(*answers, strict=True))
    return Seen(drawn, coupled, reencoded, elsewhere(bridge.vlm, drawn[origin], drawn, batch_size))


def faded(videos: Tensor, phi: Tensor) -> tuple[str, ...]:
    """Warnings where a video has lost most of the contrast that the one of φ = 0 has, as when its object is gone.

    What the VLM says does not tell that: it names an object even where there is none.

    Args:
        videos: (P, T, 3, H, W).
        phi: (P,), 0 among them.
    """
    contrast = videos.float().flatten(3).std(-1).mean((1, 2))
    lost = contrast < FADED * contrast[phi.tolist().index(0)]
    shown = ", ".join(f"{value:g}" for value in phi[lost].sort().values.tolist())
    return (
        (f"at φ = {shown} the video has lost most of its contrast, and perhaps what it shows: look at it",)
        if shown
        else ()
    )


def _ask(bridge: Bridge, tokens: Tensor, contrast: Contrast, prompt: str | None) -> tuple[list[str], Tensor]:
    """Captions of some rows, and the probabilities at the contrast, (B, V)."""
    probs = bridge.vlm.logits(tokens, prompt, contrast.prefix).float().softmax(-1)
    return bridge.vlm.caption(tokens, prompt), probs


def _read(answers: Sequence[tuple[list[str], Tensor]], origin: int, contrast: Contrast) -> Reading:
    """The reading of all batches; Δϑ is measured from row ``origin``."""
    probs = torch.cat([probs for _, probs in answers])
    return Reading(
        captions=tuple(caption for captions, _ in answers for caption in captions),
        negative=probs[:, contrast.negative].cpu(),
        positive=probs[:, contrast.positive].cpu(),
        divergence=hellinger(probs[origin].expand_as(probs), probs).cpu(),
    )


def _first(reading: Reading, count: int) -> Reading:
    return Reading(*(values[:count] for values in vars(reading).values()))
