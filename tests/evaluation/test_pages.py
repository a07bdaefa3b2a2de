"""The pages side by side, read as a browser would."""

import shutil

import av
import pytest
import torch
from documents import Document

from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.shapemotion.world import render, sample_scene
from transporter_pl.evaluation.figures import Cell, Figures, Heading, Table
from transporter_pl.evaluation.pages import compare, write_pages
from transporter_pl.evaluation.samples import Case, Drawn

PAIRS = (Pair("left", "right"), Pair("left", "right"), Pair("<small>", "large & big"))
METHODS = ("TRANSPORTER (Φ)", "A/M & <b>")


def drawn_of(video, positive):
    captions = tuple(f"an <i>oval</i> & {row} of {positive}" for row in range(len(video)))
    shares = torch.full((len(video),), positive)
    return Drawn(video, captions, shares, torch.tensor([0.11, 0.12, 0.13]), 6.0, 40)


@pytest.fixture(scope="module")
def clips():
    draws = torch.Generator().manual_seed(0)
    return render(sample_scene(len(PAIRS), draws), 5, 32, draws)


@pytest.fixture(scope="module")
def pages(clips):
    cases = [Case(pair, "a <red> {} oval", str(row), clips[row]) for row, pair in enumerate(PAIRS)]
    drawn = {label: drawn_of(clips, positive) for label, positive in zip(METHODS, (0.91, 0.27), strict=True)}
    with_real = compare("gemma3", cases, clips.flip(1), drawn, 8, drawn_of(clips, 0.98))
    return *with_real, *compare("phi <4>", cases, clips.flip(1), drawn, 8)


@pytest.fixture(scope="module")
def table():
    rows = {"ours": METHODS[0], "am": METHODS[1]}
    cells = tuple(
        Cell(vlm, row, 0, Figures({"fvd": value}, {}), 1.0, 1)
        for vlm, value in (("gemma3", 12.5), ("phi <4>", 31.5))
        for row in rows
    )
    return Table("Quality <b>", (Heading("fvd", "FVD", "down", 1),), cells, rows, ("gemma3", "phi <4>"), {}, {})


@pytest.fixture(scope="module")
def written(pages, table, tmp_path_factory):
    return write_pages(tmp_path_factory.mktemp("pages"), pages, table)


def read(path):
    return Document(path.read_text(encoding="utf-8"))


def pages_of(index):
    return [index.parent / link for link in read(index).links if link.endswith(".html")]


def test_a_comparison_a_pair(pages):
    assert [(page.vlm, page.pair.name, len(page.scenes)) for page in pages] == [
        *(("gemma3", "left:right", 2), ("gemma3", "<small>:large & big", 1)),
        *(("phi <4>", "left:right", 2), ("phi <4>", "<small>:large & big", 1)),
    ]


def test_every_clip_is_its_case_s(pages, clips):
    """The start, the real clip, and then the methods, of the right case."""
    first, second = pages[0].scenes[1], pages[1].scenes[0]
    for row, scene in ((1, first), (2, second)):
        assert [panel.label for panel in scene.shown] == ["clip of ε−", "real clip of ε+", *METHODS]
        for panel, clip in zip(scene.shown, (clips.flip(1), clips, clips, clips), strict=True):
            assert torch.equal(panel.video, clip[row])
    start, real, ours, _ = first.shown
    assert (start.caption, start.positive, start.seconds) == ("", pytest.approx(0.12), None)
    assert (real.caption, real.positive) == ("an <i>oval</i> & 1 of 0.98", pytest.approx(0.98))
    assert (ours.caption, ours.seconds) == ("an <i>oval</i> & 1 of 0.91", 2.0)


def test_what_was_not_asked_is_not_shown(pages):
    real = pages[2].scenes[0].shown[1]
    assert (real.caption, real.positive) == ("", None)


def test_all_links_lead_somewhere(written):
    assert len(pages_of(written)) == 4
    for page in (written, *pages_of(written)):
        links = read(page).links
        assert links
        for link in links:
            assert (page.parent / link).is_file(), link
        assert "http" not in page.read_text(encoding="utf-8")


def test_every_page_leads_back(written):
    for page in pages_of(written):
        assert written.resolve() in [(page.parent / link).resolve() for link in read(page).links]


def test_pages_that_are_no_longer_asked_for_go(written, pages, table, tmp_path):
    again = shutil.copytree(written.parent, tmp_path / "again")
    index = write_pages(again, pages[:1], table)
    assert sorted(again.glob("*/*/index.html")) == pages_of(index)
    assert len(pages_of(index)) == 1
    assert not list(again.glob("phi*/*/*"))


def test_a_page_shows_all_clips_and_numbers(written, pages):
    page, text = pages_of(written)[0], read(pages_of(written)[0]).text
    videos = [link for link in read(page).links if link.endswith(".mp4")]
    assert len(set(videos)) == 2 * 4
    with av.open(str(page.parent / videos[0])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    for scene in pages[0].scenes:
        for panel in scene.shown:
            assert panel.label in text
            assert panel.caption in text
    for number in ("91 %", "27 %", "98 %", "12 %", "2 s", "12.5"):
        assert number in text, number
    assert "31.5" not in text  # the other VLM's


def test_the_index_has_the_whole_table(written):
    text = read(written).text
    for word in ("Quality <b>", "12.5", "31.5", "phi <4>", "<small> → large & big"):
        assert word in text, word


def test_words_are_no_markup(written):
    for page in (written, *pages_of(written)):
        tags = {tag for tag, _ in read(page).tags}
        assert not tags & {"i", "small", "red"}
    page = pages_of(written)[1].read_text(encoding="utf-8")
    words = '<b class="negative">&lt;small&gt;</b>→<b class="positive">large &amp; big</b>'
    assert f"a &lt;red&gt; {words} oval" in page


def test_pages_are_accessible(written):
    for path in (written, *pages_of(written)):
        document = read(path)
        assert ("html", {"lang": "en"}) in document.tags
        assert [tag for tag, _ in document.tags].count("h1") == 1
        for tag, attributes in document.tags:
            if tag == "video":
                assert attributes["aria-label"]
                assert {"controls", "muted", "playsinline"} <= set(attributes)
            if tag == "img" and path != written:  # the index's stand beside their names
                assert all(label in attributes["alt"] for label in METHODS)


def test_writing_again_leaves_nothing_aside(written):
    assert not [path for path in written.parent.rglob("*") if path.name.startswith(".")]
