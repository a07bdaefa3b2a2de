import struct
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import center_crop, resize

from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec
from transporter_pl.video import fit, read_video

STEP = 10  # grey levels between one frame and the next, far above what YUV rounds
TICK = Fraction(1, 24)
KINDS = {
    "clip.mp4": ("libx264", "yuv444p", {"crf": "0", "g": "4", "bf": "2"}),
    "clip.webm": ("libvpx-vp9", "yuv444p", {"lossless": "1", "cpu-used": "8", "g": "4"}),
    "clip.mkv": ("ffv1", "bgr0", {}),
}


def _write(path, frames, stamps, tick=TICK, kind=None):
    """Frames (T, h, w, 3) at stamps · tick, in the codec that the name's container commonly holds."""
    codec, pixels, options = kind or KINDS[f"clip{path.suffix}"]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1 / tick, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.time_base = tick
        for picture, stamp in zip(frames, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pixels, threads=1)  # several threads spoil a row of 10 bits now and then
            frame.pts, frame.time_base = stamp, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _numbered(path, stamps, kind=None, tick=TICK, step=STEP):
    """A clip whose frame i is of grey step · i."""
    levels = np.arange(len(stamps), dtype=np.uint8)[:, None, None, None] * step
    _write(path, np.broadcast_to(levels, (len(stamps), 16, 16, 3)).copy(), stamps, tick, kind)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A clip of 24 frames that no test spoils."""
    return _numbered(tmp_path_factory.mktemp("whole") / "clip.mp4", range(24))


def _numbers(video, step=STEP):
    return (video.mean((1, 2, 3)) * 255 / step).round().int().tolist()


def _spec(frames, fps, side=16):
    return VideoSpec(frames, side, side, fps)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=12)
@given(
    gaps=st.lists(st.integers(1, 9), min_size=2, max_size=20),
    first=st.sampled_from([0, 7]),
    fps=st.sampled_from([3, 8, 12, 24, 30]),
    start=st.integers(0, 12),
)
def test_each_time_shows_the_last_frame_that_is_not_later(name, gaps, first, fps, start, tmp_path_factory):
    stamps = [0, *accumulate(gaps)]
    start = min(start, stamps[-1]) * TICK
    frames = int((stamps[-1] * TICK - start) * fps) + 1
    path = _numbered(tmp_path_factory.mktemp("clips") / name, [first + stamp for stamp in stamps])
    expected = [bisect_right(stamps, (start + Fraction(k, fps)) / TICK) - 1 for k in range(frames)]
    assert _numbers(read_video(path, _spec(frames, fps), float(start))) == expected


@pytest.mark.parametrize("name", KINDS)
def test_the_own_frame_rate_gives_every_frame(name, tmp_path):
    path = _numbered(tmp_path / name, range(24))
    video = read_video(path, _spec(24, 24))
    assert video.shape == (24, 3, 16, 16)
    torch.testing.assert_close(video.mean((1, 2, 3)) * 255, torch.arange(24.0) * STEP, atol=1.5, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_a_window_ends_before_what_comes_after_it(name, tmp_path):
    path = _numbered(tmp_path / name, range(24))
    assert _numbers(read_video(path, _spec(6, 24), 0.25, 0.5)) == list(range(6, 12))
    assert _numbers(read_video(path, _spec(7, 24), 0.25, 0.5)) == [*range(6, 12), 11]  # at 0.5 s, held
    with pytest.raises(
        TransporterError, match=r"lasts 0\.2\d* s from 0\.25 s on, but the last of 8 .* after 0\.2917 s"
    ):
        read_video(path, _spec(8, 24), 0.25, 0.5)


@pytest.mark.parametrize(("start", "end", "last"), [(0, 0.6875, 16), (0.25, 0.9375, 22), (0, 0.6874, None)])
def test_the_last_frame_is_held_for_half_a_frame_of_the_geometry(start, end, last, whole):
    spec = _spec(7, 8)  # the last time is 0.75 s, half a frame 0.0625 s
    if last is not None:
        assert _numbers(read_video(whole, spec, start, end)) == [*(round(24 * start) + 3 * k for k in range(6)), last]
    else:
        with pytest.raises(TransporterError, match=r"lasts 0\.6874 s from 0 s on"):
            read_video(whole, spec, start, end)


@given(frames=st.integers(1, 12), fps=st.sampled_from([3, 8, 12.5, 24, 30]), lasts=st.integers(1, 24))
@settings(max_examples=60)
def test_a_window_is_long_enough_to_half_a_frame_before_the_last_time(frames, fps, lasts, whole):
    end = lasts / 24
    shown = [i for i in range(24) if Fraction(i, 24) < end]  # a float may lie a little behind a frame's time
    ends = min(Fraction(shown[-1] + 1, 24), Fraction(end))
    if ends >= Fraction(2 * frames - 3) / Fraction(2 * fps):
        times = [Fraction(k) / Fraction(fps) for k in range(frames)]
        assert _numbers(read_video(whole, _spec(frames, fps), 0, end)) == [min(int(24 * t), shown[-1]) for t in times]
    else:
        with pytest.raises(TransporterError, match=f"lasts {end:.4g} s from 0 s on"):
            read_video(whole, _spec(frames, fps), 0, end)


def test_a_clip_of_one_second_holds_nine_frames_at_eight(tmp_path):
    path = _numbered(tmp_path / "clip.mp4", range(60), tick=Fraction(1, 60), step=4)
    assert _numbers(read_video(path, _spec(9, 8)), step=4) == [*(60 * k // 8 for k in range(8)), 59]


def test_the_last_frame_is_shown_for_its_duration(tmp_path):
    path = _numbered(tmp_path / "clip.mp4", range(24))
    assert _numbers(read_video(path, _spec(5, 96), 23 / 24)) == [23] * 5
    with pytest.raises(TransporterError, match=r"clip\.mp4"):
        read_video(path, _spec(6, 96), 23 / 24)
    with pytest.raises(TransporterError, match=r"lasts 0 s from 1 s on, but the last of 1 frames"):
        read_video(path, _spec(1, 96), 1)  # nothing is held where nothing was shown


def test_a_start_before_the_video_is_its_start(tmp_path):
    path = _numbered(tmp_path / "clip.mp4", range(4))
    assert _numbers(read_video(path, _spec(4, 24), -4e-7)) == [0, 1, 2, 3]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_rotation_in_the_metadata_is_applied(degrees, tmp_path):
    corners = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((8, 12), np.uint8))
    path = tmp_path / "clip.mp4"
    _write(path, np.repeat(corners[None, ..., None], 3, 3), [0])
    _rotate(path, degrees)
    upright = torch.from_numpy(np.rot90(corners, -degrees // 90).copy()).expand(1, 3, -1, -1) / 255
    video = read_video(path, VideoSpec(1, *upright.shape[-2:], 24))
    torch.testing.assert_close(video, upright, atol=1.5 / 255, rtol=0)


def test_a_rotation_is_applied_to_frames_behind_a_seek(tmp_path):
    pictures = np.zeros((12, 16, 32, 3), np.uint8)
    pictures[:, :, 16:] = 200  # bright on the right, which shows down
    path = tmp_path / "clip.mp4"
    _write(path, pictures, range(12))
    _rotate(path, 90)
    video = read_video(path, VideoSpec(3, 32, 16, 24), 7 / 24)
    assert video[:, :, :16].max() < 0.02
    assert video[:, :, 16:].min() > 0.76


def _rotate(path, degrees):
    """Ask players to turn the picture clockwise, as telephones do: in the matrix of the track's header."""
    x, y = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]  # where the picture's right shows to
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, at, x << 16, y << 16, 0, -y << 16, x << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize(("have", "side"), [((48, 96), 16), ((96, 48), 16), ((12, 24), 16), ((30, 30), 16)])
def test_frames_are_scaled_until_they_cover_and_cropped_around_the_centre(have, side):
    frame = torch.rand(3, *have, generator=torch.Generator().manual_seed(0))
    expected = center_crop(resize(frame, [side], antialias=True), [side, side])
    torch.testing.assert_close(fit(frame, side, side), expected.clamp(0, 1), atol=1e-5, rtol=0)


@given(have=st.tuples(*[st.integers(1, 40)] * 2), want=st.tuples(*[st.integers(1, 40)] * 2), grey=st.floats(0, 1))
def test_any_size_becomes_any_size(have, want, grey):
    fitted = fit(torch.full((3, *have), grey), *want)
    torch.testing.assert_close(fitted, torch.full((3, *want), grey), atol=1e-5, rtol=0)


def test_frames_of_the_right_size_are_left_as_they_are(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    _write(tmp_path / "clip.mkv", pictures, range(3))
    expected = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(read_video(tmp_path / "clip.mkv", _spec(3, 24)), expected, atol=0, rtol=0)


LONG = {  # one key frame, or few of them with frames before and after them in disorder
    "one.mp4": ("libx264", "yuv420p", {"crf": "1", "g": "250", "bf": "3"}),
    "one.webm": ("libvpx-vp9", "yuv420p", {"crf": "1", "g": "250", "cpu-used": "8"}),
    "one.mkv": ("libx264", "yuv420p10le", {"crf": "1", "g": "250", "bf": "3"}),
    "open.mp4": ("libx264", "yuv420p", {"crf": "1", "x264-params": "open-gop=1:keyint=6:bframes=3:b-adapt=0"}),
    "no_index.ts": ("libx264", "yuv420p", {"crf": "1", "g": "5", "bf": "3"}),
}


@pytest.mark.parametrize("name", LONG)
def test_a_window_may_begin_anywhere_between_key_frames(name, tmp_path):
    path = _numbered(tmp_path / name, range(9, 33), LONG[name])  # the file's clock is not at 0 when it begins
    for number in range(0, 24, 4 if name.startswith("one") else 1):
        video = read_video(path, _spec(min(3, 24 - number), 24), number / 24 + 1e-4)
        assert _numbers(video) == list(range(24))[number : number + 3]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("start", [2.0, 1e12, 1e18, 1e300, float("inf")])
def test_a_window_behind_the_end_is_an_error(name, start, tmp_path):
    path = _numbered(tmp_path / name, range(4))
    with pytest.raises(TransporterError, match=r"lasts 0 s from|can't be read"):
        read_video(path, _spec(1, 24), start)


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("odd.mp4", ("libx264", "yuv444p", {"crf": "0"}), (17, 23)),
        ("odd.webm", ("libvpx-vp9", "yuv420p", {"lossless": "1"}), (17, 23)),
        ("odd.mkv", ("ffv1", "bgr0", {}), (17, 23)),
        ("deep.mp4", ("libx264", "yuv420p10le", {"crf": "1"}), (32, 48)),
        ("deep.mkv", ("ffv1", "yuv444p10le", {}), (17, 23)),
        ("grey.mkv", ("ffv1", "gray", {}), (17, 23)),
    ],
)
def test_odd_sides_and_deep_pixels_keep_their_picture(name, kind, size, tmp_path):
    pictures = np.zeros((2, *size, 3), np.uint8) + 40
    pictures[:, :, : size[1] // 2] = 200
    pictures[:, : size[0] // 2] += 30
    _write(tmp_path / name, pictures, range(2), kind=kind)
    expected = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    video = read_video(tmp_path / name, VideoSpec(2, *size, 24))
    torch.testing.assert_close(video, expected, atol=4 / 255, rtol=0)


def _silent(path):
    """Sound without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])


def _cut(path):
    _numbered(path, range(24))
    path.write_bytes(path.read_bytes()[:-300])


def _overwritten(path):
    _numbered(path, range(24))
    data = bytearray(path.read_bytes())
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[begin:end] = bytes(end - begin)
    path.write_bytes(data)


def _unknown_codec(path):
    _numbered(path, range(24))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "can't be read"),
        (lambda path: path.touch(), "can't be read"),
        (lambda path: path.mkdir(), "can't be read"),
        (lambda path: path.write_text("no video"), "can't be read"),
        (_cut, "can't be read"),
        (_overwritten, "can't be read"),
        (_unknown_codec, "can't be read"),
        (_silent, "has no video stream"),
        (
            lambda path: _numbered(path, range(5)),
            "lasts 0.2083 s from 0 s on, but the last of 24 frames of 16x16 at 24 fps is",
        ),
    ],
)
def test_what_can_not_be_read_is_one_error_with_the_name(spoil, message, tmp_path):
    path = tmp_path / "clip.mp4"
    spoil(path)
    with pytest.raises(TransporterError, match=message) as error:
        read_video(path, _spec(24, 24))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.95])
def test_a_file_that_breaks_off_is_an_error_with_its_name(name, part, tmp_path):
    path = tmp_path / name
    pictures = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    _write(path, pictures, range(24))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(TransporterError, match=r"can't be read|lasts 0.* from 0 s on|has a damaged frame") as error:
        read_video(path, _spec(24, 24))
    assert str(path) in str(error.value)


def test_a_frame_that_its_codec_only_guesses_is_an_error(tmp_path):
    path = tmp_path / "clip.mkv"
    pictures = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    _write(path, pictures, range(6), kind=("libx264", "yuv420p", {"crf": "20", "bf": "0"}))
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][3]
        begin, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[begin + 20 : begin + size] = bytes(size - 20)
    path.write_bytes(data)
    assert len(read_video(path, VideoSpec(2, 64, 64, 24))) == 2  # frames before it
    with pytest.raises(TransporterError, match=r"clip\.mkv' has a damaged frame"):
        read_video(path, VideoSpec(6, 64, 64, 24))


def test_a_cover_is_no_video(tmp_path):
    """The picture of a cover comes first in some files."""
    _numbered(tmp_path / "clip.mkv", range(24))
    with av.open(str(tmp_path / "clip.mkv")) as film, av.open(str(tmp_path / "covered.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height = cover.width = 64
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        stream = container.add_stream("libx264", rate=24, options={"crf": "0"})
        stream.height = stream.width = 16
        stream.pix_fmt = "yuv444p"
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255, np.uint8), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode()])
        for frame in film.decode(video=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert _numbers(read_video(tmp_path / "covered.mp4", _spec(24, 24))) == list(range(24))
