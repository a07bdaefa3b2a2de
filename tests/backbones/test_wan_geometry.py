import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.backbones.wan_geometry import WanGeometry, read_guidance
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec

GEOMETRY = WanGeometry(16, (4, 8), (2, 2), (512, 4096))


def test_a_published_size():
    assert GEOMETRY.latents(VideoSpec(81, 480, 832)) == (16, 21, 60, 104)


@given(frames=st.integers(1, 90), height=st.integers(1, 70), width=st.integers(1, 70))
def test_what_does_not_fit_is_refused_with_a_fix_that_fits(frames, height, width):
    video = VideoSpec(frames, height, width)
    fits = frames % 4 == 1 and height % 16 == width % 16 == 0
    if fits:
        assert GEOMETRY.latents(video) == (16, (frames - 1) // 4 + 1, height // 8, width // 8)
        return
    with pytest.raises(TransporterError, match=r"video\.(frames|height|width): .*use \d+") as caught:
        GEOMETRY.latents(video)
    field, advice = str(caught.value).split(":")[0].removeprefix("video."), str(caught.value).split()[-1]
    step = 4 if field == "frames" else 16
    assert int(advice) % step == (1 if field == "frames" else 0)
    assert int(advice) > 0


def test_checked_before_any_weight_is_read(small_wan, tmp_path):
    small_wan.save(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.write_bytes(b"not weights")
    with pytest.raises(TransporterError, match=r"video\.frames: 8 is not 4k \+ 1 as Wan needs; use 5 or 9"):
        WanAdapter.from_pretrained(tmp_path, VideoSpec(8, 32, 32))
    with pytest.raises(TransporterError, match=r"video\.width: 60 .*use 64"):
        WanAdapter.from_pretrained(tmp_path, VideoSpec(5, 32, 60))
    shapes = WanAdapter.shapes_of(tmp_path, VideoSpec(9, 32, 64))
    assert shapes == ((8, 3, 4, 8), small_wan.condition_shape)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", (4.0, 3.0)),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers@main", (4.0, 3.0)),
        ("/weights/Wan2.2-T2V-A14B-Diffusers", (4.0, 3.0)),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", (5.0, None)),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", (5.0, None)),
    ],
)
def test_published_ones_have_guidance_scales_of_their_own(tmp_path, name, scales):
    assert read_guidance(str(tmp_path), name) == scales


@pytest.mark.parametrize("scale", [0.5, "4", None, [4.0, 3.0], float("inf")])
@pytest.mark.parametrize("name", ["guidance_scale", "guidance_scale_2"])
def test_what_is_no_guidance_scale_is_refused(tmp_path, name, scale):
    (tmp_path / "transporter.json").write_text(json.dumps({name: scale}))
    if scale is None and name == "guidance_scale_2":
        assert read_guidance(str(tmp_path), "x") == (5.0, None)
        return
    with pytest.raises(TransporterError, match=r"path: transporter\.json in .* write a number of at least 1"):
        read_guidance(str(tmp_path), "x")
