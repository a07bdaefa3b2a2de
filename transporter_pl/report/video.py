"""Writes a clip as an mp4 file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from torch import Tensor

from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.video import to_bytes

CHROMA = {"4:2:0": "yuv420p", "4:4:4": "yuv444p"}


def write_video(
    path: str | Path, video: Tensor, fps: float, quality: int = 12, chroma: Literal["4:2:0", "4:4:4"] = "4:2:0"
) -> None:
    """Write one clip as H.264.

    Args:
        path: File to write; it appears only when it is complete.
        video: (T, 3, H, W) in [0, 1]; values outside are clipped.
        fps: Frames per second.
        quality: x264's constant rate factor, 0 (lossless) to 51.
        chroma: Resolution of colour: ``4:2:0`` halves it, and every browser plays it; ``4:4:4`` keeps it, for data.

    Raises:
        TransporterError: If a side is odd, which 4:2:0 can't hold.
    """
    frames, _, height, width = video.shape
    if chroma == "4:2:0" and (height % 2 or width % 2):
        msg = f"video: {height}x{width} has an odd side, which 4:2:0 can't hold; use even sides"
        raise TransporterError(msg)
    pixels = to_bytes(video).permute(0, 2, 3, 1).cpu().numpy()

    def encode(aside: Path) -> None:
        with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality)})
            stream.width, stream.height, stream.pix_fmt = width, height, CHROMA[chroma]
            for index in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels[index], format="rgb24")))
            container.mux(stream.encode())

    replace_file(Path(path), encode)
