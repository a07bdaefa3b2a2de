"""Memory of batches is used again, and never while somebody holds a part of them."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.datamodules.cache import memory as memory_module
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


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.integers(1, 50))
def test_bytes_are_looked_up_and_the_rest_is_zero(rows, chunk):
    memory, tables = Memory(), torch.randn(len(rows), 256).bfloat16()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_module, "CHUNK", chunk)
        for _ in range(2):
            found = memory.looked_up(list(map(memoryview, rows)), tables, (8, 5))
            for row, table, out in zip(rows, tables, found.flatten(1), strict=True):
                assert torch.equal(out[: len(row)], table[list(row)])
                assert not out[len(row) :].any()
            found.fill_(7)
            del found


def test_memory_is_used_again_once_nobody_holds_it():
    memory = Memory()
    place = _made(memory, 1, 2).data_ptr()
    assert _made(memory, 3, 4).data_ptr() == place
    assert _made(memory, 5).data_ptr() == place  # fewer rows
    held = _made(memory, 6)
    assert _made(memory, 7).data_ptr() != held.data_ptr() == place


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from([8, 16]), st.integers(0, 4)), max_size=60))
def test_there_are_as_many_arrays_as_were_held_at_a_time(asked):
    """Of every size of a row, however the numbers of rows change."""
    memory, held, most = Memory(), [], {8: 0, 16: 0}
    for count, size, keep in asked:
        del held[: max(0, len(held) - keep)]
        held.append((size, memory.assembled(_rows(*range(count), length=size), torch.uint8, (size,))))
        most[size] = max(most[size], sum(own == size for own, _ in held))
        for own, number in most.items():
            assert sum(block.array.shape[1] == own for block in memory._blocks) <= number


def test_what_many_had_held_is_given_back():
    memory = Memory()
    held = [_made(memory, 1) for _ in range(3 * KEPT)]
    assert len(memory._blocks) == 3 * KEPT  # those that are held are known, to be used again
    held.clear()
    _made(memory, 1)
    assert len(memory._blocks) <= KEPT + 1


def test_the_rows_of_a_batch_that_was_the_largest_serve_smaller_ones():
    memory = Memory()
    for count in (8, 3, 8, 1, 5) * 20:
        _made(memory, *range(count))
    assert [len(block.array) for block in memory._blocks] == [8]


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
