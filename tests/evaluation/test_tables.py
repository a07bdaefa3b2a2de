"""The tables' arithmetic against numpy, and their texts as those read them who must: LaTeX, Markdown, a terminal."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from transporter_pl.evaluation.figures import Cell, Figures, Heading, Spread, Table, versions
from transporter_pl.evaluation.tables import console_tables, html, latex, markdown, write_tables

NASTY = "50% of_{x}^2 & #1 ~ $y$ \\z | [a] *b* <c> ±Φφ→"
FVD = Heading("fvd", "FVD", "down", 1, "FVD on features of a toy.")
CLIP = Heading("clip", "CLIP_v", "up", 2)
AESTHETIC = Heading("aesthetic", "aesthetic", "up", 2)
SECONDS = Heading("seconds", "s / video", None, 2)
LACK = "head.pth is not here; get it from a_place & put it there"


def cell(vlm, row, seed, fvd, clip=1.0):
    values = {"fvd": fvd, "clip": clip, "aesthetic": None, "seconds": 2.0}
    return Cell(vlm, row, seed, Figures(values, {"aesthetic": LACK}), 3.0, 40)


@pytest.fixture
def table():
    """Two VLMs; of the second, one row has not run."""
    figures = {"real": (1.0, 1.0), "ours": (10.0, 13.0), "am": (200.0, 500.0), "maco": (90.0, 110.0)}
    cells = [cell("gemma3", row, seed, fvd) for row, pair in figures.items() for seed, fvd in enumerate(pair)]
    cells += [cell("phi4", "ours", 0, 40.0, -0.001), cell("phi4", "am", 0, 39.96, -0.0011)]
    rows = {"real": "real clips", "ours": "TRANSPORTER", "am": "AM", "maco": NASTY}
    settings = {"steps": 20, "pairs": ["left:right"]}
    heads = (FVD, CLIP, AESTHETIC, SECONDS)
    return Table("Quality & more", heads, tuple(cells), rows, ("gemma3", "phi4"), settings, versions(), ("real",))


def lines_of(table):
    """Rows of the Markdown table as lists of their places."""
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    return [[place.strip() for place in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_spread_is_mean_and_sample_deviation(values):
    cells = tuple(cell("v", "r", seed, value) for seed, value in enumerate(values))
    spread = Table("t", (FVD,), cells, {"r": "r"}, ("v",), {}, {}).spread("v", "r", "fvd")
    assert spread.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert spread.count == len(values)
    if len(values) == 1:
        assert spread.deviation is None
    else:
        assert spread.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-6)


def test_what_has_no_figure_has_no_spread(table):
    assert table.spread("gemma3", "ours", "aesthetic") is None
    assert table.spread("phi4", "maco", "fvd") is None


def test_a_seed_without_the_figure_does_not_count():
    cells = cell("v", "r", 0, 4.0), cell("v", "r", 1, None), cell("v", "r", 2, 6.0)
    table = Table("t", (FVD,), cells, {"r": "r"}, ("v",), {}, {})
    assert table.spread("v", "r", "fvd") == Spread(5.0, pytest.approx(2**0.5), 2)


def test_best_is_the_best_mean_of_those_that_compete(table):
    assert table.best("gemma3", FVD) == {"ours"}  # real clips, with 1.0, are no method
    assert table.best("gemma3", CLIP) == {"ours", "am", "maco"}
    assert table.best("gemma3", SECONDS) == frozenset()
    assert table.best("gemma3", AESTHETIC) == frozenset()


def test_what_prints_alike_is_as_good(table):
    assert table.best("phi4", FVD) == {"ours", "am"}  # 40.0 and 39.96


def test_one_alone_is_not_the_best():
    lonely = Table("t", (FVD,), (cell("v", "r", 0, 1.0),), {"r": "r"}, ("v",), {}, {})
    assert lonely.best("v", FVD) == frozenset()


def test_markdown_is_a_table(table):
    heads, rule, *rows = lines_of(table)
    assert heads == ["VLM", "method", "FVD¹\u00a0↓", "CLIP_v\u00a0↑", "aesthetic\u00a0↑", "s / video"]
    assert rule == ["---", "---", "---:", "---:", "---:", "---:"]
    assert [row[0] for row in rows] == ["gemma3", "", "", "", "phi4", "", "", ""]
    assert rows[0][1:] == ["real clips", "1.0 ±0.0", "1.00 ±0.00", "–²", "2.00 ±0.00"]
    assert rows[1][2] == f"**11.5** ±{np.std([10, 13], ddof=1):.1f}"
    assert rows[5][2:] == ["**40.0**", "**0.00**", "–²", "2.00"]  # one seed; no minus before a zero
    assert rows[7][2:] == ["", "", "", ""]  # has not run


def test_markdown_says_why_and_with_what(table):
    text = markdown(table)
    assert "¹ FVD on features of a toy." in text
    assert "² aesthetic was not computed: head.pth is not here; get it from a_place & put it there" in text
    assert "over 1 to 2 seeds." in text
    assert f"torch {versions()['torch']}" in text
    assert '"steps": 20' in text


def test_json_holds_everything(table, tmp_path):
    write_tables(tmp_path, table)
    data = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert len(data["cells"]) == len(table.cells)
    assert data["cells"][0]["figures"]["missing"] == {"aesthetic": LACK}
    assert data["spreads"]["gemma3"]["am"]["fvd"] == {
        "mean": 350.0,
        "deviation": np.std([200, 500], ddof=1),
        "count": 2,
    }
    assert data["spreads"]["phi4"]["maco"]["fvd"] is None
    assert data["settings"] == table.settings
    assert set(data["versions"]) == {
        *("transporter-pl", "python", "torch", "transformers", "diffusers", "lightning", "torchmetrics")
    }
    write_tables(tmp_path, table)
    assert {path.name for path in tmp_path.iterdir()} == {"table.json", "table.md", "table.tex"}


def unescaped(text):
    """What LaTeX reads: comments and escaped signs left out."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    return re.sub(r"\\[&%$#_{}\\]", "", "\n".join(lines))


def assert_balanced(text):
    read, depth = unescaped(text), 0
    for sign in read:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    assert read.count("$") % 2 == 0
    environments = re.findall(r"\\(begin|end){(\w+)}", text)
    assert environments == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]


def test_latex_rows_have_a_place_a_column(table):
    body = latex(table).split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.strip().splitlines() if line != r"\midrule"]
    assert len(rows) == 1 + 8
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {5}
    assert all(row.endswith(r" \\") for row in rows)
    assert r"\textbf{11.5} $\pm$2.1" in rows[2]
    assert r"--\textsuperscript{2}" in rows[2]
    assert r"FVD\textsuperscript{1}~$\downarrow$ & CLIP\_v~$\uparrow$" in rows[0]
    assert_balanced(latex(table))


@given(st.text(max_size=30))
def test_no_label_breaks_latex(label):
    heads = (Heading("fvd", label, "down", 1, label),)
    cells = (cell("v", "a", 0, -1.0), cell("v", "b", 0, None))
    text = latex(Table(label, heads, cells, {"a": label, "b": label}, ("v",), {"label": label}, {}))
    assert_balanced(text)
    assert "%" not in unescaped(text).replace("{!}{%", "")


def test_latex_escapes_its_own_signs(table):
    row = next(line for line in latex(table).splitlines() if r"50\%" in line)
    escaped = r"50\% of\_\{x\}\textasciicircum{}2 \& \#1 \textasciitilde{} \$y\$ \textbackslash{}z \textbar{} {[}a{]} "
    assert escaped + r"*b* $<$c$>$ $\pm$$\Phi$$\varphi$$\to$" in row
    assert "$-$1.0" in latex(Table("t", (FVD,), (cell("v", "r", 0, -1.0),), {"r": "r"}, ("v",), {}, {}))


def test_a_mean_of_fewer_seeds_says_why():
    """A seed whose figure could not be computed is no part of it, and the note is there."""
    lost = Cell("v", "ours", 1, Figures({"fvd": None}, {"fvd": LACK}), 3.0, 40)
    whole = Cell("v", "ours", 0, Figures({"fvd": 2.0}, {}), 3.0, 40)
    found = Table("t", (FVD,), (whole, lost), {"ours": "ours"}, ("v",), {}, {})
    assert lines_of(found)[2] == ["v", "ours", "2.0²"]
    assert "² FVD was not computed: head.pth is not here" in markdown(found)


@pytest.mark.parametrize(("width", "count"), [(100, 1), (64, 2), (52, 4), (40, 4)])
def test_the_terminal_shows_every_figure_in_as_many_tables_as_it_takes(table, width, count):
    console = Console(file=io.StringIO(), width=width)
    parts = list(console_tables(table, console))
    assert len(parts) == count
    for part in parts:
        console.print(part)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for figure in ("11.5", "±2.1", "350.0", "±212.1", "100.0", "–²", "[a]"):
        assert any(figure in line for line in lines), figure


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.words = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_html_shows_the_vlms_that_are_asked_for(table):
    words = Tags(html(table, ["gemma3"])).words
    assert NASTY in words
    assert "gemma3" in words
    assert "phi4" not in words
    assert "11.5" in words


def test_no_cell_yet():
    table = Table("t", (FVD,), (), {"r": "r"}, ("v",), {}, {})
    assert lines_of(table)[2:] == [["v", "r", ""]]
    assert_balanced(latex(table))
