"""Settings that are held against each other."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.errors import TransporterError
from transporter_pl.settings import check_recorded, dotted

SETTINGS = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.none() | st.integers(0, 3),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("xy"), part, max_size=2),
        max_leaves=6,
    ),
)


def test_names_are_joined_by_dots():
    fields = {"steps": 2, "rows": [{"id": "a"}, {"id": "b"}], "vlm": {"name": "wan", "sizes": [3, 4]}}
    expected = {"steps": 2, "rows.0.id": "a", "rows.1.id": "b", "vlm.name": "wan", "vlm.sizes.0": 3, "vlm.sizes.1": 4}
    assert dotted(fields) == expected


@given(SETTINGS)
def test_equal_settings_pass(settings):
    check_recorded(Path("a"), settings, dict(reversed(settings.items())), {})


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"columns": {"x": {}}}, {"columns": {"y": {}}}),
        ({"a": []}, {"a": {}}),
        ({"a": [[]]}, {"a": []}),
        ({}, {"a": {"x": 0}}),
    ],
)
def test_other_settings_are_refused(was, now):
    for one, other in ((was, now), (now, was)):
        with pytest.raises(TransporterError, match="was made with"):
            check_recorded(Path("f"), one, other, {})


def test_the_first_field_that_differs_is_named_as_users_know_it():
    was, now = {"a": 1, "cases": [{"id": "x"}]}, {"a": 1, "cases": [{"id": "y"}], "b": 2}
    with pytest.raises(TransporterError, match=r"^cases.0.id: 'f' was made with 'x', not 'y'; give another folder"):
        check_recorded(Path("f"), was, now, {})
    with pytest.raises(TransporterError, match=r"^data: 'f' was made with 'x', not 'y'"):
        check_recorded(Path("f"), was, now, {"cases": "data"})
