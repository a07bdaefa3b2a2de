import pytest
import torch

from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.explain import memory
from transporter_pl.explain.memory import check_memory, free_memory
from transporter_pl.loading import load_generator, load_vlm


@pytest.fixture(scope="module")
def bridge(tiny, tiny_coupling):
    network = CouplingNetwork.from_pretrained(tiny_coupling)
    return Bridge(load_generator(tiny.generator, tiny.video), load_vlm(tiny.vlm, tiny.video), network)


@pytest.fixture(scope="module")
def condition(bridge):
    with torch.no_grad():
        return bridge.generator.encode_text(["a red oval moves left"])


def test_what_fits_passes(bridge, condition):
    check_memory(bridge, 8, condition)
    assert free_memory(torch.device("cpu")) > 2**20


def test_the_need_is_the_clips_not_the_weights(bridge, condition, tiny):
    need = memory._rehearsed(bridge, condition)
    weights = sum(p.nbytes for p in bridge.parameters())
    pixels = 4 * 3 * tiny.video.frames * tiny.video.height * tiny.video.width
    assert pixels < need < 200 * pixels
    assert abs(memory._rehearsed(bridge, condition) - need) < 0.01 * weights


def test_what_does_not_fit_is_refused_with_what_does(bridge, condition, monkeypatch):
    need = memory._rehearsed(bridge, condition)
    monkeypatch.setattr(memory, "free_memory", lambda _: int(3.5 * need))
    check_memory(bridge, 3, condition)
    with pytest.raises(TransporterError, match=r"batch_size: 8 clips at once need .* GiB .* free; give --batch_size 3"):
        check_memory(bridge, 8, condition)
    monkeypatch.setattr(memory, "free_memory", lambda _: need // 2)
    with pytest.raises(TransporterError, match="take fewer frames or a smaller size"):
        check_memory(bridge, 8, condition)


def test_a_device_that_runs_out_is_one_line(bridge, condition, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bridge.generator, "decode", full)
    with pytest.raises(TransporterError, match=r"memory: not even one clip fits into the .* GiB that are free"):
        check_memory(bridge, 1, condition)
