"""One page that shows an explanation without a server."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import transporter_pl
from transporter_pl.concepts.pairs import SLOT, Pair
from transporter_pl.explain.explanation import Explanation, Sample
from transporter_pl.files import replace_file
from transporter_pl.report.figures import colour_of
from transporter_pl.report.template import fill


def write_page(
    path: str | Path, explanation: Explanation, videos: Sequence[str], filmstrip: str, calibration: str
) -> None:
    """Write the page; its links are relative, its styles its own.

    Args:
        path: The page.
        explanation: A sweep of φ.
        videos: The mp4 of each φ, relative to the page.
        filmstrip: Picture, relative to the page.
        calibration: Picture, relative to the page.
    """
    pair, shown = explanation.pair, list(zip(explanation.samples, videos, strict=True))
    plain = {"negative": pair.negative, "positive": pair.positive, "filmstrip": filmstrip, "calibration": calibration}
    text = fill(
        "page.html",
        **{name: escape(value) for name, value in plain.items()},
        sentence=sentence(explanation),
        verdict=escape(explanation.sentence),
        warnings="\n".join(f'<p class="warning">{escape(text)}.</p>' for text in explanation.warnings),
        summary=escape(summary(explanation)),
        figures="\n".join(figure(sample, video, pair.positive) for sample, video in shown),
        rows="\n".join(_row(sample) for sample, _ in shown),
        made_with="\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in _foot(explanation)),
    )
    replace_file(Path(path), lambda aside: aside.write_text(text, encoding="utf-8"))


def sentence(explanation: Explanation) -> str:
    """The caption as HTML, with both words in its slot."""
    return contrast(explanation.pair, explanation.context)


def contrast(pair: Pair, context: str) -> str:
    """A context as HTML, with both words of the pair in its slot."""
    words = f'<b class="negative">{escape(pair.negative)}</b>→<b class="positive">{escape(pair.positive)}</b>'
    return escape(context).replace(SLOT, words)


def summary(explanation: Explanation) -> str:
    """The dial's figures in a line: monotonicity, saturation, what else changed."""
    measured = explanation.calibration
    limit = "not reached" if measured.saturation is None else f"φ = {measured.saturation:g}"
    return (
        f"Monotonicity (Spearman's ρ) {measured.monotonicity:.2f} · saturation {limit} · "
        f"what else changed, at most {max(measured.elsewhere):.4f}"
    )


def figure(sample: Sample, video: str, word: str) -> str:
    """A clip as HTML, with what the VLM says of it; ``video`` is a file, or its content as data."""
    share, said = f"{100 * sample.coupled.positive:.0f}", escape(sample.coupled.caption)
    return f"""<figure style="--c: {colour_of(sample.phi)}">
  <video src="{escape(video)}" controls muted loop playsinline preload="auto"
    aria-label="φ = {sample.phi:g}: {said}"></video>
  <figcaption>
    <p class="phi">φ = {sample.phi:g}</p>
    <p class="says">“{said}”</p>
    <p class="share"><span>P({escape(word)})</span><meter min="0" max="100" value="{share}">{share} %</meter>
      <span>{share} %</span></p>
  </figcaption>
</figure>"""


def numbers(sample: Sample) -> list[str]:
    """A clip's figures: P(token+) by both routes, Δϑ by both routes, and what else changed."""
    coupled, reencoded = sample.coupled, sample.reencoded
    read = coupled.positive, reencoded.positive, coupled.divergence, reencoded.divergence
    return [*(f"{number:.3f}" for number in read), f"{sample.elsewhere:.4f}"]


def _row(sample: Sample) -> str:
    cells = [*numbers(sample), escape(sample.coupled.caption), escape(sample.reencoded.caption)]
    return f'<tr><th scope="row">{sample.phi:g}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _foot(explanation: Explanation) -> Sequence[tuple[str, str]]:
    return [*explanation.made_with, ("seed", str(explanation.seed)), ("transporter-pl", transporter_pl.__version__)]
