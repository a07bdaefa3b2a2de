"""Reads a video file through PyAV as a tensor of exactly the frames that a clip's geometry asks for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec


def read_video(path: str | Path, spec: VideoSpec, start: float = 0.0, end: float | None = None) -> Tensor:
    """Frames at the times start + k / fps, k = 0 … T − 1: each the last frame whose time stamp is not later.

    Time stamps are the file's own, so a variable frame rate is honoured; so is a rotation in its metadata. The window
    has to last longer than (T − 1) / fps seconds, so that something is shown at the last of the times; what comes later
    is left out.

    Args:
        path: Video file.
        spec: Geometry. Frames are scaled until they cover it (bilinear, antialiased) and cropped around the centre;
            those that have its size already are left as they are.
        start: Beginning of the window, seconds after the first frame.
        end: End of the window; by default that of the video.

    Returns:
        (T, 3, H, W) in [0, 1].

    Raises:
        TransporterError: If the file can't be read or is too short.
    """
    times = [Fraction(max(0.0, start)) + k / Fraction(spec.fps) for k in range(spec.frames)]
    try:
        # titles in old files are often not UTF-8
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                msg = f"video: {str(path)!r} has no video stream; remove it or replace it"
                raise TransporterError(msg)
            shown, reached = _frames_at(_timed_frames(container, times[0], end), times)
            pixels = [fit(_pixels(frame), spec.height, spec.width) for frame in shown]
    except (av.FFmpegError, OSError) as error:
        msg = f"video: {str(path)!r} can't be read ({error}); remove it or replace it"
        raise TransporterError(msg) from error
    if len(pixels) < spec.frames:
        lasts, needed = max(0.0, float(reached - times[0])), float(times[-1] - times[0])
        msg = (
            f"video: {str(path)!r} lasts {lasts:.2f} s from {float(times[0]):g} s on, but {spec} need more than "
            f"{needed:.2f} s; ask for fewer frames or more fps, or remove it"
        )
        raise TransporterError(msg)
    return torch.stack(pixels)


def fit(frame: Tensor, height: int, width: int) -> Tensor:
    """Scale (3, h, w) in [0, 1] until it covers (height, width), bilinear and antialiased; crop around the centre."""
    have = frame.shape[-2:]
    if have == (height, width):
        return frame
    scale = max(height / have[0], width / have[1])
    size = max(height, round(have[0] * scale)), max(width, round(have[1] * scale))
    scaled = interpolate(frame[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width]


# A decoded frame, the times at which it appears and ends, and the file's unit of time, all in seconds.
Timed = tuple[av.VideoFrame, Fraction, Fraction, Fraction]


def _timed_frames(container: av.container.InputContainer, start: Fraction, end: float | None) -> Iterator[Timed]:
    """Decoded frames from the last key frame before ``start`` to ``end``, with their times."""
    stream = container.streams.video[0]
    tick, origin = stream.time_base, stream.start_time or 0
    if start > 0:
        container.seek(int(start / tick) + origin, stream=stream)
    usual = 1 / stream.average_rate if stream.average_rate else Fraction(0)
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            msg = f"video: {container.name!r} has a damaged frame or one without a time stamp; replace or remove it"
            raise TransporterError(msg)
        time = (frame.pts - origin) * tick
        if end is not None and time >= end:
            return
        lasts = frame.duration * tick if frame.duration else usual
        yield frame, time, time + lasts if end is None else min(time + lasts, Fraction(end)), tick


def _frames_at(frames: Iterator[Timed], times: list[Fraction]) -> tuple[list[av.VideoFrame], Fraction]:
    """The frame shown at each time, as far as the frames last; and how far that is."""
    shown: list[av.VideoFrame] = []
    current, reached = None, times[0]
    for frame, time, ends, tick in frames:
        # containers round time stamps to their unit (1 ms in Matroska): half of one is not late
        while current is not None and len(shown) < len(times) and times[len(shown)] + tick / 2 < time:
            shown.append(current)
        if len(shown) == len(times):
            return shown, time
        current, reached = frame, ends
    covered = sum(time < reached for time in times)
    return shown + [current] * (covered - len(shown)), reached


def _pixels(frame: av.VideoFrame) -> Tensor:
    """(3, h, w) in [0, 1], turned upright."""
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return torch.from_numpy(upright.copy()).permute(2, 0, 1) / 255
