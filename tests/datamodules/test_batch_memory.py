"""Memory of batches is used again, and never while somebody holds a part of them."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.datamodules.cache.memory import KEPT, Memory


def _rows(*values, length=16):
    return [memoryview(bytes([value]) * length) for value in values]


def _made(memory, *values, length=16):
    return memory.assembled(_rows(*values, length=length), torch.uint8, (16,))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=5), st.integers(0, 16))
def test_rows_are_put_together_and_the_rest_is_zero(values, length):
    memory = Memory()
    for _ in range(2):  # fresh memory, and memory that held something else
        found = memory.assembled(_rows(*values, length=length), torch.uint8, (4, 4))
        expected = torch.tensor(values, dtype=torch.uint8)[:, None].repeat(1, 16)
        expected[:, length:] = 0
        assert torch.equal(found.flatten(1), expected)
        found.fill_(7)
        del found


def test_memory_is_used_again_once_nobody_holds_it():
    memory = Memory()
    place = _made(memory, 1, 2).data_ptr()
    assert _made(memory, 3, 4).data_ptr() == place
    assert _made(memory, 5).data_ptr() != place  # another size


@pytest.mark.parametrize("part", [lambda x: x, lambda x: x[1:], lambda x: x.view(torch.int16), lambda x: x.numpy()])
def test_what_somebody_holds_is_left_alone(part):
    memory = Memory()
    held = part(_made(memory, 1, 2))
    before = held.copy() if not isinstance(held, torch.Tensor) else held.clone()
    for value in range(3, 3 + 2 * KEPT):
        _made(memory, value, value)
    assert (held == before).all()


def test_no_thread_gets_what_another_holds():
    memory = Memory()

    def work(value):
        held = [_made(memory, value, value) for _ in range(5)]
        return all((x == value).all() for x in held)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))


def test_another_process_has_its_own():
    memory = Memory()
    held = _made(memory, 1)
    assert _made(pickle.loads(pickle.dumps(memory)), 2).data_ptr() != held.data_ptr()
