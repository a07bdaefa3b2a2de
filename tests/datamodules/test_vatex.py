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
    with pytest.raises(TransporterError, match="captions: 'last' is not one of first, random, all"):
        _clips(folder, captions="last")


def test_a_clip_is_a_batch_of_one(folder):
    data = _clips(folder)
    assert len(data) == len(NAMES)
    for number, name in enumerate(NAMES):
        clips = data[number]
        assert (clips.ids, clips.captions) == ((name,), (f"caption 0 of {name}",))
        torch.testing.assert_close(clips.video, torch.full((1, 3, 3, 16, 16), number / 4), atol=1.5 / 255, rtol=0)


def test_clips_without_a_file_are_missing(folder):
    (folder / f"{NAMES[0]}.mp4").rename(folder / f"{NAMES[0]}.webm")
    (folder / f"{NAMES[1]}.mp4").unlink()
    (folder / f"{NAMES[1]}.mp4").symlink_to(folder / "gone.mp4")
    data = _clips(folder)
    assert data.missing == tuple(NAMES[:2])
    assert (data.ids, data.broken) == ((NAMES[2],), ())
    assert data.fingerprint


def test_clips_without_a_caption_are_broken(folder):
    _annotate(folder, [{"videoID": NAMES[0]}, _row(NAMES[1]), _row(NAMES[2], "a")])
    data = _clips(folder)
    assert data.broken == tuple(BrokenClip(name, "it has no English caption") for name in NAMES[:2])
    assert (data.ids, data.missing) == ((NAMES[2],), ())


@pytest.mark.parametrize("rows", [[], [_row(NAMES[0])], [_row("abcdefghijk_000000_000010", "a")]])
def test_nothing_to_read_is_an_error(rows, folder):
    _annotate(folder, rows)
    with pytest.raises(TransporterError, match=f"root: of the {len(rows)} clips in"):
        _clips(folder)


def test_all_captions_are_items_of_their_own(folder):
    data = _clips(folder, captions="all")
    assert data.ids == tuple(f"{name}#{number}" for name in NAMES for number in range(10))
    assert data.captions == tuple(caption for name in NAMES for caption in _captions(name))
    torch.testing.assert_close(data[10].video, data[19].video, atol=0, rtol=0)
    assert not torch.equal(data[9].video, data[10].video)


def test_random_captions_depend_on_the_seed_and_the_clip_alone(folder):
    drawn = {seed: _clips(folder, captions="random", seed=seed).captions for seed in range(40)}
    assert drawn[3] == _clips(folder, captions="random", seed=3).captions
    for name, captions in zip(NAMES, zip(*drawn.values(), strict=True), strict=True):
        assert set(captions) <= set(_captions(name))
        assert len(set(captions)) > 5
    _annotate(folder, [_row(NAMES[2], *_captions(NAMES[2]))])
    assert _clips(folder, captions="random", seed=3).captions == drawn[3][2:]


def test_the_fingerprint_is_the_same_at_every_reading(folder):
    assert _clips(folder).fingerprint == _clips(folder).fingerprint


def _grow(folder):
    with (folder / f"{NAMES[1]}.mp4").open("ab") as file:
        file.write(b"0")


@pytest.mark.parametrize(
    "change",
    [
        _grow,
        lambda folder: (folder / f"{NAMES[1]}.mp4").unlink(),
        lambda folder: _annotate(folder, [_row(name, *_captions(name)) for name in NAMES[::-1]]),
        lambda folder: _annotate(folder, [_row(name, f"another {name}") for name in NAMES]),
    ],
)
def test_the_fingerprint_changes_with_sizes_clips_order_and_captions(change, folder):
    before = _clips(folder).fingerprint
    change(folder)
    assert _clips(folder).fingerprint != before


def test_the_fingerprint_does_not_change_with_captions_that_are_not_used(folder):
    before = _clips(folder).fingerprint
    _annotate(folder, [_row(name, _captions(name)[0], "never taken") for name in NAMES])
    assert _clips(folder).fingerprint == before
