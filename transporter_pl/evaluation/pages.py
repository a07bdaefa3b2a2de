"""Side by side: what every method drew for the same words, a page a pair and VLM, and an index of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill as fill_words

import torch
from torch import Tensor

import transporter_pl
from transporter_pl.concepts.pairs import Pair
from transporter_pl.evaluation.figures import Table
from transporter_pl.evaluation.samples import Case, Drawn
from transporter_pl.evaluation.tables import html
from transporter_pl.files import delete, replace_file
from transporter_pl.report.figures import FAINT, colour_of
from transporter_pl.report.filmstrip import Label, clip_rows
from transporter_pl.report.page import contrast
from transporter_pl.report.template import fill
from transporter_pl.report.video import write_video

INDEX = "index.html"
LABEL_WIDTH = 14  # letters in a line before a film-strip
START, REAL = "clip of ε−", "real clip of ε+"


@dataclass(frozen=True)
class Panel:
    """One clip, and what there is to say of it.

    Attributes:
        label: Who drew it.
        video: (T, 3, H, W) in [0, 1].
        caption: What the VLM says of it; empty where it was not asked.
        positive: P(token+); ``None`` likewise.
        seconds: What drawing it took; ``None`` for what was not drawn.
    """

    label: str
    video: Tensor
    caption: str = ""
    positive: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Scene:
    """One case.

    Attributes:
        context: Its caption, with a slot for the two words.
        shown: The clips that are to be compared.
    """

    context: str
    shown: tuple[Panel, ...]


@dataclass(frozen=True)
class Comparison:
    """A page: one pair of words, one VLM, and a scene a case.

    Attributes:
        pair: The words.
        vlm: Name of the VLM.
        scenes: The cases.
        fps: Frames per second of all clips.
    """

    pair: Pair
    vlm: str
    scenes: tuple[Scene, ...]
    fps: float


def compare(
    vlm: str, cases: Sequence[Case], start: Tensor, drawn: Mapping[str, Drawn], fps: float, real: Drawn | None = None
) -> tuple[Comparison, ...]:
    """What the methods drew for K cases with one seed, as a comparison a pair.

    Args:
        vlm: Name of the VLM.
        cases: The K cases.
        start: Their clips of ε−, (K, T, 3, H, W) in [0, 1].
        drawn: Label of each method → what it drew.
        fps: Frames per second.
        real: What the VLM says of the cases' real clips, where that was asked.
    """
    scenes: dict[str, tuple[Pair, list[Scene]]] = {}
    for row, case in enumerate(cases):
        before = next((d.start[row].item() for d in drawn.values()), None)
        shown = [Panel(START, start[row], positive=before), _real(case, row, real)]
        shown += [_panel(label, one, row) for label, one in drawn.items()]
        scenes.setdefault(case.pair.name, (case.pair, []))[1].append(Scene(case.context, tuple(shown)))
    return tuple(Comparison(pair, vlm, tuple(found), fps) for pair, found in scenes.values())


def write_pages(out: Path, pages: Iterable[Comparison], table: Table) -> Path:
    """Write a folder a page, and an index of them beside the table; everything is there before the index is.

    Pages of an earlier call that are not among these are deleted, once no index leads there.

    Args:
        out: Folder; made if it is not there.
        pages: What is compared.
        table: The figures that stand under them.

    Returns:
        The index.
    """
    cards = {}
    for page in pages:
        folder = Path(_slug(page.vlm)) / _slug(page.pair.name)
        _write_page(out / folder, page, table)
        cards[out / folder] = _card(page, folder)
    shown = "\n".join(cards.values())
    text = fill(
        "comparison.html",
        title=escape(table.title),
        kicker="Transporter · side by side",
        heading=f'<h1 class="long">{escape(table.title)}</h1>',
        lead="One page for each pair of words and VLM: what every method drew, and what the VLM says of it.",
        main=f'<section><div class="cards">\n{shown}\n</div></section>\n<section>{html(table, table.vlms)}</section>',
        foot=_foot(),
    )
    replace_file(out / INDEX, lambda aside: aside.write_text(text, encoding="utf-8"))
    for file in list(out.glob(f"*/*/{INDEX}")):
        if file.parent not in cards:
            delete(file.parent)
    return out / INDEX


def _write_page(folder: Path, page: Comparison, table: Table) -> None:
    sections = "\n".join(_section(folder, page, number) for number in range(len(page.scenes)))
    figures = (
        f"<section><h2>The figures of {escape(page.vlm)}, all pairs together</h2>{html(table, [page.vlm])}</section>"
    )
    negative, positive = escape(page.pair.negative), escape(page.pair.positive)
    text = fill(
        "comparison.html",
        title=f"{negative} → {positive} · {escape(page.vlm)}",
        kicker=f"Transporter · side by side · {escape(page.vlm)}",
        heading=f'<h1><span class="negative">{negative}</span><span class="arrow" aria-label="to">→</span>'
        f'<span class="positive">{positive}</span></h1>',
        lead=f"Under each clip: what {escape(page.vlm)} says of it, through Φ where the method has one, and its "
        f"probability of “{positive}” as it sees the pixels. Of several seeds, the first.",
        main=f"{sections}\n{figures}",
        foot=f'<p><a href="../../{INDEX}">All pages</a></p>{_foot()}',
    )
    replace_file(folder / INDEX, lambda aside: aside.write_text(text, encoding="utf-8"))


def _section(folder: Path, page: Comparison, number: int) -> str:
    """Write one scene's clips and film-strip, and show them."""
    scene, figures = page.scenes[number], []
    for index, panel in enumerate(scene.shown):
        file = f"{number}-{index}-{_slug(panel.label)}.mp4"
        write_video(folder / file, panel.video, page.fps)
        figures.append(_figure(panel, file, page.pair.positive))
    clip_rows(folder / _strip(number), *_rows(scene), page.fps, dpi=120)
    rows = ", ".join(panel.label for panel in scene.shown)
    alt, shots = escape(f"Frames of every clip, time from left to right; rows: {rows}."), "\n".join(figures)
    return f"""<section aria-labelledby="scene-{number}">
<div class="head"><h2 id="scene-{number}">{contrast(page.pair, scene.context)}</h2></div>
<div class="shots">
{shots}
</div>
<div class="paper wide"><img src="{_strip(number)}" alt="{alt}"></div>
</section>"""


def _figure(panel: Panel, file: str, word: str) -> str:
    said = f'<p class="says">“{escape(panel.caption)}”</p>' if panel.caption else ""
    spoken = escape(f"{panel.label}: {panel.caption}" if panel.caption else panel.label)
    took = "" if panel.seconds is None else f'<p class="small">{panel.seconds:.3g} s</p>'
    return f"""<figure style="--c: {_colour(panel)}">
  <video src="{escape(file)}" controls muted loop playsinline preload="auto" aria-label="{spoken}"></video>
  <figcaption><p class="label">{escape(panel.label)}</p>{said}{_share(panel.positive, word)}{took}</figcaption>
</figure>"""


def _share(positive: float | None, word: str) -> str:
    if positive is None:
        return ""
    share = f"{100 * positive:.0f}"
    meter = f'<meter min="0" max="100" value="{share}">{share} %</meter>'
    return f'<p class="share"><span>P({escape(word)})</span>{meter}<span>{share} %</span></p>'


def _card(page: Comparison, folder: Path) -> str:
    name = f"{escape(page.pair.negative)} → {escape(page.pair.positive)}"
    return f"""<a href="{folder.as_posix()}/{INDEX}">
<img src="{folder.as_posix()}/{_strip(0)}" alt="" loading="lazy"><p><b>{name}</b> · {escape(page.vlm)}</p></a>"""


def _rows(scene: Scene) -> tuple[Tensor, list[Label]]:
    labels = [Label(fill_words(panel.label, LABEL_WIDTH), _colour(panel), 8) for panel in scene.shown]
    return torch.stack([panel.video.float().cpu() for panel in scene.shown]), labels


def _panel(label: str, drawn: Drawn, row: int) -> Panel:
    seconds = drawn.seconds / len(drawn.video)
    return Panel(label, drawn.video[row], drawn.captions[row], drawn.positive[row].item(), seconds)


def _real(case: Case, row: int, real: Drawn | None) -> Panel:
    if real is None:
        return Panel(REAL, case.real)
    return Panel(REAL, case.real, real.captions[row], real.positive[row].item())


def _colour(panel: Panel) -> str:
    return FAINT if panel.positive is None else colour_of(panel.positive)


def _strip(number: int) -> str:
    return f"{number}.png"


def _slug(text: str) -> str:
    """The text as part of a file's name and of a link."""
    return re.sub(r"[^\w.-]+", "_", text)


def _foot() -> str:
    return f"<p>transporter-pl {escape(transporter_pl.__version__)}</p>"
