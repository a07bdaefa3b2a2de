import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.datamodules.clips import BrokenClip
from transporter_pl.datamodules.ego4d import Ego4DClips
from transporter_pl.datamodules.narrations import without_tags
from transporter_pl.errors import TransporterError
from transporter_pl.report.video import write_video
from transporter_pl.samples import VideoSpec

SPEC = VideoSpec(frames=9, height=16, width=16, fps=8.0)
UIDS = ["3a6f9b1e-0000-4000-8000-000000000001", "3a6f9b1e-0000-4000-8000-000000000002"]


def _narration(time, text):
    extra = {"timestamp_frame": 0, "_unmapped_timestamp_sec": time, "annotation_uid": "x"}
    return {"timestamp_sec": time, "narration_text": text, **extra}


def _pass(*narrations):
    return {"narrations": [_narration(*narration) for narration in narrations], "summaries": []}


def _video(uid, duration=10.0, em=None, av=None, fho=None):
    known = {"video_uid": uid, "duration_sec": duration, "scenarios": ["Cooking"], "video_metadata": {"fps": 30}}
    return {**known, "split_em": em, "split_av": av, "split_fho": fho}


def _write(root, narrations, videos, name="narration.json", metadata="ego4d.json"):
    for file, content in ((f"v2/annotations/{name}", narrations), (metadata, {"date": "", "videos": videos})):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content), encoding="utf-8")
    for video in videos:
        file = root / "v2" / "full_scale" / f"{video['video_uid']}.mp4"
        file.parent.mkdir(exist_ok=True)
        file.touch()


def _one(root, *narrations, duration=10.0, **options):
    """Clips of one video."""
    _write(root, {UIDS[0]: {"narration_pass_1": _pass(*narrations)}}, [_video(UIDS[0], duration)])
    return Ego4DClips(root, SPEC, **options)


def test_a_narration_is_read_from_the_window_round_it(tmp_path):
    _one(tmp_path, (5.0, "#C C runs"))
    levels = torch.arange(80.0)[:, None, None, None].expand(-1, 3, 16, 16) / 80
    write_video(tmp_path / "v2" / "full_scale" / f"{UIDS[0]}.mp4", levels, 8, quality=0)
    clip = Ego4DClips(tmp_path, SPEC)[0]
    assert (clip.id, clip.captions) == (f"{UIDS[0]}_000005000", ("the camera wearer runs",))
    expected = torch.arange(35, 44) / 80  # from 5 − 9/16 s on, between frames 35 and 36
    torch.testing.assert_close(clip.video[:, 0, 0, 0], expected, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize(
    ("time", "duration", "window"),
    [
        (5.0, 10.0, (4.4375, 5.5625)),
        (0.5, 10.0, (0.0, 1.125)),
        (-4e-7, 10.0, (0.0, 1.125)),
        (-0.3, 10.0, (0.0, 1.125)),
        (9.9, 10.0, (8.875, 10.0)),
        (10.8, 10.0, (8.875, 10.0)),
        (0.5, 1.0, (0.0, 1.0)),
    ],
)
def test_windows_are_moved_inside_the_video(time, duration, window, tmp_path):
    (clip,) = _one(tmp_path, (time, "a"), duration=duration).clips
    assert (clip.start, clip.end) == pytest.approx(window)
    assert clip.id == f"{UIDS[0]}_{max(0, round(1000 * time)):09d}"


def test_narrations_of_one_moment_are_captions_of_one_clip(tmp_path):
    first = _pass((3.0004, "a"), (1.0, "b"), (3.0, ""), (2.0, None), (4.0, " "))
    _write(
        tmp_path,
        {UIDS[0]: {"narration_pass_1": first, "narration_pass_2": _pass((3.0, "c"), (3.0, "a"))}},
        [_video(UIDS[0])],
    )
    data = Ego4DClips(tmp_path, SPEC, captions="all")
    assert data.ids == (f"{UIDS[0]}_000001000", f"{UIDS[0]}_000003000")
    assert [clip.captions for clip in data.clips] == [("b",), ("a", "c")]
    assert data.broken == tuple(BrokenClip(f"{UIDS[0]}_{ms:09d}", "it has no caption") for ms in (2000, 4000))


@pytest.mark.parametrize(("passes", "said"), [("both", ["a", "b"]), (1, ["a"]), (2, ["b"])])
def test_passes_by_choice(passes, said, tmp_path):
    narrations = {UIDS[0]: {"narration_pass_1": _pass((1.0, "a")), "narration_pass_2": _pass((2.0, "b"))}}
    _write(tmp_path, narrations, [_video(UIDS[0])])
    assert [clip.captions for clip in Ego4DClips(tmp_path, SPEC, passes=passes).clips] == [(text,) for text in said]


@pytest.mark.parametrize("part", [None, {}, [], {"narrations": None}, {"narrations": [None, 3]}, {"summaries": []}])
def test_passes_and_narrations_may_be_absent(part, tmp_path):
    narrations = {UIDS[0]: {"narration_pass_1": _pass((1.0, "a")), "narration_pass_2": part}, UIDS[1]: part}
    _write(tmp_path, narrations, [_video(uid) for uid in UIDS])
    assert Ego4DClips(tmp_path, SPEC).ids == (f"{UIDS[0]}_000001000",)


def test_narrations_after_the_end_are_listed(tmp_path):
    data = _one(tmp_path, (11.0, "a"), (11.1, "b"), duration=10.0)
    assert [clip.captions for clip in data.clips] == [("a",)]
    assert "is after the video's end, 10 s" in data.broken[0].reason


@pytest.mark.parametrize("time", [None, "1.0", float("nan"), float("inf"), -1e12])
def test_times_that_are_none_are_listed(time, tmp_path):
    data = _one(tmp_path, (1.0, "a"), (time, "b"))
    assert (len(data), [clip.id for clip in data.broken]) == (1, [f"{UIDS[0]}#1"])
    assert "is no number of seconds" in data.broken[0].reason


def test_the_redacted_file_has_another_schema(tmp_path):
    rows = [{"time": 1.0, "text": "#O A man X waves"}, {"time": 1.0, "text": None}, {"time": 2.0, "text": "b"}]
    narrations = {"videos": {UIDS[0]: {"narrations": rows, "summaries": []}}}
    _write(tmp_path, narrations, [_video(UIDS[0])], "all_narrations_redacted.json")
    data = Ego4DClips(tmp_path, SPEC)
    assert [clip.captions for clip in data.clips] == [("A man X waves",), ("b",)]
    with pytest.raises(TransporterError, match=r"passes: 2, but .*redacted\.json' does not tell them apart; use both"):
        Ego4DClips(tmp_path, SPEC, passes=2)
    _write(tmp_path, {UIDS[0]: {"narration_pass_1": _pass((3.0, "c"))}}, [_video(UIDS[0])])
    assert [clip.captions for clip in Ego4DClips(tmp_path, SPEC).clips] == [("c",)]  # narration.json comes first
    redacted = tmp_path / "v2" / "annotations" / "all_narrations_redacted.json"
    assert len(Ego4DClips(tmp_path, SPEC, redacted)) == 2


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("#C C picks up a knife", "the camera wearer picks up a knife"),
        ("#c c  picks\nup ", "the camera wearer picks up"),
        ("#C picks up C's knife", "the camera wearer picks up C's knife"),
        ("#C C's hand", "the camera wearer's hand"),
        ("#C Cuts bread", "the camera wearer Cuts bread"),
        ("#O A man X waves at #C C", "A man X waves at the camera wearer"),
        ("#C C moves #unsure to #Unsure.", "the camera wearer moves something to something."),
        ("#Onion #Cup", "#Onion #Cup"),
        ("the room is C C", "the room is C C"),
        ("#O", ""),
        ("", ""),
    ],
)
def test_tags_become_words(written, clean, tmp_path):
    assert without_tags(written) == clean
    data = _one(tmp_path, (1.0, written), (2.0, "kept"), tags="keep")
    assert data.clips[0].captions == ((written,) if written.strip() else ("kept",))


@given(st.text("#COcUuns re", max_size=30))
def test_clean_texts_have_no_tags_and_single_spaces(text):
    clean = without_tags(text)
    assert clean == " ".join(clean.split())
    assert "#unsure " not in f"{clean} ".lower()
    assert without_tags(text.replace("#", "")) == " ".join(text.replace("#", "").split())


SPLITS = {
    (None, None, None): {"train"},
    ("train", None, "train"): {"train"},
    ("train", "val", None): {"val"},
    ("test", None, "val"): {"test", "val"},
    ("multi", None, None): set(),
    ("multi", "train", "test"): {"test"},
}


@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_a_video_is_trained_on_if_no_benchmark_keeps_it_back(split, tmp_path):
    videos = [_video(f"video{i}", em=em, av=av, fho=fho) for i, (em, av, fho) in enumerate(SPLITS)]
    _write(tmp_path, {v["video_uid"]: {"narration_pass_1": _pass((1.0, "a"))} for v in videos}, videos)
    expected = [f"video{i}_000001000" for i, found in enumerate(SPLITS.values()) if split in {*found, "all"}]
    data = Ego4DClips(tmp_path, SPEC, split=split)
    assert (list(data.ids), data.missing, data.broken) == (expected, (), ())


def test_videos_that_are_not_known_or_not_there_are_listed(tmp_path):
    uids = [*UIDS, "unknown", "endless", "gone"]
    narrations = {uid: {"narration_pass_1": _pass((1.0, "a"), (2.0, "b"))} for uid in uids}
    videos = [*map(_video, UIDS), _video("endless", None), _video("gone")]
    _write(tmp_path, narrations, videos)
    (tmp_path / "v2" / "full_scale" / "gone.mp4").unlink()
    data = Ego4DClips(tmp_path, SPEC)
    assert len(data) == 4
    assert data.missing == ("gone_000001000", "gone_000002000")
    assert [clip.id for clip in data.broken] == ["unknown", "endless"]
    assert "ego4d.json does not know" in data.broken[0].reason
    assert "duration_sec None" in data.broken[1].reason


@pytest.mark.parametrize("metadata", ["ego4d.json", "v2/ego4d.json"])
def test_the_metadata_may_be_in_two_places(metadata, tmp_path):
    _write(tmp_path, {UIDS[0]: {"narration_pass_1": _pass((1.0, "a"))}}, [_video(UIDS[0])], metadata=metadata)
    assert len(Ego4DClips(tmp_path, SPEC)) == 1


def test_the_smaller_videos_are_elsewhere(tmp_path):
    _one(tmp_path, (1.0, "a"))
    (tmp_path / "v2" / "full_scale").rename(tmp_path / "v2" / "video_540ss")
    assert Ego4DClips(tmp_path, SPEC, videos="video_540ss").clips[0].file == f"v2/video_540ss/{UIDS[0]}.mp4"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("v2/annotations/narration.json", "[]", r"narration\.json' holds no narrations by video"),
        ("v2/annotations/narration.json", "{", r"annotations: .*narration\.json' can't be read as JSON"),
        ("v2/annotations/narration.json", None, "annotations: neither v2/annotations/narration.json nor"),
        ("ego4d.json", "{}", r"root: .*ego4d\.json' has no list `videos` with a video_uid each"),
        ("ego4d.json", '{"videos": [{"video_uid": []}]}', "has no list `videos` with a video_uid each"),
        ("ego4d.json", None, "root: neither ego4d.json nor v2/ego4d.json in"),
        ("v2/annotations/narration.json", "{}", "root: of 0 annotated clips"),
    ],
)
def test_files_of_another_kind_are_refused(file, content, message, tmp_path):
    _one(tmp_path, (1.0, "a"))
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_text(content)
    with pytest.raises(TransporterError, match=message):
        Ego4DClips(tmp_path, SPEC)


def test_a_video_uid_does_not_lead_out(tmp_path):
    _write(tmp_path, {"../../../x": {"narration_pass_1": _pass((1.0, "a"))}}, [])
    (tmp_path / "ego4d.json").write_text(json.dumps({"videos": [_video("../../../x")]}))
    with pytest.raises(TransporterError, match="leads out of the folder of the videos"):
        Ego4DClips(tmp_path, SPEC)


@pytest.mark.parametrize("option", ["videos", "passes", "tags", "split", "captions"])
def test_unknown_choices_list_the_known_ones(option, tmp_path):
    with pytest.raises(TransporterError, match=f"{option}: unknown 'zz'. Known: (full|both, 1, 2|clean|train|first)"):
        Ego4DClips(tmp_path, SPEC, **{option: "zz"})
