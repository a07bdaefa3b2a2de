import pytest
import torch

from transporter_pl.datamodules.lavib import LavibClips
from transporter_pl.errors import TransporterError
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=9, height=16, width=16, fps=8.0)
HEADER = '"name","shot","tmp_crop","vrt_crop","hrz_crop"'
SEGMENTS = {"5998_shot0_8_0_0": '"5998","0","8","0","0"', "12_shot31_10_1_1": '"12","31","10","1","1"'}


def _annotate(root, *lines, name="train", header=HEADER):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture
def root(tmp_path):
    """Two segments of a second at 60 fps, grey level by frame, and a third that is not there."""
    levels = torch.arange(60.0)[:, None, None, None].expand(-1, 3, 16, 16) / 60
    for segment in SEGMENTS:
        write_video(tmp_path / "segments" / segment / "vid.mp4", levels, 60, quality=0)
    _annotate(tmp_path, *SEGMENTS.values(), '"5998","0","9","0","0"')
    return tmp_path


def test_segments_are_found_by_their_columns(root):
    data = LavibClips(root, SPEC)
    assert (data.ids, data.missing, data.broken) == (tuple(SEGMENTS), ("5998_shot0_9_0_0",), ())
    assert {clip.captions for clip in data.clips} == {()}


def test_a_second_holds_nine_frames_at_eight(root):
    clip = LavibClips(root, SPEC)[1]
    assert (clip.id, clip.captions) == ("12_shot31_10_1_1", ())
    expected = torch.tensor([*(60 * k // 8 for k in range(8)), 59]) / 60
    torch.testing.assert_close(clip.video[:, 0, 0, 0], expected, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("subset", [None, "high_fm", "low_pl"])
@pytest.mark.parametrize("segments", ["segments", "segments_downsampled"])
def test_splits_subsets_and_sizes_have_files_of_their_own(split, subset, segments, tmp_path):
    _annotate(tmp_path, '"1","2","3","1","0"', name=split if subset is None else f"{split}_{subset}")
    file = tmp_path / segments / "1_shot2_3_1_0" / "vid.mp4"
    file.parent.mkdir(parents=True)
    file.touch()
    assert LavibClips(tmp_path, SPEC, split, subset, segments).clips[0].file == f"{segments}/1_shot2_3_1_0/vid.mp4"


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("value", ["-1", "", " 1", "1.0", "x", "../..", "٣", "1e3", "11", "2"])
def test_values_out_of_their_range_are_refused_with_their_line(column, value, root):
    fields = ["5998", "0", "8", "0", "0"]
    fields[column] = value
    largest, name = ([10**9, 10**9, 10, 1, 1][column], HEADER.replace('"', "").split(",")[column])
    _annotate(root, SEGMENTS["12_shot31_10_1_1"], ",".join(f'"{field}"' for field in fields))
    if value in ("11", "2") and int(value) <= largest:
        assert len(LavibClips(root, SPEC)) == 1
    else:
        with pytest.raises(
            TransporterError, match=rf"train\.csv', line 3: {name} '.*' is no integer from 0 to {largest};"
        ):
            LavibClips(root, SPEC)


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (['"1","2","3","1"'], HEADER, "line 2: its fields are not 5"),
        (['"1","2","3","1","0","0"'], HEADER, "line 2: its fields are not 5"),
        (['"1","2","3","1","0'], HEADER, "can't be read as a table"),
        ([], '"name","shot"', "line 1: no column 'tmp_crop' but name, shot"),
        ([], "", "line 1: no column 'name' but nothing"),
        ([SEGMENTS["12_shot31_10_1_1"]] * 2, HEADER, "id: '12_shot31_10_1_1' names two clips"),
    ],
)
def test_tables_of_another_kind_are_refused(lines, header, message, root):
    _annotate(root, *lines, header=header)
    with pytest.raises(TransporterError, match=message):
        LavibClips(root, SPEC)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_what_can_not_be_read_is_an_error(content, root):
    file = root / "annotations" / "train.csv"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(TransporterError, match=r"root: .*train\.csv' can't be read as a table"):
        LavibClips(root, SPEC)


def test_a_byte_order_mark_and_other_columns_do_no_harm(root):
    text = '"extra",' + HEADER + "\r\n" + '"x",' + SEGMENTS["12_shot31_10_1_1"] + "\r\n"
    (root / "annotations" / "train.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert LavibClips(root, SPEC).ids == ("12_shot31_10_1_1",)


@pytest.mark.parametrize("option", ["split", "subset", "segments"])
def test_unknown_choices_list_the_known_ones(option, root):
    with pytest.raises(TransporterError, match=f"{option}: unknown 'zz'. Known: (train|high_fm|segments), "):
        LavibClips(root, SPEC, **{option: "zz"})
