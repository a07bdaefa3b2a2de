"""A part of a clip, in frames or in seconds, as weights of the latent frames."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

MOMENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(s?)")
HOW = 'write first-last, as "2-6" in frames (from 0) or "0.25s-0.75s" in seconds'


def frame_weights(
    span: str | None, ramp: str, video: VideoSpec, latent_frames: Sequence[range]
) -> tuple[float, ...] | None:
    """Weight in [0, 1] of every latent frame.

    Frame k of the clip stands at k, or at k / fps seconds; both ends of the span belong to it. Within it the weight is
    1. Over the length of the ramp before its beginning it rises linearly from 0, and after its end it falls again: with
    ramp r, a frame at the distance d < r from the span has 1 − d / r. A latent frame holds several frames, and has the
    mean of their weights: so a span that covers half of them moves it by half.

    Args:
        span: "2-6" or "0.25s-0.75s"; ``None`` is the whole clip.
        ramp: "0", "2" (frames) or "0.25s".
        video: Geometry of the clip.
        latent_frames: The frames that each latent frame holds, as ``GeneratorAdapter.latent_frames`` gives them.

    Returns:
        T' weights; ``None`` for the whole clip.

    Raises:
        TransporterError: If span or ramp can't be read, the span ends before it begins, or lies beyond the clip.
    """
    if span is None:
        if _position("ramp", ramp, video):
            msg = f"ramp: {ramp!r} without a span; give the span that it leads to, or leave it out"
            raise TransporterError(msg)
        return None
    first, last = _ends(span, video)
    rise = _position("ramp", ramp, video)
    weights = [_weight(frame, first, last, rise) for frame in range(video.frames)]
    if not any(weights):
        msg = f"span: {span!r} has no frame of the clip, which stand {1 / video.fps:g} s apart; widen it"
        raise TransporterError(msg)
    return tuple(sum(weights[frame] for frame in held) / len(held) for held in latent_frames)


def check_span(span: str | None, ramp: str, video: VideoSpec) -> None:
    """Refuse a span or ramp before any model is there.

    Raises:
        TransporterError: As ``frame_weights``.
    """
    frame_weights(span, ramp, video, [range(video.frames)])


def _ends(span: str, video: VideoSpec) -> tuple[float, float]:
    """First and last frame of a span, in frames; both may lie between two."""
    parts = span.split("-")
    if len(parts) != 2:
        msg = f"span: {span!r} is not two moments; {HOW}"
        raise TransporterError(msg)
    first, last = (_position("span", part.strip(), video) for part in parts)
    if last < first:
        msg = f"span: {span!r} ends before it begins; {HOW}"
        raise TransporterError(msg)
    if last > video.frames - 1 + 1e-6:
        end = video.frames - 1
        msg = f"span: {span!r} goes beyond the clip, whose last frame is {end}, at {end / video.fps:g}s; shorten it"
        raise TransporterError(msg)
    return first, last


def _position(field: str, moment: str, video: VideoSpec) -> float:
    """A moment, or a length, in frames."""
    found = MOMENT.fullmatch(moment)
    if found is None:
        msg = f"{field}: {moment!r} is neither frames nor seconds; "
        raise TransporterError(msg + (HOW if field == "span" else 'write "2" for frames or "0.25s" for seconds'))
    return float(found[1]) * (video.fps if found[2] else 1)


def _weight(frame: int, first: float, last: float, rise: float) -> float:
    distance = max(first - frame, frame - last, 0.0)
    if distance <= 1e-6:  # seconds times frames per second are rounded
        return 1.0
    return max(0.0, 1 - distance / rise) if rise else 0.0
