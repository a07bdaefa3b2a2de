"""Which clips are chosen, and what is said of those that can't be."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transporter_pl.concepts.pairs import Pair
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.cases import ReferenceClips, choose
from transporter_pl.samples import VideoSpec

RIGHT, BLUE = Pair("left", "right"), Pair("red", "blue")


@dataclass(frozen=True)
class Clip:
    id: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    video: torch.Tensor


class Data:
    """Clips whose only pixel is their index; it remembers which were read."""

    def __init__(self, captions, broken=()):
        self.video = VideoSpec(1, 1, 1)
        self.clips = [Clip(f"clip{k}", said if isinstance(said, tuple) else (said,)) for k, said in enumerate(captions)]
        self.broken, self.read, self.scale = set(broken), [], 1.0

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            msg = "video: can't be read"
            raise TransporterError(msg)
        return Read(torch.full((1, 3, 1, 1), self.scale * index))


def ids(selection):
    return [case.id for case in selection.cases]


def test_cases_have_the_word_once_and_stand_evenly():
    data = Data([f"{k} moves {'right' if k % 2 else 'left'}" for k in range(12)])
    found = choose(data, [RIGHT], scenes=3, references=4)
    assert ids(found) == ["clip1", "clip5", "clip9"]  # of 1, 3, 5, 7, 9, 11
    assert found.cases[1].captions == ("5 moves left", "5 moves right")
    assert found.cases[1].real.unique().tolist() == [5.0]
    assert found.references == (0, 3, 6, 8)  # of the nine others, in their order
    assert sorted(data.read) == [1, 5, 9]


@pytest.mark.parametrize(
    "caption", ["it moves up", "brightly lit", "right and right again", "{} moves right", "moves Right"]
)
def test_captions_that_do_not_fit(caption):
    data = Data([caption, "it moves right", "left"])
    assert ids(choose(data, [RIGHT], 1, 1)) == ["clip1"]


def test_the_first_caption_that_fits_is_taken():
    data = Data([("it moves", "right, to the right", "it goes right", "right it goes"), "left"])
    (case,) = choose(data, [RIGHT], 1, 1).cases
    assert case.context == "it goes {}"


def test_a_pairs_own_contexts_are_not_looked_at():
    data = Data(["it moves right", "left"])
    (case,) = choose(data, [Pair("left", "right", ("an oval moves {}",))], 1, 1).cases
    assert case.context == "it moves {}"


def test_broken_files_are_replaced_and_told():
    data = Data([f"{k} right" for k in range(6)], broken=[0, 1, 5])
    found = choose(data, [RIGHT], scenes=2, references=6)
    assert ids(found) == ["clip3", "clip2"]  # 0 and 3 were asked for
    assert found.skipped == ("clip0: video: can't be read", "clip1: video: can't be read")
    assert found.references == (4, 5)
    said = []
    references = ReferenceClips(data, found.references, said.append)
    for _ in range(2):
        assert [batch.unique().tolist() for batch in references.batches(2)] == [[4.0]]
    assert said == ["clip5: video: can't be read"]  # once


def test_references_of_which_none_can_be_read():
    data = Data(["right", "left"], broken=[1])
    references = ReferenceClips(data, choose(data, [RIGHT], 1, 1).references, print)
    with pytest.raises(TransporterError, match="references: none of the 1 clips can be read"):
        list(references.batches(2))
    with pytest.raises(TransporterError, match="references: none of the 1 clips can be read"):
        references.first(2)


def test_references_are_read_when_they_are_asked_for():
    data = Data(["left"] * 9, broken=[1])
    references = ReferenceClips(data, range(9), print)
    assert data.read == []
    batches = references.batches(3)
    assert next(batches).flatten(1)[:, 0].tolist() == [0, 2, 3]
    assert data.read == [0, 1, 2, 3]
    assert [len(batch) for batch in batches] == [3, 2]


def test_the_first_references_are_read_once():
    data = Data(["left"] * 9, broken=[0])
    data.scale = 1 / 255
    references = ReferenceClips(data, range(9), print)
    for _ in range(2):
        found = references.first(3)
        assert found.shape == (3, 1, 3, 1, 1)
        torch.testing.assert_close(found[:, 0, 0, 0, 0], torch.tensor([1, 2, 3]) / 255)
    assert data.read == [0, 1, 2, 3]
    assert len(references.first(99)) == 8


@given(st.lists(st.sampled_from(["blue right", "red right", "blue left", "red left"]), max_size=30), st.integers(1, 4))
def test_no_clip_serves_twice(captions, scenes):
    data = Data(captions)
    try:
        found = choose(data, [RIGHT, BLUE], scenes, references=5)
    except TransporterError as error:
        few = "there are", "taken", "no clip has"  # is as good an answer
        assert any(words in str(error) for words in few)  # noqa: PT017
        return
    cases = [int(name.removeprefix("clip")) for name in ids(found)]
    used = [*cases, *found.references]
    assert len(set(used)) == len(used)
    assert [case.pair for case in found.cases] == [RIGHT] * scenes + [BLUE] * scenes
    assert all(case.pair.positive in data.clips[row].captions[0] for case, row in zip(found.cases, cases, strict=True))


@pytest.mark.parametrize(
    ("captions", "scenes", "message"),
    [
        (["right", "left"], 2, "scenes: 2 of each pair, but of left:right there are 1: .* 'right' once; ask for fewer"),
        (["left rights"], 1, "pairs: no clip has a caption with 'right' once. Did you mean 'rights'"),
        (["right"], 1, "references: the 1 clips are all taken"),
    ],
)
def test_too_few_clips(captions, scenes, message):
    with pytest.raises(TransporterError, match=message):
        choose(Data(captions), [RIGHT], scenes, references=1)


def test_a_clip_that_an_earlier_pair_has_is_no_unheard_word():
    with pytest.raises(TransporterError, match="of red:blue there are 0"):
        choose(Data(["blue right"]), [RIGHT, BLUE], 1, references=1)
