import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.datamodules.clips import BrokenClip, CaptionedClips, Clip, check_inside, window_around
from transporter_pl.errors import TransporterError
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=3, height=16, width=16, fps=8.0)
ROWS = [Clip(f"clip{i}", f"{i}.mp4", tuple(f"caption {k} of {i}" for k in range(10))) for i in range(4)]


@pytest.fixture
def root(tmp_path):
    """Files of four clips, grey level by number."""
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", torch.full((8, 3, 16, 16), number / 4), SPEC.fps, quality=0)
    return tmp_path


def test_a_clip_is_one_item_with_its_captions(root):
    data = CaptionedClips(root, ROWS, SPEC, "all")
    assert (len(data), data.ids, data.missing, data.broken) == (4, tuple(row.id for row in ROWS), (), ())
    for number, row in enumerate(ROWS):
        clip = data[number]
        assert (clip.id, clip.captions) == (row.id, row.captions)
        torch.testing.assert_close(clip.video, torch.full((3, 3, 16, 16), number / 4), atol=1.5 / 255, rtol=0)


def test_half_a_character_is_no_caption(root):
    data = CaptionedClips(root, [replace(ROWS[0], captions=("a \ud800 b",)), ROWS[1]], SPEC)
    assert (data.ids, [clip.id for clip in data.broken]) == ((ROWS[1].id,), [ROWS[0].id])
    assert len(CaptionedClips(root, [replace(ROWS[0], captions=("a \ud800 b",))], SPEC, "none")) == 1


@pytest.mark.parametrize("damage", [b"", b"no video"])
def test_a_damaged_file_is_an_error_with_its_name(damage, root):
    (root / "2.mp4").write_bytes(damage)
    data = CaptionedClips(root, ROWS, SPEC)
    assert len(data) == 4
    with pytest.raises(TransporterError, match=r"2\.mp4"):
        data[2]


def test_the_window_is_what_is_read(tmp_path):
    levels = torch.arange(16.0)[:, None, None, None].expand(-1, 3, 16, 16) / 16
    write_video(tmp_path / "a.mp4", levels, 8, quality=0)
    data = CaptionedClips(
        tmp_path, [Clip("a", "a.mp4", (), 1.0, 1.375), Clip("b", "a.mp4", (), 1.0, 1.15)], SPEC, "none"
    )
    torch.testing.assert_close(data[0].video[:, 0, 0, 0], torch.tensor([8, 9, 10]) / 16, atol=1.5 / 255, rtol=0)
    with pytest.raises(TransporterError, match=r"lasts 0\.15 s from 1 s on"):
        data[1]


def test_captions_by_choice(root):
    said = {choice: CaptionedClips(root, ROWS, SPEC, choice)[1].captions for choice in ("first", "all", "none")}
    assert said == {"first": ROWS[1].captions[:1], "all": ROWS[1].captions, "none": ()}


def test_random_captions_depend_on_the_seed_and_the_clip_alone(root):
    drawn = {
        seed: [c.captions for c in CaptionedClips(root, ROWS, SPEC, "random", seed=seed).clips] for seed in range(40)
    }
    assert drawn[3] == [c.captions for c in CaptionedClips(root, ROWS, SPEC, "random", seed=3).clips]
    for row, captions in zip(ROWS, zip(*drawn.values(), strict=True), strict=True):
        assert {caption for (caption,) in captions} <= set(row.captions)
        assert len(set(captions)) > 5
    assert any(len({caption.split(" of ")[0] for (caption,) in captions}) > 2 for captions in drawn.values())
    assert [c.captions for c in CaptionedClips(root, ROWS[2:], SPEC, "random", seed=3).clips] == drawn[3][2:]


def test_blank_captions_are_none(root):
    rows = [
        replace(ROWS[0], captions=("", " \n", "a", "b")),
        replace(ROWS[1], captions=("\t",)),
        Clip("clip2", "2.mp4"),
    ]
    data = CaptionedClips(root, rows, SPEC, "all")
    assert data.clips == (replace(rows[0], captions=("a", "b")),)
    assert data.broken == tuple(BrokenClip(row.id, "it has no caption") for row in rows[1:])
    assert CaptionedClips(root, rows, SPEC, "first").clips[0].captions == ("a",)
    assert CaptionedClips(root, rows, SPEC, "none").ids == ("clip0", "clip1", "clip2")


def test_clips_without_a_file_are_missing(root):
    (root / "1.mp4").unlink()
    (root / "1.mp4").symlink_to(root / "gone.mp4")
    (root / "2.mp4").unlink()
    (root / "2.mp4").mkdir()
    rows = [*ROWS, Clip("inside a file", "3.mp4/a.mp4", ("a",)), BrokenClip("spoilt", "its row is odd")]
    data = CaptionedClips(root, rows, SPEC)
    assert (data.ids, data.missing) == (("clip0", "clip3"), ("clip1", "clip2", "inside a file"))
    assert data.broken == (BrokenClip("spoilt", "its row is odd"),)


def test_names_that_no_file_can_have_are_broken(root):
    data = CaptionedClips(root, [*ROWS, Clip("long", "x" * 5000, ("a",)), Clip("odd", "\ud800.mp4", ("a",))], SPEC)
    assert [clip.id for clip in data.broken] == ["long", "odd"]
    assert all(clip.reason.startswith("its file can't be opened (") for clip in data.broken)


def test_links_in_the_root_are_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "0.mp4").rename(elsewhere / "kept.mp4")
    (root / "0.mp4").symlink_to(elsewhere / "kept.mp4")
    (root / "folder").symlink_to(elsewhere)
    data = CaptionedClips(root, [*ROWS, Clip("linked", "folder/kept.mp4", ("a",))], SPEC)
    assert torch.equal(data[0].video, data[4].video)


@pytest.mark.parametrize(
    "file",
    [
        "../a.mp4",
        "a/../../b.mp4",
        "/etc/passwd",
        "\\etc\\passwd",
        "a\\..\\b.mp4",
        "C:a.mp4",
        "c:/a.mp4",
        "//host/a/b",
        "a\0b",
    ],
)
def test_paths_that_lead_out_are_refused_with_their_row(file, root):
    with pytest.raises(TransporterError, match=r"^clip 'out': .* leads out of the folder of the videos; give"):
        CaptionedClips(root, [*ROWS, Clip("out", file, ("a",))], SPEC)


@given(parts=st.lists(st.sampled_from(["a", "..", "b.mp4", ".", "", "...", "/", "\\"]), min_size=1, max_size=6))
def test_what_is_let_through_stays_inside(parts, tmp_path_factory):
    file = "/".join(parts)
    try:
        check_inside(file, "row 1")
    except TransporterError:
        return
    assert (tmp_path_factory.getbasetemp() / file).resolve().is_relative_to(tmp_path_factory.getbasetemp().resolve())


@pytest.mark.parametrize("second", [ROWS[1], BrokenClip("clip1", "odd"), Clip("clip1", "gone.mp4")])
def test_two_clips_of_one_name_are_an_error(second, root):
    with pytest.raises(TransporterError, match="id: 'clip1' names two clips"):
        CaptionedClips(root, [*ROWS, second], SPEC)


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [(None, range(10)), (100, range(10)), (10, range(10)), (5, range(0, 10, 2)), (3, [0, 3, 6]), (1, [0])],
)
def test_a_limit_is_spread_over_the_clips_that_can_be_used(limit, chosen, root):
    usable = [Clip(f"usable{i}", "1.mp4", ("a",)) for i in range(10)]
    rows = [row for i, clip in enumerate(usable) for row in (clip, Clip(f"gone{i}", "gone.mp4", ("a",)))]
    data = CaptionedClips(root, rows, SPEC, limit=limit)
    assert data.clips == tuple(usable[i] for i in chosen)
    assert len(data.missing) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": "last"}, "captions: unknown 'last'.* Known: first, random, all, none"),
        ({"captions": "frist"}, "Did you mean 'first'?"),
        ({"limit": 0}, "limit: 0 is too small"),
        ({"root": "nowhere"}, "root: no folder 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_before_annotations_are_read(options, message, root):
    def rows():
        pytest.fail("the rows were asked for")
        yield

    with pytest.raises(TransporterError, match=message):
        CaptionedClips(**{"root": root, "rows": rows(), "video": SPEC, **options})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "of 0 annotated clips, 0 have no file in .* and 0 are of no use; give"),
        ([Clip("a", "gone.mp4", ("a",))], "of 1 annotated clips, 1 have no file in .* and 0 are of no use; give"),
        ([Clip("a", "1.mp4")], r"of 1 annotated clips, 0 have .* and 1 are of no use \(it has no caption\); give"),
    ],
)
def test_nothing_to_read_is_an_error(rows, message, root):
    with pytest.raises(TransporterError, match=f"root: {message}"):
        CaptionedClips(root, rows, SPEC)


def test_the_fingerprint_is_the_same_at_every_reading_and_place(root, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "clips"
    first = CaptionedClips(root, ROWS, SPEC).fingerprint
    assert CaptionedClips(root, iter(ROWS), SPEC).fingerprint == first
    root.rename(moved)
    assert CaptionedClips(moved, ROWS, SPEC).fingerprint == first


def _grow(root):
    with (root / "1.mp4").open("ab") as file:
        file.write(b"0")


CHANGES = {
    "sizes": lambda root, rows: _grow(root) or rows,
    "files that go": lambda root, rows: (root / "1.mp4").unlink() or rows,
    "order": lambda root, rows: rows[::-1],
    "ids": lambda root, rows: [replace(rows[0], id="another"), *rows[1:]],
    "files": lambda root, rows: [replace(rows[0], file="2.mp4"), *rows[1:]],
    "starts": lambda root, rows: [replace(rows[0], start=0.1), *rows[1:]],
    "ends": lambda root, rows: [replace(rows[0], end=0.9), *rows[1:]],
    "captions": lambda root, rows: [replace(rows[0], captions=("another",)), *rows[1:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_what_is_read(change, root):
    before = CaptionedClips(root, ROWS, SPEC).fingerprint
    assert CaptionedClips(root, CHANGES[change](root, ROWS), SPEC).fingerprint != before


def test_the_fingerprint_does_not_change_with_captions_that_are_not_used(root):
    rows = [replace(row, captions=(row.captions[0], "never taken")) for row in ROWS]
    assert CaptionedClips(root, rows, SPEC).fingerprint == CaptionedClips(root, ROWS, SPEC).fingerprint


def test_it_travels_to_other_processes(root):
    data = CaptionedClips(root, ROWS, SPEC)
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.clips, copy.fingerprint) == (data.clips, data.fingerprint)
    assert torch.equal(copy[1].video, data[1].video)


@given(
    centre=st.floats(-10, 110),
    duration=st.floats(0.1, 100),
    frames=st.integers(1, 200),
    fps=st.sampled_from([3, 8, 23.976]),
)
def test_a_window_lies_inside_and_round_its_time(centre, duration, frames, fps):
    start, end = window_around(centre, VideoSpec(frames, 16, 16, fps), duration)
    length = frames / fps
    assert 0 <= start <= end <= duration
    assert end - start == pytest.approx(min(length, duration))
    if length / 2 <= centre <= duration - length / 2:
        assert (start + end) / 2 == pytest.approx(centre)
    if length < duration:
        assert min(abs(start), abs(end - duration), abs((start + end) / 2 - centre)) == pytest.approx(0, abs=1e-9)
