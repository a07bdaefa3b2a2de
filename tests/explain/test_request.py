"""What can be told before a model is loaded."""

from dataclasses import replace

import pytest

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.explain.dials import Dial
from transporter_pl.explain.request import Request, as_pair

PAIR = Pair("left", "right")


def test_a_template_is_a_caption_too():
    assert Request(None, as_pair("an oval moves {left|right}")).caption == "an oval moves {}"
    assert Request("it moves left", as_pair("an oval moves {left|right}")).caption == "it moves left"
    assert Request(None, as_pair(("left", "right"))).caption is None


def test_zero_is_drawn_besides():
    assert Request(None, PAIR, (1, 0.5)).swept == (1, 0.5, 0)
    assert Request(None, PAIR, (1, -0.0)).swept == (1, 0)
    assert str(Request(None, PAIR, (-0.0,)).phi) == "(0.0,)"


def test_zero_twice_is_refused():
    with pytest.raises(TransporterError, match="phi: 0 0 holds a value twice"):
        Request(None, PAIR, (0.0, -0.0))


def test_a_clip_needs_no_caption(bank, tiny):
    Request(None, PAIR).check(bank, tiny.video, from_clip=True)
    with pytest.raises(TransporterError, match="caption: the bank holds no caption"):
        Request(None, PAIR).check(bank, tiny.video, from_clip=False)


def test_every_dial_warns(bank):
    flat = Calibration((0, 0.5, 1), (1, 0, 0), (0, 1, 1), (0, 1, 1), (0, 1, 1), (0, 0, 0))
    bank = replace(bank, entries=tuple(replace(c, calibration=flat) for c in bank.entries))
    request = Request(None, PAIR, (0.5,), also=(Dial("red:blue", 1.25),))
    (text,) = request.warnings(bank)
    assert text.startswith("φ = 1.25 goes beyond φ = 0.5, where red:blue saturated")


def test_settings_name_what_is_not_the_default():
    assert Request(None, PAIR).settings(from_clip=False) == [("steps", "20")]
    request = Request(
        None, PAIR, window=(0.3, 1), span="1-2", also=(Dial("red:blue", -0.5, span="0s-0.25s", ramp="1"),)
    )
    assert dict(request.settings(from_clip=True)) == {
        "steps": "20",
        "window": "0.3 ≤ t ≤ 1",
        "frames": "1-2",
        "also red:blue": "φ = -0.5, frames 0s-0.25s, ramp 1",
        "from a clip": "noised, depth 0.8",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phi": float("nan")}, "phi: nan of red:blue is not finite"),
        ({"window": (0.5, 1.5)}, "window: 0.5 1.5 is no part of"),
        ({"pair": "red"}, "pair: 'red' is not two words"),
    ],
)
def test_a_dial_that_is_none(change, message):
    with pytest.raises(TransporterError, match=message):
        Dial(**{"pair": "red:blue", **change})
