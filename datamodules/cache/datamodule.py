"""The latent cache as a Lightning data module."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler, Subset

from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, Origin, Shapes


class CacheDataModule(L.LightningDataModule):
    """Batches of ``Encoded`` from a latent cache.

    Clips are split by a fixed draw. Several captions of one clip stay on one side, so that no validation clip was seen
    in training. There is no third split: the validation clips are the test clips too, as no stage chooses anything by
    them.

    Args:
        path: Folder of the cache.
        batch_size: Clips a batch.
        val_fraction: Share of the clips that validates.
        num_workers: Processes that read.

    Raises:
        TransporterError: If an argument is out of its range; and, once the data is asked for, if there is no finished
            cache or it is too small to split.
    """

    def __init__(self, path: str | Path, batch_size: int = 8, val_fraction: float = 0.1, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            msg = f"batch_size: {batch_size} is below 1"
            raise TransporterError(msg)
        if not 0 < val_fraction < 1:
            msg = f"val_fraction: {val_fraction} is not between 0 and 1"
            raise TransporterError(msg)
        self.path, self.batch_size = Path(path), batch_size
        self.val_fraction, self.num_workers = val_fraction, num_workers

    @cached_property
    def cache(self) -> LatentCache:
        """The whole cache."""
        return LatentCache(self.path)

    @cached_property
    def split(self) -> tuple[list[int], list[int]]:
        """Indices of training and of validation clips."""
        clips = list(dict.fromkeys(_clip(name) for name in self.cache.ids))
        if len(clips) < 2:
            msg = f"path: {str(self.path)!r} holds {len(clips)} clip(s), but training and validation need one each"
            raise TransporterError(msg)
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0)).tolist()
        count = min(len(clips) - 1, max(1, round(self.val_fraction * len(clips))))
        chosen = {clips[i] for i in order[:count]}
        sides: tuple[list[int], list[int]] = ([], [])
        for index, name in enumerate(self.cache.ids):
            sides[_clip(name) in chosen].append(index)
        return sides

    @property
    def shapes(self) -> Shapes:
        """Shapes of one clip's encodings."""
        first = self.cache[0]
        _, *latents = first.latents.shape
        _, *condition = first.condition.shape
        _, *tokens = first.tokens.shape
        return Shapes(tuple(latents), tuple(condition), tuple(tokens))  # type: ignore[arg-type]

    @property
    def origin(self) -> Origin:
        """The backbones that encoded the clips, and fingerprints of their weights."""
        key = self.cache.key
        return Origin(key.generator.path, key.vlm.path, key.video, key.generator_weights, key.vlm_weights)

    @property
    def vlm(self) -> BackboneSpec:
        """The VLM that made the tokens, for those who ask it about them."""
        return self.cache.key.vlm

    def token_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every feature of z_Ω over the training clips, both (D,)."""
        rows, count = self.split[0], 0
        total = square = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(rows), 64):
            tokens = self.cache.tensor("tokens", rows[start : start + 64]).double().flatten(0, 1)
            total, square, count = total + tokens.sum(0), square + tokens.square().sum(0), count + len(tokens)
        mean = total / count
        return mean.float(), (square / count - mean.square()).clamp(min=0).sqrt().float()

    def train_dataloader(self) -> DataLoader[Encoded]:
        """Shuffled batches of training clips."""
        clips = Subset(self.cache, self.split[0])
        return self._loader(clips, RandomSampler(clips))

    def val_dataloader(self) -> DataLoader[Encoded]:
        """Batches of validation clips, in order."""
        clips = Subset(self.cache, self.split[1])
        return self._loader(clips, SequentialSampler(clips))

    def test_dataloader(self) -> DataLoader[Encoded]:
        """The validation clips."""
        return self.val_dataloader()

    def _loader(self, clips: Subset[Encoded], order: Sampler[int]) -> DataLoader[Encoded]:
        """A loader that asks for a whole batch at once."""
        return DataLoader(
            clips,
            batch_size=None,
            sampler=BatchSampler(order, self.batch_size, drop_last=False),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def _clip(name: str) -> str:
    """Name of the clip that a captioned item belongs to."""
    return name.partition("#")[0]
