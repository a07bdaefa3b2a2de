"""The four figures against NumPy in double precision and SciPy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from transporter_pl.errors import TransporterError
from transporter_pl.metrics.similarity import EmbeddingSimilarity
from transporter_pl.metrics.token_gain import TokenGain

SHAPE = (5, 7, 6)


def tokens(seed=0):
    return 3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def figures(z, r, temperature=1.0, batch=2):
    metric = EmbeddingSimilarity(temperature)
    for one, other in zip(z.split(batch), r.split(batch), strict=True):
        metric.update(one, other)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_figures_are_as_they_are_written(temperature):
    z, r = tokens().double().numpy(), tokens(1).double().numpy()
    cosine = (z * r).sum(-1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(r, axis=-1)
    expected = {
        "cos": cosine.mean(),
        "l1": (np.abs(z - r).sum((1, 2)) / np.abs(r).sum((1, 2))).mean(),
        "l2": (np.linalg.norm(z - r, axis=(1, 2)) / np.linalg.norm(r, axis=(1, 2))).mean(),
        "kl": entropy(softmax(r / temperature, -1), softmax(z / temperature, -1), axis=-1).mean(),
    }
    assert figures(tokens(), tokens(1), temperature) == pytest.approx(expected, rel=1e-5)


def test_the_same_tokens_are_at_no_distance():
    assert figures(tokens(), tokens()) == pytest.approx({"cos": 1, "l1": 0, "l2": 0, "kl": 0}, abs=1e-6)


def test_no_tokens_are_at_distance_1():
    found = figures(torch.zeros(SHAPE), tokens())
    assert (found["cos"], found["l1"], found["l2"]) == pytest.approx((0, 1, 1), abs=1e-6)


def test_all_but_kl_do_not_depend_on_the_vlm_s_scale():
    small, large = figures(tokens(), tokens(1)), figures(100 * tokens(), 100 * tokens(1))
    assert small.pop("kl") < large.pop("kl")
    assert small == pytest.approx(large, rel=1e-5)


def test_kl_has_a_direction():
    peaked = torch.zeros(1, 1, 4)
    peaked[..., 0] = 10
    assert figures(torch.zeros(1, 1, 4), peaked)["kl"] == pytest.approx(np.log(4), abs=0.01)
    assert figures(peaked, torch.zeros(1, 1, 4))["kl"] > 5


def test_half_precision():
    whole = figures(tokens(), tokens(1))
    assert figures(tokens().half(), tokens(1).half()) == pytest.approx(whole, rel=1e-2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(TransporterError, match="temperature: "):
        EmbeddingSimilarity(temperature)


def test_what_can_t_be_compared_is_refused():
    with pytest.raises(TransporterError, match="tokens: "):
        EmbeddingSimilarity().update(tokens(), tokens()[:, :3])
    with pytest.raises(TransporterError, match="tokens: none were added"), pytest.warns(UserWarning, match="compute"):
        EmbeddingSimilarity().compute()


def test_token_gain_is_the_mean_change():
    metric = TokenGain()
    metric.update(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.6]))
    metric.update(torch.tensor([0.25], dtype=torch.float16), torch.tensor([0.0], dtype=torch.float16))
    assert metric.compute().item() == pytest.approx((0.8 - 0.1 + 0.25) / 3)
    with pytest.raises(TransporterError, match="start: "):
        metric.update(torch.zeros(2), torch.zeros(1))
