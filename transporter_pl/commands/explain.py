"""``transporter explain``: a pair of words and a caption → videos, captions and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.explainer import SWEEP, Explainer
from transporter_pl.files import check_folder
from transporter_pl.loading import BackboneSpec
from transporter_pl.report.folder import write_report
from transporter_pl.samples import VideoSpec


def explain(
    pair: str,
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    coupling: Path,
    concepts: Path,
    caption: str | None = None,
    phi: tuple[float, ...] = SWEEP,
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
        video: Geometry of the videos.
        coupling: Folder of Φ.
        concepts: Folder of the concept bank.
        caption: A caption with the first word, or with {} in its place; by default the first that the concept was
            learned in.
        phi: Strengths: 0 is the first word, 1 the second; below 0 and above 1 go further.
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
        TransporterError: Before any model is loaded, if the pair, φ, the caption or a count is wrong.
    """
    check_sweep(phi)
    check_folder("out", out)
    check_counts(steps=steps, guidance=guidance, batch_size=batch_size)
    words = Pair.parse(pair)
    if caption is not None:
        words.context(caption)
    contexts = ConceptBank.from_pretrained(concepts)[words].pair.contexts
    if caption is None and not contexts:
        msg = f"caption: the bank holds no caption for {pair!r}; give one with the word {words.negative!r}"
        raise TransporterError(msg)
    explainer = Explainer.from_pretrained(generator, vlm, coupling, concepts, video, device)
    found = explainer.explain(
        caption or contexts[0],
        words.name,
        phi,
        seed,
        steps,
        guidance,
        prompt,
        batch_size=batch_size,
        watch=partial(track, description="Denoising", total=steps + 1, transient=True),
    )
    made_with = [("generator", generator.path), ("VLM", vlm.path), ("denoising steps", str(steps))]
    page = write_report(out, found, video.fps, made_with)
    Console().print(f"[bold]{page}[/bold]", soft_wrap=True)
    return page


def check_sweep(phi: Sequence[float]) -> None:
    """Refuse a sweep that can't be drawn.

    Raises:
        TransporterError: If there is no φ, one is not finite, or one comes twice.
    """
    shown = " ".join(f"{value:g}" for value in phi)
    if not phi or not all(map(math.isfinite, phi)):
        msg = f"phi: {shown or 'no value'}; give finite numbers, 0 for the first word and 1 for the second"
        raise TransporterError(msg)
    if len({f"{value:g}" for value in phi}) < len(phi):
        msg = f"phi: {shown} holds a value twice; give each once"
        raise TransporterError(msg)
