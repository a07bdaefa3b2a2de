"""The meter counts what lives, and counts the same where there is no data."""

import functools

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from transporter_pl.planning.meter import Meter, without_data

KIB = 1024


def kib(count):
    return torch.zeros(count * KIB // 4)


def test_live_and_peak_are_those_of_storages():
    meter, before = Meter(), kib(1)
    meter.hold(before, before[:3])
    with meter:
        first = kib(8)
        view, second = first[:10], first + 1
        assert meter.live == 17 * KIB
        del first, second
        assert (meter.live, meter.peak) == (9 * KIB, 17 * KIB)  # the view holds its storage
        meter.restart()
        assert meter.peak == 9 * KIB
        del view
    assert (meter.live, meter.peak) == (KIB, 9 * KIB)


def test_gradients_saved_tensors_and_operations():
    layer, x = nn.Linear(64, 64, bias=False), torch.randn(8, 64)
    meter = Meter()
    meter.hold(layer, x)
    assert meter.live == 4 * (64 * 64 + 8 * 64)
    with meter:
        layer(x).square().sum().backward()
    assert meter.flops == 2 * 2 * 8 * 64 * 64  # forward, and backward to the weights
    assert meter.live == 4 * (2 * 64 * 64 + 8 * 64)


def step(layers=4, length=65, width=32):
    kind = functools.partial(nn.TransformerEncoderLayer, width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
    model, meter = nn.Sequential(*(kind() for _ in range(layers))), Meter()
    meter.hold(model)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with meter:
        for _ in range(2):
            model(torch.randn(3, length, width)).square().mean().backward()
            optimizer.step()
    return meter


def test_without_data_memory_and_operations_are_the_same():
    real = step()
    with without_data():
        pretended = step()
    assert pretended.flops == real.flops
    assert pretended.peak == pytest.approx(real.peak, rel=0.02)


def test_without_data_attention_keeps_no_matrix_of_weights():
    with without_data():
        short, long = (step(1, length).peak for length in (2048, 4096))
    assert long < 2.1 * short


def test_without_data_small_tensors_made_of_numbers_keep_them_and_large_ones_cost_nothing():
    with without_data():
        grid = torch.tensor([[3, 2, 2]] * 2)
        ends = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0]).cumsum(0)
        assert ends.tolist() == [4, 8, 12, 16, 20, 24]
        assert bool((torch.tensor([0.5, 0.9]) < 0.95).all())
        assert nn.Linear(2**20, 2**20).weight.nbytes == 2**42
    assert torch.zeros(2).sum().item() == 0


def test_an_end_that_depends_on_data_does_not_come():
    with without_data(), Meter():
        values = torch.rand(2**21)
        assert not (values > -1).all()
        with pytest.raises(DataDependentOutputException):
            int(values.argmax())
