"""The Gram matrix in closed form, and what it can't see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter_pl.coupling.losses import LossWeights, coupling_loss
from transporter_pl.coupling.relations import gram
from transporter_pl.samples import Coupled


def rotation(width, seed=0):
    return torch.linalg.qr(
        torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).Q


def test_closed_form():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    products = torch.tensor([[[5.0, 1.0], [1.0, 10.0]]])
    torch.testing.assert_close(gram(tokens, "none"), products)
    torch.testing.assert_close(gram(tokens), products / 2)


@pytest.mark.parametrize("width", [16, 4096])
def test_standardised_tokens_of_any_width_have_unit_diagonal(width):
    tokens = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))
    assert gram(tokens).diagonal(dim1=1, dim2=2).mean().item() == pytest.approx(1, abs=0.3)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_blind_to_rotations(seed):
    tokens = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(gram(tokens @ rotation(6, seed)), gram(tokens))


def test_exact_under_autocast():
    tokens = torch.randn(1, 4, 64)
    expected = gram(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gram(tokens), expected)
        assert gram(tokens.bfloat16()).dtype == torch.float32


def test_the_loss_is_the_sum_of_its_equations():
    z, first, second, moved = torch.randn(4, 2, 5, 3).double()
    loss = coupling_loss(Coupled(moved, first, second), z, LossWeights(first=2.0, second=3.0, transport=5.0))
    relations = [x @ x.mT / 3 for x in (z, second, moved)]
    one = (z - first).square().mean()
    two = (relations[0] - relations[1]).square().mean()
    three = (z - moved).square().mean() + (relations[0] - relations[2]).square().mean()
    torch.testing.assert_close(loss.first, one)
    torch.testing.assert_close(loss.second, two)
    torch.testing.assert_close(loss.transport, three)
    torch.testing.assert_close(loss.total, 2 * one + 3 * two + 5 * three)


def test_the_second_loss_forgives_a_rotation_and_the_first_does_not():
    z = torch.randn(1, 5, 3).double()
    loss = coupling_loss(Coupled(z, first=z @ rotation(3), second=z @ rotation(3)), z)
    assert loss.second < 1e-20
    assert loss.transport == 0
    assert loss.first > 0.1


@pytest.mark.parametrize("parts", [(), ("first",), ("second",)])
def test_a_part_that_is_not_there_has_no_loss(parts):
    z, made, moved = torch.randn(3, 2, 5, 3).double()
    weights = LossWeights(first=2.0, second=3.0, transport=5.0)
    loss = coupling_loss(Coupled(moved, **dict.fromkeys(parts, made)), z, weights)
    whole = coupling_loss(Coupled(moved, made, made), z, weights)
    expected = weights.transport * whole.transport
    for part in ("first", "second"):
        if part in parts:
            torch.testing.assert_close(getattr(loss, part), getattr(whole, part))
            expected = expected + getattr(weights, part) * getattr(whole, part)
        else:
            assert getattr(loss, part) is None
    torch.testing.assert_close(loss.total, expected)
