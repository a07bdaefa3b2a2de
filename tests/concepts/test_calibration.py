"""The calibration's figures against their definitions, and its sentences."""

import json
import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError

PAIR = Pair("red", "blue")
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)


def calibration(phi=SWEEP, **columns):
    """A sweep in which nothing happens but what is given."""
    empty = {name: (0.0,) * len(phi) for name in ("negative", "positive", "coupled", "reencoded", "elsewhere")}
    return Calibration(phi, **{**empty, **columns})


def moving(coupled=SWEEP, reencoded=SWEEP, **columns):
    """A sweep along which the VLM's answer goes from red to blue."""
    ends = {"negative": tuple(1 - phi for phi in SWEEP), "positive": SWEEP}
    return calibration(**{**ends, "coupled": coupled, "reencoded": reencoded, **columns})


@pytest.mark.parametrize("phi", [(0.5, 1.0), (1.0, 0.0), (0.0, 0.0, 1.0), ()])
def test_phi_ascends_and_holds_zero(phi):
    with pytest.raises(TransporterError, match=r"calibration: φ is .*; give each value once, in ascending order"):
        calibration(phi)


def test_a_value_for_each_phi():
    with pytest.raises(TransporterError, match="3 values of coupled for 5 of φ"):
        calibration(coupled=(0.0, 0.1, 0.2))


def test_through_json_and_back():
    made = moving(elsewhere=(0.0, 1e-9, 0.1, 0.2, 1 / 3))
    assert Calibration.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert list(made.as_dict()) == ["phi", "negative", "positive", "coupled", "reencoded", "elsewhere"]


def test_mean():
    mean = Calibration.mean([moving(), calibration()])
    assert mean == calibration(
        negative=(0.5, 0.375, 0.25, 0.125, 0.0),
        positive=(0.0, 0.125, 0.25, 0.375, 0.5),
        coupled=(0.0, 0.125, 0.25, 0.375, 0.5),
        reencoded=(0.0, 0.125, 0.25, 0.375, 0.5),
    )
    assert Calibration.mean([mean]) == mean


def test_a_mean_is_over_one_sweep():
    with pytest.raises(TransporterError, match=r"φ = 0 0.25 0.5 0.75 1 and 0 1; give sweeps over the same values"):
        Calibration.mean([calibration(), calibration((0.0, 1.0))])
    with pytest.raises(TransporterError, match="φ = none"):
        Calibration.mean([])


@pytest.mark.parametrize(
    ("positive", "rho"),
    [
        ((0.0, 0.1, 0.2, 0.3, 0.9), 1.0),
        ((0.9, 0.3, 0.2, 0.1, 0.0), -1.0),
        ((0.5, 0.5, 0.5, 0.5, 0.5), 0.0),
        ((0.5, 0.500001, 0.500002, 0.500003, 0.500004), 0.0),  # rounding is no trend
        ((0.0, 0.0, 0.0, 0.0, 1.0), 2**-0.5),  # ties share the mean of their ranks
        ((0.1, 0.0, 0.2, 0.4, 0.3), 0.8),  # 1 − 6 Σ d² / P (P² − 1)
    ],
)
def test_monotonicity(positive, rho):
    assert calibration(positive=positive).monotonicity == pytest.approx(rho)
    assert calibration(negative=positive).monotonicity == pytest.approx(-rho)


def test_monotonicity_of_a_single_phi():
    assert calibration((0.0,)).monotonicity == 0


@given(st.lists(st.integers(0, 20), min_size=2, max_size=9))
def test_monotonicity_is_spearmans(ranks):
    phi = tuple(float(index) for index in range(len(ranks)))
    found = calibration(phi, positive=tuple(rank / 20 for rank in ranks)).monotonicity
    with warnings.catch_warnings(action="ignore"):
        expected = spearmanr(phi, ranks).statistic
    assert found == (pytest.approx(expected) if len(set(ranks)) > 1 else 0)


@pytest.mark.parametrize(
    ("coupled", "saturation"),
    [
        ((0.0, 0.2, 0.4, 0.6, 0.8), None),  # still gains
        ((0.0, 0.2, 0.8, 0.8, 0.8), 0.5),
        ((0.0, 0.2, 0.77, 0.78, 0.8), 0.5),  # 0.03 of 0.8 is no gain, however it is spread
        ((0.0, 0.2, 0.75, 0.78, 0.8), 0.75),  # 0.05 of 0.8 is one
        ((0.0, 0.2, 0.4, 0.8, 0.3), 0.75),  # what falls gains no more
        ((0.0, 0.8, 0.3, 0.3, 0.8), 0.25),  # back to where it was is no gain
        ((0.0, 0.8, 0.3, 0.3, 0.9), None),
        ((0.0, 0.02, 0.02, 0.02, 0.02), None),  # nothing moved that could saturate
    ],
)
def test_saturation(coupled, saturation):
    assert calibration(coupled=coupled).saturation == saturation


def test_saturation_is_above_zero():
    assert calibration((-2.0, -1.0, 0.0), coupled=(0.9, 0.9, 0.0)).saturation is None
    assert calibration((-1.0, 0.0, 1.0, 2.0), coupled=(1.0, 0.0, 0.5, 0.5)).saturation == 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_saturation_by_its_definition(moved):
    phi = tuple(float(index) for index in range(len(moved) + 1))
    found = calibration(phi, coupled=(0.0, *moved)).saturation
    enough = [p for p, m in zip(phi[1:], moved, strict=True) if max(moved[int(p) - 1 :]) - m <= 0.05 * max(moved)]
    assert found == (None if max(moved) < 0.1 or enough[0] == phi[-1] else enough[0])


@pytest.mark.parametrize(
    ("coupled", "reencoded", "moved"), [(0.1, 0.1, True), (0.1, 0.09, False), (0.09, 0.1, False), (0.0, 0.0, False)]
)
def test_moved_by_both_routes(coupled, reencoded, moved):
    found = calibration((0.0, 1.0), coupled=(0.0, coupled), reencoded=(0.0, reencoded))
    assert found.moved is moved


def test_it_may_move_at_any_phi():
    assert moving(coupled=(0.0, 0.5, 0.0, 0.0, 0.0), reencoded=(0.0, 0.5, 0.0, 0.0, 0.0)).moved
    assert not moving(coupled=(0.0, 0.5, 0.0, 0.0, 0.0), reencoded=(0.0, 0.0, 0.0, 0.6, 0.0)).moved


def test_the_sentence_of_a_concept_that_worked():
    assert moving().sentence(PAIR) == (
        "red:blue moved the VLM's answer: P(“blue”) goes from 0.00 to 1.00 as φ goes from 0 to 1."
    )
    limited = moving(coupled=(0.0, 0.3, 0.7, 0.7, 0.7)).sentence(PAIR)
    assert limited.endswith("as φ goes from 0 to 1, and Δϑ grows no more beyond φ = 0.5.")


def test_the_sentence_of_a_concept_that_did_nothing():
    still = moving(coupled=(0.0, 0.01, 0.01, 0.01, 0.02), reencoded=(0.0, 0.0, 0.0, 0.0, 0.0))
    expected = "red:blue did nothing: at φ = 1 the VLM's answer is 0.02 from where it was (of at most 1)."
    assert still.sentence(PAIR) == expected
    earlier = replace(still, reencoded=(0.0, 0.03, 0.0, 0.0, 0.0)).sentence(PAIR)
    assert "at φ = 0.25 the VLM's answer is 0.03" in earlier
    assert "at φ = 1 the VLM's answer is 0.00" in calibration().sentence(PAIR)


def test_the_sentences_of_one_route_alone():
    little = (0.0, 0.0, 0.0, 0.0, 0.03)
    assert moving(reencoded=little).sentence(PAIR) == (
        "red:blue moved one route alone: Φ reads a change that the decoded video does not show "
        "(Δϑ 1.00 against 0.03, of at most 1)."
    )
    assert moving(coupled=little).sentence(PAIR) == (
        "red:blue moved one route alone: the decoded video shows a change that Φ does not read "
        "(Δϑ 1.00 against 0.03, of at most 1)."
    )


def test_the_sentence_of_a_concept_that_went_elsewhere():
    astray = moving(positive=(0.0,) * 5, negative=(0.2, 0.4, 0.6, 0.8, 1.0)).sentence(PAIR)
    assert astray == (
        "red:blue moved the VLM's answer by 1.00 (of at most 1), but not towards “blue”: "
        "P(“blue”) − P(“red”) does not grow with φ."
    )


def test_the_sentence_of_a_change_that_is_not_to_the_word():
    away = moving(negative=(0.9, 0.5, 0.2, 0.1, 0.0), positive=(0.0, 0.0, 0.01, 0.01, 0.02))
    assert away.sentence(PAIR).endswith("but not to “blue”: P(“blue”) is at most 0.02.")


def test_the_sentence_of_what_is_there_already():
    there = moving(positive=(0.98,) * 5, negative=(0.01,) * 5, coupled=(0.0,) * 5, reencoded=(0.0,) * 5)
    assert there.sentence(PAIR).endswith("(of at most 1). The VLM says “blue” already at φ = 0.")
