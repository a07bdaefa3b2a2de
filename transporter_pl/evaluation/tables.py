"""A table for readers: JSON with everything, Markdown, LaTeX, and the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from operator import methodcaller
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as ConsoleTable
from rich.text import Text

from transporter_pl.evaluation.figures import Figures, Heading, Table
from transporter_pl.files import replace_file

ARROWS = {"up": "\u00a0↑", "down": "\u00a0↓", None: ""}  # never on a line of their own
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
NOT_COMPUTED = "–"
LABEL_WIDTH = 24  # letters of a line of a label in the terminal
NO_WIDER = r"\ifdim\width>\linewidth\linewidth\else\width\fi"  # than the page's text; narrower tables stay
SPACE = re.compile(r"[ \t\r\n]+")  # a no-break space stays

# what LaTeX reads as its own, and what pdflatex's fonts lack of the signs in our labels
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}"},
    **{"\u00a0": "~", "‖": r"$\|$", "|": r"\textbar{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "→": r"$\to$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$"},
    **{"Δ": r"$\Delta$", "Φ": r"$\Phi$", "φ": r"$\varphi$", "ϑ": r"$\vartheta$", "ζ": r"$\zeta$", "Ω": r"$\Omega$"},
    **{"ε": r"$\varepsilon$", "Ξ": r"$\Xi$", "×": r"$\times$", "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$"},
    **{
        "⁺": r"$^{+}$",
        "⁻": r"$^{-}$",
        "₊": r"$_{+}$",
        "₋": r"$_{-}$",
        "–": "--",
        "`": r"\textasciigrave{}",
        "“": "``",
        "”": "''",
        "…": r"\dots{}",
    },
}


@dataclass(frozen=True)
class Entry:
    """One place of a table; empty where nothing has run yet.

    Attributes:
        mean: The mean over the seeds, or the sign of what could not be computed.
        deviation: Their sample standard deviation; empty where there is one seed.
        best: Whether it is the best of its VLM.
        note: Number of the footnote that says why it, or one seed's, could not be computed; 0 for none.
    """

    mean: str = ""
    deviation: str = ""
    best: bool = False
    note: int = 0


def write_tables(out: Path, table: Table) -> Path:
    """``table.json``, ``table.md`` and ``table.tex`` in a folder, each replaced as a whole if it changes.

    Returns:
        The first.
    """
    data = json.dumps(table.as_dict(), indent=1, ensure_ascii=False, default=str)
    texts = {"table.json": data, "table.md": markdown(table), "table.tex": latex(table)}
    for name, text in texts.items():
        if not (out / name).is_file() or (out / name).read_bytes() != text.encode():
            replace_file(out / name, methodcaller("write_bytes", text.encode()))
    return out / "table.json"


def console_tables(table: Table, console: Console) -> Iterator[ConsoleTable]:
    """For the terminal, below each other, with as many columns each as a line has room for."""
    places = list(range(len(table.columns)))
    while places:
        fitting = (some for some in range(len(places), 0, -1) if _fits(_console_table(table, places[:some]), console))
        count = next(fitting, 1)
        shown, places = _console_table(table, places[:count]), places[count:]
        yield shown


def _console_table(table: Table, places: Sequence[int]) -> ConsoleTable:
    """Those of the columns that stand at some places."""
    shown = ConsoleTable(title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("VLM", overflow="fold")
    shown.add_column("method", overflow="fold", max_width=LABEL_WIDTH)
    for place in places:
        shown.add_column(Text(_heading(table, table.columns[place])), justify="right", overflow="fold")
    for vlm in table.vlms:
        for name, label, entries in _group(table, vlm):
            shown.add_row(Text(name), Text(label), *(_console_entry(entries[place]) for place in places))
        shown.add_section()
    return shown


def _fits(shown: ConsoleTable, console: Console) -> bool:
    widest = console.options.update(width=10_000)
    return Measurement.get(console, widest, shown).maximum <= console.width


def markdown(table: Table) -> str:
    """The table, its footnotes, versions and settings as Markdown."""
    heads = ["VLM", "method", *(_markdown_text(_heading(table, heading)) for heading in table.columns)]
    lines = [heads, ["---", "---", *["---:"] * len(table.columns)]]
    for vlm in table.vlms:
        for name, label, entries in _group(table, vlm):
            lines.append([_markdown_text(name), _markdown_text(label), *map(_markdown_entry, entries)])
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    footer = "\n\n".join(_markdown_text(line) for line in footnotes(table))
    return f"{_markdown_text(table.title)}\n\n{rows}\n{footer}\n\n```json\n{_settings(table)}\n```\n"


def latex(table: Table) -> str:
    """The table as a ``table`` environment with booktabs' rules; its settings stand above it as a comment."""
    needs = r"\usepackage{booktabs,graphicx}"
    comment = "".join(f"% {line}\n" for line in [needs, *_settings(table).splitlines()])
    heads = ["VLM", "method", *(_latex_text(_heading(table, heading)) for heading in table.columns)]
    lines = [r"\toprule", _latex_row(heads)]
    for vlm in table.vlms:
        lines.append(r"\midrule")
        for name, label, entries in _group(table, vlm):
            lines.append(_latex_row([_latex_text(name), _latex_text(label), *map(_latex_entry, entries)]))
    body = "\n".join([*lines, r"\bottomrule"])
    footer = " \\\\\n".join(_latex_text(line).replace("/", r"/\allowbreak{}") for line in footnotes(table))  # addresses
    return (
        f"{comment}\\begin{{table}}\n\\centering\n\\caption{{{_latex_text(table.title)}}}\n"
        f"\\resizebox{{{NO_WIDER}}}{{!}}{{%\n"
        f"\\begin{{tabular}}{{ll{'r' * len(table.columns)}}}\n{body}\n\\end{{tabular}}}}\n\n"
        f"\\smallskip\n\\parbox{{\\linewidth}}{{\\footnotesize\n{footer}}}\n\\end{{table}}\n"
    )


def html(table: Table, vlms: Sequence[str]) -> str:
    """The rows of some VLMs and the footer as HTML, for a page with styles of its own."""
    heads = "".join(f'<th scope="col">{escape(_heading(table, heading))}</th>' for heading in table.columns)
    rows = [
        f'<tr><td>{escape(name)}</td><th scope="row">{escape(label)}</th>{"".join(map(_html_entry, entries))}</tr>'
        for vlm in vlms
        for name, label, entries in _group(table, vlm)
    ]
    footer = "\n".join(f"<p>{escape(line)}</p>" for line in footnotes(table))
    head = f'<thead><tr><th scope="col">VLM</th><th scope="col">method</th>{heads}</tr></thead>'
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>\n<div class="notes">{footer}</div>'
    )


def _group(table: Table, vlm: str) -> list[tuple[str, str, list[Entry]]]:
    """A VLM's rows: its name before the first, the row's label, and an entry a column."""
    notes, best = _notes(table), {heading: table.best(vlm, heading) for heading in table.columns}
    return [
        ("" if index else vlm, label, [_entry(table, vlm, row, h, row in best[h], notes) for h in table.columns])
        for index, (row, label) in enumerate(table.rows.items())
    ]


def _entry(table: Table, vlm: str, row: str, heading: Heading, best: bool, notes: Sequence[str]) -> Entry:
    spread, told = table.spread(vlm, row, heading.name), [cell.figures for cell in table.of(vlm, row)]
    lacking = [figures for figures in told if figures.values.get(heading.name, 0.0) is None]
    note = 1 + notes.index(_reason(lacking[0], heading)) if lacking else 0
    if spread is None:
        return Entry(NOT_COMPUTED if lacking else "", note=note)
    mean, deviation = (None if v is None else f"{v:z.{heading.decimals}f}" for v in (spread.mean, spread.deviation))
    return Entry(mean or "", deviation or "", best, note)


def _notes(table: Table) -> list[str]:
    """The footnotes: first those of the headings, then why figures could not be computed; equal ones once."""
    headings = [heading.note for heading in table.columns if heading.note]
    reasons = [
        _reason(cell.figures, heading)
        for heading in table.columns
        for cell in table.cells
        if heading.name in cell.figures.values and cell.figures.values[heading.name] is None
    ]
    return list(dict.fromkeys([*headings, *reasons]))


def _reason(figures: Figures, heading: Heading) -> str:
    return f"{heading.label} was not computed: {figures.missing.get(heading.name, 'no reason is known')}"


def _heading(table: Table, heading: Heading) -> str:
    mark = _raised(1 + _notes(table).index(heading.note)) if heading.note else ""
    return f"{heading.label}{mark}{ARROWS[heading.better]}"


def footnotes(table: Table) -> list[str]:
    """What stands below a table: what the figures are, the footnotes, and the versions."""
    counts = {len(table.of(vlm, row)) for vlm in table.vlms for row in table.rows} - {0}
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"
    notes = [f"{_raised(number)} {note}" for number, note in enumerate(_notes(table), 1)]
    versions = ", ".join(f"{package} {version}" for package, version in table.versions.items())
    spread = "One seed." if seeds == "1" else f"Mean ±standard deviation over {seeds} seeds."
    return [spread, *notes, *([f"Computed with {versions}."] if versions else [])]


def _settings(table: Table) -> str:
    return json.dumps(table.settings, indent=1, ensure_ascii=False, default=str)


def _raised(number: int) -> str:
    return str(number).translate(RAISED) if number else ""


def _spread(entry: Entry, bold: Callable[[str], str]) -> str:
    mean = bold(entry.mean) if entry.best else entry.mean
    return mean + (f" ±{entry.deviation}" if entry.deviation else "")


def _console_entry(entry: Entry) -> Text:
    return Text(_spread(entry, str) + _raised(entry.note), style="bold" if entry.best else "")


def _markdown_entry(entry: Entry) -> str:
    return _spread(entry, lambda mean: f"**{mean}**") + _raised(entry.note)


def _html_entry(entry: Entry) -> str:
    return f"<td>{_spread(entry, lambda mean: f'<b>{mean}</b>')}{_raised(entry.note)}</td>"


def _latex_entry(entry: Entry) -> str:
    spread = _spread(entry, lambda mean: f"\\textbf{{{mean}}}")
    signs = {"±": r"$\pm$", "-": "$-$", NOT_COMPUTED: "--"}
    return _raised_latex("".join(signs.get(sign, sign) for sign in spread + _raised(entry.note)))


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*<>`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", SPACE.sub(" ", text))


def _latex_text(text: str) -> str:
    escaped = "".join(LATEX.get(sign, sign) for sign in SPACE.sub(" ", text))
    return _raised_latex(escaped.replace("--", "-{}-"))  # of a command's options, and no dash


def _raised_latex(text: str) -> str:
    plain = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
    return re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"\\textsuperscript{{{found[0].translate(plain)}}}", text)


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"
