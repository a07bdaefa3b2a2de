"""``transporter explain``: a pair of words and a caption → videos, captions and a page."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.explain.dials import SWEEP, Dial
from transporter_pl.explain.explainer import Explainer
from transporter_pl.explain.explainer import geometry as geometry_of
from transporter_pl.explain.request import Request
from transporter_pl.explain.starting import Start
from transporter_pl.files import check_folder
from transporter_pl.loading import BackboneSpec
from transporter_pl.report.terminal import show
from transporter_pl.samples import VideoSpec
from transporter_pl.video import read_video


def explain(
    pair: str,
    generator: BackboneSpec,
    vlm: BackboneSpec,
    coupling: Path,
    concepts: Path,
    geometry: VideoSpec | None = None,
    caption: str | None = None,
    phi: tuple[float, ...] = SWEEP,
    window: tuple[float, float] = (0.0, 1.0),
    span: str | None = None,
    ramp: str = "0",
    also: list[Dial] | None = None,
    video: Path | None = None,
    start: Start = "noised",
    depth: float = 0.8,
    out: Path = Path("explanation"),
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    prompt: str | None = None,
    batch_size: int = 8,
    device: str = "auto",
) -> Path:
    """Draw videos between two words, and ask the VLM about each of them.

    Args:
        pair: Two words of the bank, "left:right".
        generator: The generator.
        vlm: The VLM that is explained.
        coupling: Folder of Φ.
        concepts: Folder of the concept bank.
        geometry: Geometry of the videos; left out, the one that Φ was trained for.
        caption: A caption with the first word, or with {} in its place; by default the first that the concept was
            learned in, or with --video what the VLM says of it.
        phi: Strengths: 0 is the first word, 1 the second; below 0 and above 1 go further.
        window: Two times: the concept acts between them; sampling runs from 1 (noise) to 0.
        span: Frames that it acts on, "2-6" (both included, from 0) or "0.25s-0.75s".
        ramp: Over which its weight rises before the span and falls after it, "2" (frames) or "0.25s".
        also: Another concept, the same in every video, or a list of them: '{pair: red:blue, phi: 0.5}', with a window,
            a span and a ramp of its own where wanted; --also+= adds one more.
        video: A video file to begin with in place of noise.
        start: How it begins: noised, or inverted.
        depth: How far back towards noise, above 0 and up to 1.
        out: Folder of the report.
        seed: Seed of the noise, the same at every φ.
        steps: Denoising steps.
        guidance: Guidance scale; left out, the generator's own.
        prompt: Question to the VLM; left out, its own.
        batch_size: Videos drawn at once; fewer need less memory.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.

    Returns:
        The page.

    Raises:
        TransporterError: Before any model is loaded, if the pair, φ, the caption, the video or a count is wrong.
    """
    check_folder("out", out)
    how, where = (seed, steps, guidance, prompt), (window, span, ramp, tuple(also or ()))
    request = Request(caption, Pair.parse(pair), phi, *how, *where, start, depth, batch_size)
    bank, spec = ConceptBank.from_pretrained(concepts), geometry or geometry_of(coupling)
    request.check(bank, spec, from_clip=video is not None)
    clip = None if video is None else read_video(video, spec)
    explainer = Explainer.from_pretrained(generator, vlm, coupling, concepts, spec, device)
    bar = partial(track, description="Denoising", total=steps + 1, transient=True)
    found = explainer.explain(**vars(request), video=clip, watch=bar)
    page = found.save(out)
    show(found)
    Console().print(f"[bold]{page}[/bold]", soft_wrap=True)
    return page
