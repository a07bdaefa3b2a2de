"""The reader's columns, on rendered clips whose words are known."""

import pytest
import torch

from transporter_pl.concepts.pairs import Pair
from transporter_pl.datamodules.shapemotion.columns import Kept, ReadsPositive, Whole
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, render
from transporter_pl.errors import TransporterError
from transporter_pl.evaluation.samples import Case, Drawn, Judged

PAIRS = (*[Pair("left", "right")] * 3, Pair("small", "large"))
START = [[0, 1, 0, 0, 0, 0], [1, 0, 2, 0, 0, 1], [0, 0, 4, 0, 1, 0], [0, 1, 3, 2, 0, 1]]  # words, in FACTORS' order
MOVED = [[0, 1, 0, 1, 0, 0], [1, 0, 2, 1, 0, 1], [0, 0, 4, 1, 1, 0], [1, 1, 3, 2, 0, 1]]


def clips(words):
    """Clips with each factor at the centre of its word's interval."""
    index = torch.tensor(words)
    centres = [torch.tensor(f.centres, dtype=torch.float32)[index[:, i]] for i, f in enumerate(FACTORS.values())]
    return render(Scene(index, torch.stack(centres, 1)), 9, 64, torch.Generator().manual_seed(0))


def judged(video, pairs=PAIRS):
    cases = tuple(Case(pair, "an oval {}", str(row), video[row]) for row, pair in enumerate(pairs))
    none = torch.zeros(len(video))
    return Judged(cases, Drawn(video, ("",) * len(video), none, none, 0.0, 0), clips(START), video, None)


@pytest.fixture(scope="module")
def moved():
    return clips(MOVED)


def figures(looked_at):
    return [pytest.approx(column().measure(looked_at)) for column in (ReadsPositive, Whole, Kept)]


def test_what_moved_as_it_should(moved):
    assert figures(judged(moved)) == [1, 1, 1]


def test_what_did_not_move(moved):
    assert figures(judged(torch.cat([moved[:3], clips(START)[3:]]))) == [0.75, 1, 1]
    assert figures(judged(clips(START))) == [0, 1, 1]


def test_no_object_shows_no_word(moved):
    """Of an empty clip the reader makes some word, which is not to count."""
    for empty in (torch.full_like(moved[:1], 0.25), torch.full_like(moved[:1], 0.65)):
        video = torch.cat([empty, moved[1:]])
        assert figures(judged(video))[:2] == [0.75, 0.75]


def test_what_else_changed_is_not_kept(moved):
    """Two of the four clips' twenty other factors."""
    words = [list(row) for row in MOVED]
    words[0][2], words[3][5] = 1, 0
    assert figures(judged(clips(words))) == [1, 1, 0.9]


@pytest.mark.parametrize("column", [ReadsPositive, Kept])
def test_words_of_another_world_are_refused(moved, column):
    with pytest.raises(TransporterError, match="'hits:misses' names no two words of one factor"):
        column().measure(judged(moved, (*PAIRS[:3], Pair("hits", "misses"))))
