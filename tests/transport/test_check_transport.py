"""The contract suite of transports finds every broken promise."""

import re

import pytest
import torch
from torch import nn

from transporter_pl.errors import TransporterError
from transporter_pl.testing import check_transport
from transporter_pl.transport import PlanTransport, Transport


class Attention(PlanTransport):
    """Keeps every promise."""

    def plan(self, first, second):
        return (first @ second.mT / self.width).softmax(1)


class ReadsAWord(Attention):
    reads = "first"

    def forward(self, *tokens):
        return tokens[0]


class ReadsTheUnknown(Attention):
    reads = ("first", "third")


class OneTokenFewer(Attention):
    def forward(self, first, second):
        return super().forward(first, second)[:, 1:]


class RowsSumToOne(Attention):
    def plan(self, first, second):
        return (first @ second.mT / self.width).softmax(2)


class NegativeWeights(Attention):
    def plan(self, first, second):
        similar = first @ second.mT / self.width
        return similar - similar.mean(1, keepdim=True) + 1 / similar.shape[1]


class AnotherPlan(Attention):
    def forward(self, first, second):
        return super().forward(second, second)


class NeedsTwoTokens(Attention):
    def plan(self, first, second):
        return super().plan(first / first.var(1, keepdim=True, correction=0), second)


class HalfPrecision(Attention):
    def forward(self, first, second):
        return self.plan(first, second).mT @ first


class DoublePrecision(Attention):
    def forward(self, first, second):
        return super().forward(first, second).double()


class ClipsTogether(Attention):
    def plan(self, first, second):
        return super().plan(first - first.mean(0), second)


class NeverTwice(Attention):
    def plan(self, first, second):
        return super().plan(first + torch.randn_like(first), second)


class Detached(Attention):
    def plan(self, first, second):
        return super().plan(first, second.detach())


class LearnsNothing(Attention):
    def __init__(self, width):
        super().__init__(width)
        self.forgotten = nn.Parameter(torch.ones(width))


class DrawnAnew(Attention):
    def __init__(self, width):
        super().__init__(width)
        self.directions = torch.randn(width, width) / width**0.5

    def plan(self, first, second):
        return super().plan(first @ self.directions.to(first), second)


class Raises(Transport):
    def forward(self, first, second):
        message = "not today"
        raise RuntimeError(message)


def found(kind, **options):
    return [(f.name, f.message) for f in check_transport(f"{__name__}.{kind.__name__}", options)]


def test_a_kept_promise_is_no_finding():
    assert found(Attention) == []


@pytest.mark.parametrize(
    ("kind", "check", "says"),
    [
        (ReadsAWord, "reads", "reads: 'first' is no tuple of some of first, second, reencoded"),
        (ReadsTheUnknown, "reads", r"reads: \('first', 'third'\)"),
        (OneTokenFewer, "transported", r"z̃: shape \(2, 6, 16\), expected \(2, 7, 16\)"),
        (RowsSumToOne, "plan", "plan: columns are no weights; they sum to 1 up to"),
        (NegativeWeights, "plan", "plan: columns are no weights; .* the least entry is -"),
        (AnotherPlan, "plan", "z̃ and plan.mT @ first: differ"),
        (NeedsTwoTokens, "one_token", "z̃ of one token: not all finite"),
        (HalfPrecision, "precision", "z̃ under autocast: torch.bfloat16, expected torch.float32"),
        (DoublePrecision, "precision", "z̃ of bfloat16: torch.float64, expected torch.bfloat16"),
        (ClipsTogether, "batch", "z̃: a clip in a batch and alone: differ"),
        (NeverTwice, "batch", "z̃: twice the same input: differ"),
        (Detached, "gradients", "z̃ → second: no finite gradient|z̃ → second: no gradient"),
        (LearnsNothing, "weights", "weights: no gradient at forgotten"),
        (DrawnAnew, "folder", "z̃ after save and load: differ"),
        (Raises, "transported", "raised RuntimeError: not today"),
    ],
)
def test_a_broken_one_is(kind, check, says):
    messages = [message for name, message in found(kind) if name == check]
    assert any(re.search(says, message) for message in messages), found(kind)


def test_wrong_options_are_no_finding():
    with pytest.raises(TransporterError, match="has no option 'temperature'; it has: none"):
        found(Attention, temperature=1.0)
