"""From clips that were read to what a shard takes: the frozen backbones, and what a clip without a caption gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.datamodules.cache.shards import EncodedClips
from transporter_pl.datamodules.clips import BrokenClip, ReadClip
from transporter_pl.encoding import encode_video

Uncaptioned = Literal["empty", "vlm"]


class ClipEncoder:
    """Runs every frozen encoder once over batches of clips, and over each of their captions.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        uncaptioned: What stands for the caption of a clip that has none: an ``empty`` one, or what the ``vlm`` says.
        prompt: The question that the VLM answers then; ``None`` takes its own.
        batch_size: Captions that are encoded at once.
    """

    def __init__(
        self,
        generator: GeneratorAdapter,
        vlm: VLMAdapter,
        uncaptioned: Uncaptioned,
        prompt: str | None,
        batch_size: int,
    ) -> None:
        self.generator, self.vlm, self.batch_size = generator, vlm, batch_size
        self.prompt = None if uncaptioned == "empty" else prompt or vlm.default_prompt

    @property
    def rule(self) -> str:
        """What a clip without a caption gets, as the cache's key says it."""
        return "empty" if self.prompt is None else f"vlm: {self.prompt}"

    @torch.no_grad()
    def __call__(self, clips: Sequence[ReadClip]) -> tuple[EncodedClips, list[BrokenClip]]:
        """Encode a batch.

        Returns:
            What can be stored; and the clips whose encodings hold values that are not finite, which would spoil a
            training.
        """
        video = torch.stack([clip.video for clip in clips]).to(self.generator.device)
        latents, tokens, reencoded = encode_video(self.generator, self.vlm, video)
        captions = self._captions(clips, tokens)
        condition = self._conditions([caption for said in captions for caption in said])
        found = EncodedClips(tuple(clip.id for clip in clips), tuple(captions), latents, tokens, reencoded, condition)
        return _without_broken(found)

    def _captions(self, clips: Sequence[ReadClip], tokens: Tensor) -> list[tuple[str, ...]]:
        mute = [row for row, clip in enumerate(clips) if not clip.captions]
        said = dict.fromkeys(mute, "")
        if mute and self.prompt is not None:
            said = dict(zip(mute, self.vlm.caption(tokens[mute], self.prompt), strict=True))
        return [clip.captions or (said[row],) for row, clip in enumerate(clips)]

    def _conditions(self, captions: list[str]) -> Tensor:
        size = self.batch_size
        parts = [self.generator.encode_text(captions[at : at + size]) for at in range(0, len(captions), size)]
        return torch.cat(parts)


def _without_broken(clips: EncodedClips) -> tuple[EncodedClips, list[BrokenClip]]:
    """The clips whose encodings are finite, and the others."""
    counts = torch.tensor([len(said) for said in clips.captions], device=clips.condition.device)
    owner = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    sound = torch.stack([_finite(x) for x in (clips.latents, clips.tokens, clips.reencoded)]).all(0)
    sound[owner[~_finite(clips.condition)]] = False
    if sound.all():
        return clips, []
    kept = [row for row, is_sound in enumerate(sound.tolist()) if is_sound]
    reason = "its encodings hold values that are not finite"
    broken = [BrokenClip(name, reason) for row, name in enumerate(clips.ids) if row not in kept]
    ids, captions = tuple(clips.ids[row] for row in kept), tuple(clips.captions[row] for row in kept)
    latents, tokens, reencoded = (x[sound] for x in (clips.latents, clips.tokens, clips.reencoded))
    whole = EncodedClips(ids, captions, latents, tokens, reencoded, clips.condition[sound[owner]])
    return whole, broken


def _finite(x: Tensor) -> Tensor:
    return x.flatten(1).isfinite().all(1)
