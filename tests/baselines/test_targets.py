"""What a baseline asks for, against closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from transporter_pl.baselines.targets import Targets, objective, target_logit


def _targets(change=0.25):
    start = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    return Targets(("a", "b"), torch.tensor([1, 0]), start, torch.full((2,), change))


def test_the_moved_distribution_by_hand():
    expected = torch.tensor([[0.375, 0.475, 0.15], [0.325, 0.075, 0.6]])
    torch.testing.assert_close(_targets().moved(), expected)


@given(st.floats(0, 1))
def test_the_moved_distribution_is_one_and_its_ends_are_known(change):
    moved = _targets(change).moved()
    torch.testing.assert_close(moved.sum(1), torch.ones(2))
    torch.testing.assert_close(_targets(0.0).moved(), _targets().start)
    torch.testing.assert_close(_targets(1.0).moved(), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))


def test_moved_is_the_cross_entropy_and_its_ascent_ends_at_the_moved_distribution():
    targets, logits = _targets(), torch.zeros(2, 3, requires_grad=True)
    value = objective(logits, targets, "moved", "logit")
    torch.testing.assert_close(value, -cross_entropy(logits, targets.moved(), reduction="none"))
    optimiser = torch.optim.Adam([logits], 0.1)
    for _ in range(400):
        optimiser.zero_grad()
        (-objective(logits, targets, "moved", "logit").sum()).backward()
        optimiser.step()
    torch.testing.assert_close(logits.softmax(-1), targets.moved(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("score", ["logit", "log_prob"])
def test_positive_reads_the_positive_token(score):
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]])
    wanted = torch.tensor([2.0, 4.0])
    if score == "log_prob":
        wanted = wanted - logits.exp().sum(1).log()
    torch.testing.assert_close(target_logit(logits, _targets(), score), wanted)
    torch.testing.assert_close(objective(logits, _targets(), "positive", score), wanted)


def test_restarts_are_neighbours():
    again = _targets().repeated(2)
    assert again.prefixes == ("a", "a", "b", "b")
    assert again.positive.tolist() == [1, 1, 0, 0]
    assert again.start[1].tolist() == again.start[0].tolist() != again.start[2].tolist()
    assert Targets(("a",), torch.tensor([1])).repeated(3).start is None
