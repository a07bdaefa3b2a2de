import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.errors import TransporterError
from transporter_pl.explain.spans import frame_weights
from transporter_pl.samples import VideoSpec

VIDEO = VideoSpec(9, 64, 64, fps=8)
LATENT = (range(0, 1), range(1, 5), range(5, 9))
EACH = tuple(range(k, k + 1) for k in range(9))


@pytest.mark.parametrize(
    ("span", "ramp", "weights"),
    [
        ("0-8", "0", (1, 1, 1)),
        ("0-0", "0", (1, 0, 0)),
        ("1-4", "0", (0, 1, 0)),
        ("3-6", "0", (0, 0.5, 0.5)),
        ("0.125s-0.5s", "0", (0, 1, 0)),  # frames 1 to 4 at 8 a second
        ("5-8", "2", (0, 0.125, 1)),  # frame 4 stands half-way up the ramp
        ("5-8", "0.25s", (0, 0.125, 1)),
        ("5-8", "10", (0.5, (0.6 + 0.7 + 0.8 + 0.9) / 4, 1)),
        ("0-1", "3", (1, (1 + 2 / 3 + 1 / 3) / 4, 0)),
        (" 2 - 2 ", "0", (0, 0.25, 0)),
    ],
)
def test_weights_of_latent_frames(span, ramp, weights):
    assert frame_weights(span, ramp, VIDEO, LATENT) == pytest.approx(weights)


def test_the_whole_clip_has_no_weights():
    assert frame_weights(None, "0", VIDEO, LATENT) is None
    assert frame_weights(None, "0s", VIDEO, LATENT) is None


@given(first=st.integers(0, 8), length=st.integers(0, 8), ramp=st.floats(0, 20).map(lambda r: f"{r:.3f}"))
def test_ramps_rise_to_the_span_and_fall_after_it(first, length, ramp):
    last = min(8, first + length)
    weights = frame_weights(f"{first}-{last}", ramp, VIDEO, EACH)
    assert all(weight == 1 for weight in weights[first : last + 1])
    assert list(weights[:first]) == sorted(weights[:first])
    assert list(weights[last + 1 :]) == sorted(weights[last + 1 :], reverse=True)
    assert all(0 <= weight <= 1 for weight in weights)
    seconds = frame_weights(f"{first / 8}s-{last / 8}s", f"{float(ramp) / 8}s", VIDEO, EACH)
    assert seconds == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize(
    ("span", "ramp", "message"),
    [
        ("2-9", "0", r"span: '2-9' goes beyond the clip, whose last frame is 8, at 1s; shorten it"),
        ("0s-2s", "0", "goes beyond the clip"),
        ("6-2", "0", "ends before it begins"),
        ("2", "0", "is not two moments; write first-last"),
        ("1-2-3", "0", "is not two moments"),
        ("a-b", "0", "span: 'a' is neither frames nor seconds; write first-last"),
        ("-1-3", "0", "is not two moments"),
        ("0.03s-0.05s", "0", "has no frame of the clip, which stand 0.125 s apart"),
        ("2-4", "soon", "ramp: 'soon' is neither frames nor seconds; write \"2\""),
        (None, "2", "ramp: '2' without a span"),
    ],
)
def test_bad_spans(span, ramp, message):
    with pytest.raises(TransporterError, match=message):
        frame_weights(span, ramp, VIDEO, LATENT)
