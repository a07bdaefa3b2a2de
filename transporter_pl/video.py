"""Reads a video file through PyAV as a tensor of exactly the frames that a clip's geometry asks for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

READING = 1  # to be raised when a file would give other pixels: what was encoded from them is then refused


def to_bytes(video: Tensor) -> Tensor:
    """Pixels as files hold them: the nearest of 256 steps, what leaves [0, 1] clipped; of the same shape, uint8."""
    return (video.detach().float().clamp(0, 1) * 255).round().byte()


def read_video(path: str | Path, spec: VideoSpec, start: float = 0.0, end: float | None = None) -> Tensor:
    """Frames at the times start + k / fps, k = 0 … T − 1: each the last frame whose time stamp is not later.

    Time stamps are the file's own, so a variable frame rate is honoured; so is a rotation in its metadata. What comes
    after the window is left out. The window may end up to half a frame of the geometry, 1 / (2 fps), before the last of
    the times, whose frame is then the window's last: clips of one second hold 9 frames at 8 fps.

    Args:
        path: Video file.
        spec: Geometry. Frames are scaled until they cover it (bilinear, antialiased) and cropped around the centre;
            those that have its size already are left as they are. Pixels count as square.
        start: Beginning of the window, seconds after the first frame.
        end: End of the window; by default that of the video.

    Returns:
        (T, 3, H, W) in [0, 1].

    Raises:
        TransporterError: If the file can't be read, is damaged as far as its codec can tell, or is too short.
    """
    try:
        times = [Fraction(max(0.0, start)) + k / Fraction(spec.fps) for k in range(spec.frames)]
        # titles in old files are often not UTF-8
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = container.streams.best("video")  # not the picture of a cover, which may come first
            if stream is None:
                msg = f"video: {str(path)!r} has no video stream; remove it or replace it"
                raise TransporterError(msg)
            shown, reached = _frames_at(_timed_frames(container, stream, times[0], end), times)
            pixels = [fit(_pixels(frame), spec.height, spec.width) for frame in shown]
    except (av.FFmpegError, OSError, OverflowError) as error:  # OverflowError: times that no file can have
        msg = f"video: {str(path)!r} can't be read ({error}); remove it or replace it"
        raise TransporterError(msg) from error
    if len(pixels) < spec.frames:
        lasts, span = max(0.0, float(reached - times[0])), float(times[-1] - times[0])
        msg = (
            f"video: {str(path)!r} lasts {lasts:.4g} s from {float(times[0]):g} s on, but the last of {spec} is shown "
            f"after {span:.4g} s; ask for fewer frames or more fps, or remove it"
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


def _timed_frames(
    container: av.container.InputContainer, stream: av.VideoStream, start: Fraction, end: float | None
) -> Iterator[Timed]:
    """Decoded frames from a key frame before ``start`` to ``end``, with their times."""
    tick = stream.time_base
    usual = 1 / stream.average_rate if stream.average_rate else Fraction(0)
    origin, frames = _frames_from(container, stream, start)
    for frame in frames:
        time = (frame.pts - origin) * tick
        if end is not None and time >= end:
            return
        lasts = frame.duration * tick if frame.duration else usual
        yield frame, time, time + lasts if end is None else min(time + lasts, Fraction(end)), tick


def _frames_from(
    container: av.container.InputContainer, stream: av.VideoStream, start: Fraction
) -> tuple[int, Iterator[av.VideoFrame]]:
    """Time stamp of the file's first frame, and decoded frames from the last key frame before ``start``."""
    # decoded, as the stream's start_time is not the first frame's in containers without time stamps of their own (AVI)
    origin, frames = _next_frames(container, stream)
    if origin is not None and start > 0:
        wanted = origin + int(start / stream.time_base)
        container.seek(wanted, stream=stream)
        found, frames = _next_frames(container, stream)
        if found is None or found > wanted:  # too late, as happens where there is no index (MPEG-TS)
            container.seek(0)
            _, frames = _next_frames(container, stream)
    return origin or 0, frames


def _next_frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[int | None, Iterator[av.VideoFrame]]:
    """Time stamp of the next frame, ``None`` after the last; and the frames from it on."""
    frames = _sound_frames(container, stream)
    found = next(frames, None)
    return (None, frames) if found is None else (found.pts, chain([found], frames))


def _sound_frames(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            msg = f"video: {container.name!r} has a damaged frame or one without a time stamp; replace or remove it"
            raise TransporterError(msg)
        yield frame


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
    if covered == len(times) - 1 > 0 and times[-1] - reached <= (times[-1] - times[-2]) / 2:
        covered += 1  # the last is held
    return shown + [current] * (covered - len(shown)), reached


def _pixels(frame: av.VideoFrame) -> Tensor:
    """(3, h, w) in [0, 1], turned upright."""
    # one thread: those of several readers would be in each other's way
    upright = np.rot90(frame.to_ndarray(format="rgb24", threads=1), round(frame.rotation / 90))
    return torch.from_numpy(upright.copy()).permute(2, 0, 1) / 255
