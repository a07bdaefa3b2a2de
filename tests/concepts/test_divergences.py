import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from transporter_pl.concepts.divergences import divergences, hellinger, js, kl
from transporter_pl.errors import TransporterError

logits = st.lists(st.floats(-60, 60), min_size=6, max_size=6).map(lambda x: torch.tensor(x).softmax(-1))


def test_registered_names():
    assert {"hellinger", "js", "kl"} <= set(divergences.names())
    assert divergences.get("hellinger") is hellinger
    with pytest.raises(TransporterError, match="Did you mean 'hellinger'"):
        divergences.get("hellingr")


def test_closed_forms():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    apart = torch.tensor([0.0, 1.0])
    assert hellinger(p, q).item() == pytest.approx(math.sqrt(1 - math.sqrt(0.5)))
    assert hellinger(p, apart).item() == pytest.approx(1)
    assert js(p, apart).item() == pytest.approx(1)
    assert kl(p, q).item() == pytest.approx(math.log(2))
    assert math.isfinite(kl(p, apart).item())
    assert kl(p, apart).item() > 50


def test_against_scipy():
    p, q = torch.rand(2, 5, 100, dtype=torch.float64).pow(4).unbind()
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    torch.testing.assert_close(js(p, q), torch.from_numpy(jensenshannon(p, q, base=2, axis=-1) ** 2))
    torch.testing.assert_close(kl(p, q), torch.from_numpy(entropy(p, q, axis=-1)))


@given(logits, logits)
def test_bounds_and_symmetry(p, q):
    for measure in (hellinger, js):
        assert 0 <= measure(p, q) <= 1
        torch.testing.assert_close(measure(p, q), measure(q, p))
    assert kl(p, q) >= 0
    assert kl(p, q).isfinite()


@given(logits, logits)
def test_zero_exactly_if_equal(p, q):
    for measure in (hellinger, js, kl):
        assert measure(p, p) == 0
        if (p - q).abs().max() > 1e-2:
            assert measure(p, q) > 0


@pytest.mark.parametrize("measure", [hellinger, js, kl])
def test_half_precision_and_gradients_at_zero(measure):
    p = torch.tensor([[0.0, 1e-40, 1.0]], requires_grad=True)
    q = torch.tensor([[0.5, 0.5, 0.0]])
    measure(p, q).sum().backward()
    assert p.grad.isfinite().all()
    assert measure(p.detach().bfloat16(), q.bfloat16()).dtype == torch.float32


def test_gradcheck():
    p, q = torch.rand(2, 3, 7, dtype=torch.float64).softmax(-1).unbind()
    for measure in (hellinger, js, kl):
        assert torch.autograd.gradcheck(measure, (p.requires_grad_(), q.requires_grad_()))
