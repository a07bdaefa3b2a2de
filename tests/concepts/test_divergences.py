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


def brute_force(p, q):
    """The three as their sums are written."""
    root = sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(p, q, strict=True))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    to = [sum(a * math.log2(a / m) for a, m in zip(x, middle, strict=True)) for x in (p, q)]
    return math.sqrt(root / 2), sum(to) / 2, sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@given(logits, logits)
def test_against_their_sums(p, q):
    p, q = (x.double().clamp_min(1e-20) for x in (p, q))
    for measure, expected in zip((hellinger, js, kl), brute_force(p.tolist(), q.tolist()), strict=True):
        assert measure(p, q).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.floats(0, 1), st.floats(0, 1))
def test_closed_forms_of_two_words(a, b):
    """H² = 1 − Σ √pq; JS = H₂(mean) − mean of H₂, H₂ the entropy of a coin in bits."""
    p, q = (torch.tensor([x, 1 - x], dtype=torch.float64) for x in (a, b))
    overlap = math.sqrt(a * b) + math.sqrt((1 - a) * (1 - b))
    assert hellinger(p, q).item() ** 2 == pytest.approx(max(0, 1 - overlap), abs=1e-12)
    coin = [entropy([x, 1 - x], base=2) for x in ((a + b) / 2, a, b)]
    assert js(p, q).item() == pytest.approx(coin[0] - (coin[1] + coin[2]) / 2, abs=1e-9)


@given(logits, logits, logits)
def test_hellinger_is_a_metric(p, q, r):
    """And so is √JS: no way round is shorter."""
    for measure in (hellinger, lambda x, y: js(x, y).sqrt()):
        assert measure(p, r) <= measure(p, q) + measure(q, r) + 1e-3


@given(logits, logits)
def test_they_bound_each_other(p, q):
    """H² ≤ JS in bits ≤ √2 H (Lin 1991; through total variation), and H² ≤ KL / 2."""
    squared, jensen, kullback = hellinger(p, q) ** 2, js(p, q), kl(p, q)
    assert squared <= jensen + 1e-5
    assert jensen <= 2**0.5 * squared.sqrt() + 1e-5
    assert squared <= kullback / 2 + 1e-5


@given(logits, logits, st.permutations(range(6)))
def test_the_order_of_the_words_does_not_matter(p, q, order):
    for measure in (hellinger, js, kl):
        torch.testing.assert_close(measure(p[order], q[order]), measure(p, q), atol=1e-5, rtol=1e-4)


@given(logits, logits)
def test_words_that_are_merged_are_no_further_apart(p, q):
    """Data processing: of the same answers, a coarser reading tells less."""
    coarse = [torch.stack([x[:3].sum(), x[3:].sum()]) for x in (p, q)]
    for measure in (hellinger, js, kl):
        assert measure(*coarse) <= measure(p, q) + 1e-4
