import csv
import json

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from transporter_pl.datamodules.folder import FolderClips
from transporter_pl.errors import TransporterError
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=3, height=16, width=16, fps=8.0)
KINDS = ["csv", "tsv", "jsonl"]


@pytest.fixture
def root(tmp_path):
    """Videos in two folders, grey level by frame."""
    levels = torch.arange(16.0)[:, None, None, None].expand(-1, 3, 16, 16) / 16
    write_video(tmp_path / "videos" / "a.mp4", levels, SPEC.fps, quality=0)
    for name in ("b/c.webm", "b/d.e.MKV"):
        (tmp_path / "videos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "videos" / name).touch()
    return tmp_path / "videos"


def _write(root, rows, kind="csv", encoding="utf-8"):
    """Rows as dictionaries, in one of the kinds of files."""
    path = root.parent / f"captions.{kind}"
    with path.open("w", encoding=encoding, newline="") as file:
        if kind == "jsonl":
            file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        else:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            table = csv.DictWriter(file, columns, delimiter="," if kind == "csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    return path


def _row(video, caption, **window):
    return {"video": video, "caption": caption, **window}


def test_without_a_file_all_videos_are_read_without_captions(root):
    for name in ("b/notes.txt", "._a.mp4", "b/.hidden.mkv"):
        (root / name).touch()
    (root / "b.mp4").mkdir()
    data = FolderClips(root, SPEC)
    assert [clip.file for clip in data.clips] == ["a.mp4", "b/c.webm", "b/d.e.MKV"]
    assert (data.ids, data.missing) == (("a", "b/c", "b/d.e"), ("b",))
    assert data[0].captions == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_rows_of_a_video_are_captions_of_a_clip(kind, encoding, root):
    rows = [
        _row("b/c.webm", 'one, "naïve"'),
        _row("./a.mp4", "two\tthree"),
        _row("b//c.webm", "一"),
        _row("a.mp4", " "),
    ]
    data = FolderClips(root, SPEC, _write(root, rows, kind, encoding), "all")
    assert [(clip.id, clip.file, clip.captions) for clip in data.clips] == [
        ("b/c", "b/c.webm", ('one, "naïve"', "一")),
        ("a", "a.mp4", ("two\tthree",)),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_clips_of_their_own(kind, root):
    windows = [(0.5, 1.0), (0.5, 1.0), (0, 0.5), ("", 0.5), (1, ""), ("", "")]
    rows = [_row("a.mp4", f"{i}", start=start, end=end) for i, (start, end) in enumerate(windows)]
    data = FolderClips(root, SPEC, _write(root, rows, kind), "all")
    assert data.ids == ("a@0.5-1", "a@0-0.5", "a@1-", "a")
    assert [clip.captions for clip in data.clips] == [("0", "1"), ("2", "3"), ("4",), ("5",)]
    for index, first in ((0, 4), (1, 0), (2, 8)):
        expected = torch.arange(first, first + 3) / 16
        torch.testing.assert_close(data[index].video[:, 0, 0, 0], expected, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_may_be_given(kind, root):
    rows = [_row("a.mp4", "x", id="mine"), _row("a.mp4", "y", id="mine"), _row("b/c.webm", "z", id="")]
    assert FolderClips(root, SPEC, _write(root, rows, kind)).ids == ("mine", "b/c")


@given(start=st.floats(0, 1e7), length=st.floats(0.001, 1e7))
@example(start=12345.678, length=0.001)
def test_windows_of_any_length_keep_their_names_apart(start, length, tmp_path_factory):
    root = tmp_path_factory.mktemp("any") / "videos"
    root.mkdir()
    (root / "a.mp4").touch()
    windows = [(start, start + length), (start, start + 3 * length), (start + length, start + 3 * length)]
    rows = [_row("a.mp4", "x", start=begin, end=end) for begin, end in windows]
    data = FolderClips(root, SPEC, _write(root, rows))
    assert len(set(data.ids)) == 3
    assert [(clip.start, clip.end) for clip in data.clips] == windows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": ""}, "video: '' names no file"),
        ({"video": "."}, "video: '.' names no file"),
        ({"video": "../a.mp4"}, r"video: '\.\./a\.mp4' leads out"),
        ({"video": "/a.mp4"}, r"video: '/a\.mp4' leads out"),
        ({"start": "soon"}, "start: 'soon' is no number of seconds"),
        ({"start": -1}, "start: '?-1'? is no number of seconds"),
        ({"start": "nan"}, "start: 'nan' is no number of seconds"),
        ({"end": "inf"}, "end: 'inf' is no number of seconds"),
        ({"start": 2, "end": 2}, "end: 2 is not after the start, 2"),
        ({"video": "a.mp4", "id": "other"}, "id: 'other', but an earlier row of this video and window has 'mine'"),
    ],
)
def test_a_wrong_row_is_named_with_file_line_and_column(kind, row, message, root):
    first = _row("a.mp4", "x", start="", end="", id="mine")
    path = _write(root, [first, {**first, "video": "b/c.webm", **row}], kind)
    line = 2 if kind == "jsonl" else 3
    with pytest.raises(
        TransporterError, match=rf"^captions_file: '.*captions\.{kind}', line {line}, {message}"
    ) as error:
        FolderClips(root, SPEC, path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[" * 100_000, "line 2 is no JSON"),
        ("3", "line 2: no 'video' in it"),
        ('{"video": "a.mp4"}', "line 2: no 'caption' in it"),
        ('{"video": 3, "caption": "x"}', "line 2, video: 3 is no text"),
        ('{"video": "a.mp4", "caption": ["x"]}', r"line 2, caption: \['x'\] is no text"),
        ('{"video": "b/c.webm", "caption": "x", "start": true}', "line 2, start: True is no number"),
        ('{"video": "b/c.webm", "caption": "x", "start": []}', r"line 2, start: \[\] is no number"),
    ],
)
def test_a_line_that_is_no_row_is_named(line, message, root):
    path = root.parent / "captions.jsonl"
    path.write_text(f'{{"video": "a.mp4", "caption": "x"}}\n{line}\n')
    with pytest.raises(TransporterError, match=message):
        FolderClips(root, SPEC, path)


def test_empty_lines_and_null_are_passed_over(root):
    path = root.parent / "captions.jsonl"
    path.write_text('\n{"video": "a.mp4", "caption": null, "start": null}\n\n{"video": "a.mp4", "caption": "x"}\n')
    assert FolderClips(root, SPEC, path).clips[0].captions == ("x",)


@pytest.mark.parametrize("name", ["captions.txt", "captions"])
def test_other_kinds_of_files_are_refused(name, root):
    with pytest.raises(TransporterError, match=r"captions_file: .* is of an unknown kind; give a"):
        FolderClips(root, SPEC, root.parent / name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_what_can_not_be_read_is_an_error(kind, content, root):
    path = root.parent / f"captions.{kind}"
    if content:
        path.write_bytes(content)
    with pytest.raises(TransporterError, match=rf"captions_file: .*captions\.{kind}' can't be read"):
        FolderClips(root, SPEC, path)


def test_captions_are_needed_unless_none_are_wanted(root):
    path = _write(root, [{"video": "a.mp4"}])
    with pytest.raises(TransporterError, match="line 1: no column 'caption' but video"):
        FolderClips(root, SPEC, path)
    assert FolderClips(root, SPEC, path, captions="none").ids == ("a",)


def test_missing_videos_are_listed(root):
    data = FolderClips(root, SPEC, _write(root, [_row("a.mp4", "x"), _row("gone.mp4", "y")]))
    assert (data.ids, data.missing) == (("a",), ("gone",))
