"""What a baseline has drawn, as a folder: an mp4 a video, a film-strip, tensors, and the figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from transporter_pl.baselines.ascent import Reached
from transporter_pl.files import replace_file
from transporter_pl.report.filmstrip import Label, clip_rows
from transporter_pl.report.video import write_video
from transporter_pl.video import to_bytes

VIDEOS, FILMSTRIP, FIGURES = "drawn.safetensors", "filmstrip.png", "drawn.json"


def write_drawn(folder: Path, reached: Reached, captions: Sequence[str], fps: float) -> None:
    """Write everything there is to see of K videos.

    Args:
        folder: Made if it is not there; the figures are written last.
        reached: The videos and what they make the VLM say.
        captions: ε+ of each.
        fps: Frames per second.
    """
    found = {name: getattr(reached, name).tolist() for name in ("objective", "logit", "probability", "restart")}
    names = [f"{row}.mp4" for row in range(len(captions))]
    for name, video in zip(names, reached.video, strict=True):
        write_video(folder / name, video, fps)
    pixels = to_bytes(reached.video).cpu().contiguous()
    replace_file(folder / VIDEOS, lambda aside: save_file({"video": pixels}, aside))
    clip_rows(folder / FILMSTRIP, reached.video, [Label(f"{p:.2f}") for p in found["probability"]], fps, dpi=100)
    text = json.dumps({"captions": list(captions), "videos": names, **found}, indent=1, ensure_ascii=False)
    replace_file(folder / FIGURES, lambda aside: aside.write_text(text, encoding="utf-8"))
