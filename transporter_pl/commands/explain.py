"""``transporter explain``: a pair of words and a caption → videos, captions and a page."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.dials import SWEEP, Dial, check_dials, check_phi
from transporter_pl.explain.explainer import Explainer
from transporter_pl.explain.explainer import geometry as geometry_of
from transporter_pl.explain.modulation import check_window
from transporter_pl.explain.starting import Start, check_depth
from transporter_pl.files import check_folder
from transporter_pl.loading import BackboneSpec
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
    window: tuple[float, ...] = (0.0, 1.0),
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
        also: Other concepts, the same in every video: {pair, phi, window, span, ramp}.
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
    check_counts(steps=steps, guidance=guidance, batch_size=batch_size)
    check_phi(phi)
    low, high = _window(window)
    check_depth(depth)
    words, dials = Pair.parse(pair), also or []
    bank = ConceptBank.from_pretrained(concepts)
    check_dials(bank, words, dials)
    if caption is not None:
        words.context(caption)
    spec = geometry or _geometry(coupling)
    clip = None if video is None else read_video(video, spec)
    explainer = Explainer.from_pretrained(generator, vlm, coupling, concepts, spec, device)
    found = explainer.explain(
        *(caption, words, phi, seed, steps, guidance, prompt, (low, high), span, ramp, dials, clip, start, depth),
        batch_size=batch_size,
        watch=partial(track, description="Denoising", total=steps + 1, transient=True),
    )
    page, console = found.save(out), Console(markup=False, highlight=False)
    for line in (*(f"warning: {text}" for text in found.warnings), found.sentence):
        console.print(line, soft_wrap=True)
    Console().print(f"[bold]{page}[/bold]", soft_wrap=True)
    return page


def _window(window: tuple[float, ...]) -> tuple[float, float]:
    if len(window) != 2:
        msg = f"window: {len(window)} numbers; give two, low and high"
        raise TransporterError(msg)
    check_window((window[0], window[1]))
    return window[0], window[1]


def _geometry(coupling: Path) -> VideoSpec:
    return geometry_of(CouplingNetwork.from_pretrained(coupling))
