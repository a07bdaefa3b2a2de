"""The order of clips: bijections, no clip lost or taken twice, the same for any number of processes, and resumed."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, DistributedSampler

from transporter_pl.datamodules.cache.order import Batches, Permutation, ResumableLoader, Selection
from transporter_pl.errors import TransporterError

counts = st.integers(1, 40)
names = st.text(max_size=8)
STATE = {"seed": 7, "epoch": 2, "taken": 24, "clips": 100, "batch_size": 4, "processes": 3}


@dataclass(frozen=True)
class Taken:
    """A batch that says what it was asked for; a loader would convert a list."""

    items: list


class Items(Dataset):
    def __getitem__(self, items):
        return Taken(items)


def _places(count):
    return np.arange(count, dtype=np.uint64)


def _clips(batches):
    return [clip for batch in batches for clip, _ in batch]


def _together(selection, batch_size, processes, epoch=0, **options):
    """An epoch's batches, those of all processes joined."""
    ranks = [Batches(selection, batch_size, processes=processes, rank=r, **options) for r in range(processes)]
    for batches in ranks:
        batches.taken = epoch * len(batches) * batch_size * processes
    return [[item for batch in step for item in batch] for step in zip(*ranks, strict=True)]


@given(st.integers(1, 5000), names)
def test_a_permutation_holds_every_number_once(count, name):
    assert sorted(Permutation(count, name)(_places(count)).tolist()) == list(range(count))


@given(st.integers(1, 2**62), names, st.data())
@settings(max_examples=50)
def test_numbers_of_a_large_permutation_are_found_one_by_one(count, name, data):
    places = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5, unique=True)), np.uint64)
    permutation = Permutation(count, name)
    found = permutation(places)
    assert len(set(found.tolist())) == len(places)
    assert (found < count).all()
    assert found.tolist() == [permutation(places[i : i + 1]).item() for i in range(len(places))]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_order_of_a_few_is_drawn_alike(count):
    draws = 3000
    found = Counter(tuple(Permutation(count, f"0-{epoch}")(_places(count)).tolist()) for epoch in range(draws))
    orders = math.factorial(count)
    deviation = sum((seen - draws / orders) ** 2 for seen in found.values()) / (draws / orders)
    assert len(found) == orders
    assert deviation < orders - 1 + 5 * math.sqrt(2 * (orders - 1))  # χ² within five standard deviations


def test_every_number_stands_at_every_place_alike():
    count, draws = 11, 3000
    table = np.zeros((count, count))
    for seed in range(draws):
        table[np.arange(count), Permutation(count, f"{seed}-0")(_places(count)).astype(int)] += 1
    deviation = ((table - draws / count) ** 2).sum() / (draws / count)
    freedom = (count - 1) ** 2
    assert abs(deviation - freedom) < 5 * math.sqrt(2 * freedom)


def test_neighbours_do_not_stay_neighbours():
    count = 10_000
    found = Permutation(count, "0-0")(_places(count)).astype(float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(found, np.arange(count))[0, 1]) < 0.05


def test_a_selection_is_a_part_of_the_order_or_of_the_data_set():
    order = Permutation(9, "split")
    whole = order(_places(9)).tolist()
    assert Selection(range(2, 9), order)(_places(7)).tolist() == whole[2:]
    assert Selection(range(2, 9))(_places(7)).tolist() == list(range(2, 9))


@given(counts, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_training_takes_every_clip_in_steps_that_are_full(count, batch_size, processes, accumulate, epoch):
    selection = Selection(range(count), Permutation(count, "split"))
    steps = _together(selection, batch_size, processes, epoch, shuffle=True, accumulate=accumulate)
    assert len(steps) == math.ceil(count / (batch_size * processes * accumulate)) * accumulate
    assert all(len(step) == batch_size * processes for step in steps)
    taken = _clips(steps)
    assert sorted(taken[:count]) == list(range(count))
    assert taken == (taken[:count] * len(taken))[: len(taken)]  # filled up from the beginning


@given(counts, st.integers(1, 3), st.integers(1, 4))
def test_several_processes_take_what_one_takes(count, batch_size, processes):
    selection, options = Selection(range(count)), {"seed": 3, "shuffle": True}
    alone = _together(selection, batch_size * processes, 1, 2, **options)
    assert _together(selection, batch_size, processes, 2, **options) == alone


@given(counts, st.integers(1, 6), st.integers(1, 4))
def test_validation_takes_every_clip_once_in_order(count, batch_size, processes):
    ranks = [Batches(Selection(range(count)), batch_size, processes=processes, rank=r) for r in range(processes)]
    batches = [list(rank) for rank in ranks]
    assert {len(own) for own in batches} == {len(ranks[0])}
    sizes = [len(batch) for step in zip(*batches, strict=True) for batch in step]
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size
    last = sizes[-processes:]
    assert max(last) - min(last) <= 1
    taken = _clips(batch for step in zip(*batches, strict=True) for batch in step)
    rest = count % (batch_size * processes)
    assert sorted(set(taken)) == list(range(count))
    if rest == 0 or rest >= processes:
        assert taken == list(range(count))
    assert all(draw == 0 for own in batches for batch in own for _, draw in batch)


def test_epochs_and_seeds_have_orders_and_captions_of_their_own():
    def epoch(seed, number):
        return [
            item for batch in _together(Selection(range(50)), 5, 1, number, seed=seed, shuffle=True) for item in batch
        ]

    assert epoch(0, 0) == epoch(0, 0)
    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert [clip for clip, _ in one] != [clip for clip, _ in other]
            assert sum(dict(one)[clip] % 10 == dict(other)[clip] % 10 for clip in range(50)) < 20
    assert Counter(draw % 2 for draw in dict(orders[0]).values())[0] in range(12, 39)


def _loader(batches, workers=0):
    return ResumableLoader(Items(), None, sampler=batches, num_workers=workers)


@given(counts, st.integers(1, 4), st.integers(1, 3), st.integers(0, 30))
def test_a_training_goes_on_where_it_stood(count, batch_size, accumulate, steps):
    options = {"batch_size": batch_size, "shuffle": True, "accumulate": accumulate}
    batches = Batches(Selection(range(count)), seed=5, **options)
    expected = [
        batch for epoch in range(2 + steps // len(batches)) for batch in batches.batches(epoch, range(len(batches)))
    ][: steps + len(batches)]
    loader, taken = _loader(batches), []
    while len(taken) < steps:
        taken += [batch.items for _, batch in zip(range(steps - len(taken)), loader, strict=False)]
    again = _loader(Batches(Selection(range(count)), **options))
    again.load_state_dict(loader.state_dict())
    assert again.state_dict() == loader.state_dict()
    assert taken + [batch.items for batch in again] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_workers_read_ahead_do_not_count(workers):
    batches = Batches(Selection(range(40)), 2, shuffle=True)
    loader = _loader(batches, workers)
    for taken in (0, 3, 6):
        waiting = iter(loader)
        assert [next(waiting).items for _ in range(3)] == batches.batches(0, range(taken, taken + 3))
        place = {"seed": 0, "epoch": 0, "taken": 2 * taken + 6, "clips": 40}
        assert loader.state_dict() == {**place, "batch_size": 2, "processes": 1}
    assert len(list(loader)) == 20  # over the end of an epoch
    assert (loader.state_dict()["epoch"], loader.state_dict()["taken"]) == (1, 18)


def test_the_batches_of_all_processes_count():
    loader = _loader(Batches(Selection(range(40)), 2, shuffle=True, processes=3, rank=1))
    for _ in zip(range(2), loader, strict=False):
        pass
    assert loader.state_dict()["taken"] == 12


class Spoilt(Dataset):
    def __getitem__(self, items):
        msg = "path: a shard is damaged"
        raise TransporterError(msg)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_reaches_the_training(workers):
    loader = ResumableLoader(Spoilt(), None, sampler=Batches(Selection(range(9)), 2), num_workers=workers)
    with pytest.raises(TransporterError, match="a shard is damaged"):
        next(iter(loader))
    assert loader.state_dict()["taken"] == 0


def test_it_goes_on_with_other_batches_where_they_fit():
    def after(batch_size, processes, accumulate):
        shared = Selection(range(100)), batch_size, 0, True, accumulate, processes
        ranks = [Batches(*shared, rank) for rank in range(processes)]
        for batches in ranks:
            batches.load_state_dict(STATE)
        return [item for step in zip(*ranks, strict=True) for batch in step for item in batch][:76]

    expected = after(4, 3, 1)
    assert sorted(clip for clip, _ in expected) == sorted({clip for clip, _ in expected})
    for other in ((12, 1, 1), (6, 2, 5), (2, 3, 1), (24, 1, 2)):
        assert after(*other) == expected
    for other in ((10, 1, 1), (3, 3, 1)):
        with pytest.raises(TransporterError) as error:
            after(*other)
        assert f"batch_size: {other[0]} on {other[1]} process(es)" in str(error.value)
        assert "after 24 clips of its epoch, in batches of 4 on 3 process(es)" in str(error.value)


def test_another_data_set_is_refused_in_the_middle_of_an_epoch():
    batches = Batches(Selection(range(90)), 4, shuffle=True)
    with pytest.raises(TransporterError, match="in the middle of 100 training clips, not 90"):
        batches.load_state_dict(STATE)
    batches.load_state_dict({**STATE, "taken": 0})
    assert batches.state_dict()["epoch"] == 2


def test_lightning_leaves_the_sampler_alone():
    assert isinstance(Batches(Selection(range(3)), 1), DistributedSampler)
