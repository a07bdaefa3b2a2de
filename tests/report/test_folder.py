"""The folder and its page, read as a browser would."""

import base64
import io
import json

import av
import pytest
from documents import Document
from rich.console import Console

from transporter_pl.report.folder import write_report
from transporter_pl.report.terminal import show


@pytest.fixture(scope="module")
def report(explanation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "left"
    return write_report(folder, explanation), folder


def test_everything_is_there(report):
    page, folder = report
    names = {p.name for p in folder.iterdir()}
    videos = {"phi_0.mp4", "phi_0.5.mp4", "phi_1.mp4"}
    assert names == videos | {"filmstrip.png", "calibration.svg", "explanation.json", "index.html"}
    assert page == folder / "index.html"


def test_page_needs_no_server(report):
    page, folder = report
    document = Document(page.read_text(encoding="utf-8"))
    assert len(document.links) == 5
    for link in document.links:
        assert (folder / link).is_file(), link
    assert "http" not in page.read_text(encoding="utf-8")


def test_page_says_what_was_measured(report, explanation):
    page, _ = report
    text = Document(page.read_text(encoding="utf-8")).text
    for word in ("red", "green", "φ = 0.5", "91 %", "0.880", "shapemotion-wan", "<vlm>", *explanation.coupled.captions):
        assert word in text, word


def test_the_pair_stands_in_its_slot(report, explanation):
    """Not in the first word that happens to hold its letters."""
    assert explanation.caption == "a scattered red oval moves left"
    page = report[0].read_text(encoding="utf-8")
    assert 'a scattered <b class="negative">red</b>→<b class="positive">green</b> oval moves left' in page


def test_the_table_shows_both_routes(report):
    document = Document(report[0].read_text(encoding="utf-8"))
    assert sum(tag == "th" for tag, _ in document.tags) == 8 + 3
    heads = (
        "P(green) through Φ P(green) decoded and re-encoded Δϑ through Φ Δϑ decoded and re-encoded what else changed "
        "caption through Φ caption decoded and re-encoded"
    )
    assert heads in document.text
    for row in (
        "0.5 0.400 0.412 0.450 0.400 0.0012 a <yellow> oval & more an amber oval",
        "1 0.910 0.873 0.880 0.800 0.0034 a green oval an olive",
    ):
        assert row in document.text


def test_page_is_accessible(report):
    document = Document(report[0].read_text(encoding="utf-8"))
    for tag, attributes in document.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "video":
            assert attributes["aria-label"].startswith("φ = ")
            assert {"controls", "muted", "playsinline"} <= set(attributes)  # plays without a script too
    assert ("html", {"lang": "en"}) in document.tags
    headings = [tag for tag, _ in document.tags if tag in {"h1", "h2", "h3"}]
    assert headings == ["h1", "h2", "h2", "h2"]


def test_figures_as_json(report, explanation):
    figures = json.loads((report[1] / "explanation.json").read_text(encoding="utf-8"))
    assert figures["pair"] == "red:green"
    assert figures["phi"] == [0, 0.5, 1]
    assert figures["through_coupling"]["captions"] == list(explanation.coupled.captions)
    assert figures["decoded_and_reencoded"]["positive"] == explanation.reencoded.positive.tolist()


def test_writing_again_replaces(explanation, tmp_path):
    first = explanation.save(tmp_path).read_text()
    assert explanation.save(tmp_path).read_text() == first
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_videos_that_the_page_does_not_show_go(explanation, tmp_path):
    for name in ("phi_0.25.mp4", "phi_-1e-05.mp4", "phi_1.mp4", "mine.mp4", "phi_of_mine.mp4"):
        (tmp_path / name).write_bytes(b"old")
    explanation.save(tmp_path)
    names = {p.name for p in tmp_path.glob("*.mp4")}
    assert names == {"phi_0.mp4", "phi_0.5.mp4", "phi_1.mp4", "mine.mp4", "phi_of_mine.mp4"}
    assert (tmp_path / "phi_1.mp4").stat().st_size > 3


def test_did_it_move(report, explanation):
    """The sentence, the figures and the warnings, on the page and as JSON."""
    text = Document(report[0].read_text(encoding="utf-8")).text
    assert explanation.sentence in text
    assert "Monotonicity (Spearman's ρ) 1.00 · saturation not reached · what else changed, at most 0.0034" in text
    assert "where red:green <saturated>." in text
    assert "also small:large φ = 0.5" in text
    figures = json.loads((report[1] / "explanation.json").read_text(encoding="utf-8"))
    assert figures["sentence"] == explanation.sentence
    assert figures["warnings"] == list(explanation.warnings)
    assert figures["calibration"]["reencoded"] == explanation.reencoded.divergence.tolist()
    assert (figures["calibration"]["moved"], figures["calibration"]["saturation"]) == (True, None)


def test_a_notebook_shows_it_whole(explanation, tmp_path):
    document = Document(explanation._repr_html_())
    assert len(document.links) == 3
    for link in document.links:
        head, _, data = link.partition(",")
        assert head == "data:video/mp4;base64"
        (tmp_path / "clip.mp4").write_bytes(base64.b64decode(data))
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 9
    for said in ("a <yellow> oval & more", explanation.sentence, "φ = 0.5", "<saturated>", "P(green)"):
        assert said in document.text
    tags = {tag for tag, _ in document.tags}
    assert not tags & {"script", "link", "html", "body"}


def test_the_terminal_says_it_too(explanation):
    console = Console(file=io.StringIO(), width=100, markup=False, highlight=False)
    show(explanation, console)
    warning, heads, *rows = console.file.getvalue().splitlines()
    assert warning == f"warning: {explanation.warnings[0]}"
    assert heads.split("  ")[0].strip() == "φ"
    assert [row.split() for row in rows[1:3]] == [
        ["0.5", "0.400", "0.450", "0.400", "0.0012"],
        ["1", "0.910", "0.880", "0.800", "0.0034"],
    ]
    assert rows[3].startswith("Monotonicity (Spearman's ρ) 1.00 · saturation not reached · what else changed, at most")
    assert rows[4:] == [explanation.sentence]


def test_filmstrip_alone(explanation, tmp_path):
    assert explanation.filmstrip(tmp_path / "deep" / "strip.pdf").read_bytes().startswith(b"%PDF")
