"""Names become transports; the ablations do what they say."""

import pytest
import torch

from transporter_pl.errors import TransporterError
from transporter_pl.transport import Transport, new_transport, transports


def test_ours_are_registered():
    assert {"zeta", "mean", "first_only", "second_only"} <= set(transports.names())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("first_only", lambda a, b: a), ("second_only", lambda a, b: b), ("mean", lambda a, b: (a + b) / 2)],
)
def test_ablations(name, expected):
    first, second = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    moved, plan = new_transport(name, 4, {})(first, second)
    torch.testing.assert_close(moved, expected(first, second))
    assert plan is None


@pytest.mark.parametrize("name", ["zeta", "mean", "first_only", "second_only"])
def test_contract(name):
    made = new_transport(name, 4, {})
    assert isinstance(made, Transport)
    first, second = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    moved, plan = made(first, second)
    assert moved.shape == first.shape
    assert plan is None or plan.shape == (2, 6, 6)


def test_class_path_and_options():
    made = new_transport("transporter_pl.transport.zeta.ZetaTransport", 4, {"projections": 3})
    assert made.first_projections.shape == (3, 4)


def test_unknown_option_lists_the_known():
    with pytest.raises(TransporterError, match=r"no option 'projection'; it has: projections, regularisation"):
        new_transport("zeta", 4, {"projection": 3})


def test_unknown_name_suggests():
    with pytest.raises(TransporterError, match="Did you mean 'zeta'"):
        new_transport("zetta", 4, {})
