import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.datamodules.vatex import VatexClips, parse_vatex
from transporter_pl.errors import TransporterError
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=3, height=16, width=16, fps=8.0)
YOUTUBE = st.text("abyzABYZ0189_-", min_size=11, max_size=11)
NAMES = ["Ptf_2VRj-V0_000122_000132", "nJ6KPT1uwe8_000047_000057", "-----------_000000_000010"]


def _annotate(folder, rows):
    path = folder / "annotations.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def _row(name, *captions):
    return {"videoID": name, "enCap": list(captions)}


def _captions(name, count=10):
    return [f"caption {number} of {name}" for number in range(count)]


@pytest.fixture
def folder(tmp_path):
    """Files of three clips, grey level by number, and annotations with ten captions each."""
    for number, name in enumerate(NAMES):
        write_video(tmp_path / f"{name}.mp4", torch.full((3, 3, 16, 16), number / 4), SPEC.fps, quality=0)
    _annotate(tmp_path, [_row(name, *_captions(name)) for name in NAMES])
    return tmp_path


def _clips(folder, **options):
    return VatexClips(folder, folder / "annotations.json", SPEC, **options)


@given(youtube=YOUTUBE, start=st.integers(0, 999999), end=st.integers(0, 999999))
def test_names_are_split_from_the_right(youtube, start, end, tmp_path_factory):
    path = _annotate(tmp_path_factory.mktemp("rows"), [_row(f"{youtube}_{start:06d}_{end:06d}", "a caption")])
    (row,) = parse_vatex(path)
    assert (row.youtube, row.start, row.end, row.captions) == (youtube, start, end, ("a caption",))
    assert row.id == f"{youtube}_{start:06d}_{end:06d}"


def test_rows_keep_their_order_and_captions_may_be_absent(tmp_path):
    chinese = {"videoID": NAMES[1], "chCap": ["一个人在跑步"]}
    rows = parse_vatex(_annotate(tmp_path, [_row(NAMES[0], "naïve", "b"), chinese, {"videoID": NAMES[2]}]))
    assert [row.id for row in rows] == NAMES
    assert [row.captions for row in rows] == [("naïve", "b"), (), ()]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "../../../etc_000000_000010",
        "../........_000000_000010",
        "abc/def/ghi_000000_000010",
        "abc\\def\\ghi_000000_000010",
        "C:abcdefghi_000000_000010",
        "/etc/passwd_000000_000010",
        "nJ6KPT1uwe8_000047_000057/..",
        "nJ6KPT1uwe8_000047_000057\n",
        "nJ6KPT1uwe8_47_57",
        "nJ6KPT1uwe8_٠٠٠٠٤٧_000057",
        "nJ6KPT1uwe_000047_000057",
        "",
        7,
        None,
    ],
)
def test_other_names_are_refused_with_their_place(name, tmp_path):
    path = _annotate(tmp_path, [_row(NAMES[0], "a"), _row(name, "b")])
    with pytest.raises(TransporterError, match=r"annotations\.json', row 1: videoID .* is not"):
        parse_vatex(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "can't be read as JSON"),
        (b"", "can't be read as JSON"),
        (b"[" * 100_000, "can't be read as JSON"),
        (b'["\xff"]', "can't be read as JSON"),
        (b"{}", "holds no list but a dict"),
        (b"null", "holds no list but a NoneType"),
        (b"[3]", "row 0: videoID None"),
        (b'[{"videoID": "nJ6KPT1uwe8_000047_000057", "enCap": "one string"}]', "row 0: enCap .* not a list of strings"),
        (b'[{"videoID": "nJ6KPT1uwe8_000047_000057", "enCap": [1]}]', "row 0: enCap .* not a list of strings"),
    ],
)
def test_files_of_another_kind_are_refused(content, message, tmp_path):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(TransporterError, match=message) as error:
        parse_vatex(path)
    assert str(path) in str(error.value)


def test_a_missing_file_or_folder_is_an_error(folder):
    with pytest.raises(TransporterError, match=r"none\.json"):
        VatexClips(folder, folder / "none.json", SPEC)
    with pytest.raises(TransporterError, match="root: no folder"):
        VatexClips(folder / "none", folder / "annotations.json", SPEC)


@pytest.mark.parametrize("option", ["captions", "language", "window"])
def test_unknown_choices_list_the_known_ones(option, folder):
    with pytest.raises(TransporterError, match=f"{option}: unknown 'zz'. Known: (first, random|en, zh|start, middle)"):
        _clips(folder, **{option: "zz"})


def test_clips_are_read_by_their_names(folder):
    data = _clips(folder)
    assert data.ids == tuple(NAMES)
    for number, name in enumerate(NAMES):
        clip = data[number]
        assert (clip.id, clip.captions) == (name, (f"caption 0 of {name}",))
        torch.testing.assert_close(clip.video, torch.full((3, 3, 16, 16), number / 4), atol=1.5 / 255, rtol=0)


def test_files_may_be_in_other_containers(folder):
    for name, suffix in zip(NAMES[:2], (".webm", ".mkv"), strict=True):
        (folder / f"{name}.mp4").rename(folder / f"{name}{suffix}")
    (folder / f"{NAMES[2]}.mkv").touch()  # the mp4 is taken
    data = _clips(folder)
    assert [clip.file for clip in data.clips] == [f"{NAMES[0]}.webm", f"{NAMES[1]}.mkv", f"{NAMES[2]}.mp4"]
    torch.testing.assert_close(data[1].video, torch.full((3, 3, 16, 16), 1 / 4), atol=1.5 / 255, rtol=0)


def test_clips_without_a_file_are_missing(folder):
    (folder / f"{NAMES[0]}.mp4").rename(folder / f"{NAMES[0]}.mp4.part")
    data = _clips(folder)
    assert (data.ids, data.missing, data.broken) == (tuple(NAMES[1:]), (NAMES[0],), ())


def test_clips_without_a_caption_are_broken(folder):
    _annotate(folder, [{"videoID": NAMES[0], "chCap": ["一"]}, _row(NAMES[1]), _row(NAMES[2], "a")])
    data = _clips(folder)
    assert data.broken == tuple(BrokenClip(name, "it has no caption") for name in NAMES[:2])
    assert (data.ids, data.missing) == ((NAMES[2],), ())


def test_chinese_captions_by_language(folder):
    _annotate(folder, [{"videoID": name, "enCap": ["a"], "chCap": [f"一 {name}"]} for name in NAMES])
    assert [clip.captions for clip in _clips(folder, language="zh").clips] == [(f"一 {name}",) for name in NAMES]
    assert {clip.captions for clip in _clips(folder).clips} == {("a",)}


def test_the_private_test_has_no_captions(folder):
    _annotate(folder, [{"videoID": name} for name in NAMES])
    assert _clips(folder, captions="none")[1].captions == ()
    with pytest.raises(TransporterError, match=r"it has no caption.* captions: none"):
        _clips(folder)


def test_the_window_is_at_the_start_or_in_the_middle(folder):
    levels = torch.arange(80.0)[:, None, None, None].expand(-1, 3, 16, 16) / 80
    write_video(folder / f"{NAMES[0]}.mp4", levels, SPEC.fps, quality=0)
    for window, first in (("start", 0), ("middle", 38)):  # 10 s, whose middle is between frames 39 and 40
        video = _clips(folder, window=window)[0].video
        expected = torch.arange(first, first + 3) / 80
        torch.testing.assert_close(video[:, 0, 0, 0], expected, atol=1.5 / 255, rtol=0)


def test_a_limit_is_spread(folder):
    assert _clips(folder, limit=2).ids == (NAMES[0], NAMES[1])
