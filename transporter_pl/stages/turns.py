"""Whose turn it is: the points of each batch of a training of concepts, and one process's part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transporter_pl.errors import TransporterError


@dataclass(frozen=True)
class Turn:
    """One process's B points of a batch.

    Attributes:
        places: Where they are, as ``Teacher.places`` gives them, (B, 2).
        owner: Index of each one's pair, (B,).
        share: Points of the same pair in the whole batch, over the number of processes, (B,): divided by it and summed,
            losses give the sum over pairs of the mean over each pair's points, once gradients are averaged over
            processes.
        chance: A uniform number for each, (B,).
    """

    places: Tensor
    owner: Tensor
    share: Tensor
    chance: Tensor


def take_turn(
    places: Sequence[Tensor], batch: int, count: int, rank: int, processes: int, draws: torch.Generator
) -> Turn:
    """The points of a batch, of the pairs in turn. N processes draw the same N × ``count``; each takes its part.

    Args:
        places: Where each pair may be trained, (M, 2) each.
        batch: Number of the batch.
        count: Points of each process.
        rank: Which of the processes this is.
        processes: Their number.
        draws: The batch's chance. What follows is a single process's at this one's first point, if every point before
            takes one number.
    """
    together = count * processes
    owner = (batch * together + torch.arange(together)) % len(places)
    every = torch.stack([_any_of(places[pair], draws) for pair in owner.tolist()])
    chance = torch.rand(together, generator=draws)
    torch.randint(2, (rank * count,), generator=draws)
    mine = slice(rank * count, (rank + 1) * count)
    share = owner.bincount()[owner[mine]] / processes
    return Turn(every[mine], owner[mine], share, chance[mine])


def _any_of(places: Tensor, draws: torch.Generator) -> Tensor:
    return places[torch.randint(len(places), (), generator=draws)]


def check_turns(pairs: int, points: int) -> None:
    """Refuse a training in which a pair has no turn.

    Raises:
        TransporterError: If so.
    """
    if points < pairs:
        msg = f"steps: {points} points in all for {pairs} pairs; raise steps or batch_size, so that each has its turn"
        raise TransporterError(msg)


class Steps:
    """A loader of so many items that hold nothing, so that it goes on anywhere, and that no process divides.

    Args:
        count: Number of items.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        """Number of items."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Their numbers."""
        return iter(range(self.count))

    def state_dict(self) -> dict[str, int]:
        """Nothing: what is drawn, the number of the batch says."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing."""
