"""One page that shows an explanation without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from transporter_pl.concepts.pairs import SLOT
from transporter_pl.errors import TransporterError
from transporter_pl.files import replace_file
from transporter_pl.report.figures import NEGATIVE, POSITIVE, colour_of


@dataclass(frozen=True)
class Shot:
    """What one φ gave.

    Attributes:
        phi: φ.
        video: The mp4, relative to the page.
        caption: The VLM's caption through Φ.
        probability: Its probability of the positive word.
        divergence: Δϑ to the clip without the concept, through Φ.
        decoded_caption: Its caption of the decoded clip.
        decoded_probability: Its probability of the positive word there.
    """

    phi: float
    video: str
    caption: str
    probability: float
    divergence: float
    decoded_caption: str
    decoded_probability: float


@dataclass(frozen=True)
class Page:
    """Everything that the page says.

    Attributes:
        negative: Word at φ = 0.
        positive: Word at φ = 1.
        context: The caption, with a slot where the words belong.
        shots: One a φ.
        filmstrip: Picture, relative to the page.
        calibration: Picture, relative to the page.
        made_with: Names and values for the foot of the page: generator, VLM, seed.
    """

    negative: str
    positive: str
    context: str
    shots: Sequence[Shot]
    filmstrip: str
    calibration: str
    made_with: Sequence[tuple[str, str]]


def write_page(path: str | Path, page: Page) -> None:
    """Write the page; its links are relative, its styles its own.

    Raises:
        TransporterError: If there is nothing to show.
    """
    if not page.shots:
        msg = "phi: no clip to show; give at least one φ"
        raise TransporterError(msg)
    template = Template((files("transporter_pl.report") / "page.html").read_text(encoding="utf-8"))
    plain = {name: escape(getattr(page, name)) for name in ("negative", "positive", "filmstrip", "calibration")}
    text = template.substitute(
        plain,
        sentence=_sentence(page),
        figures="\n".join(_figure(shot, page.positive) for shot in page.shots),
        rows="\n".join(_row(shot) for shot in page.shots),
        made_with="\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in page.made_with),
        negative_colour=NEGATIVE,
        positive_colour=POSITIVE,
    )
    replace_file(Path(path), lambda aside: aside.write_text(text, encoding="utf-8"))


def _sentence(page: Page) -> str:
    """The caption, with both words in its slot."""
    words = f'<b class="negative">{escape(page.negative)}</b>→<b class="positive">{escape(page.positive)}</b>'
    return escape(page.context).replace(SLOT, words)


def _figure(shot: Shot, word: str) -> str:
    share = f"{100 * shot.probability:.0f}"
    return f"""<figure style="--c: {colour_of(shot.phi)}">
  <video src="{escape(shot.video)}" controls muted loop playsinline preload="auto"
    aria-label="φ = {shot.phi:g}: {escape(shot.caption)}"></video>
  <figcaption>
    <p class="phi">φ = {shot.phi:g}</p>
    <p class="says">“{escape(shot.caption)}”</p>
    <p class="share"><span>P({escape(word)})</span><meter min="0" max="100" value="{share}">{share} %</meter>
      <span>{share} %</span></p>
  </figcaption>
</figure>"""


def _row(shot: Shot) -> str:
    numbers = (shot.probability, shot.decoded_probability, shot.divergence)
    words = (shot.caption, shot.decoded_caption)
    cells = "".join(f"<td>{cell}</td>" for cell in (*(f"{n:.3f}" for n in numbers), *map(escape, words)))
    return f'<tr><th scope="row">{shot.phi:g}</th>{cells}</tr>'
