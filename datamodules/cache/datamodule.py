"""Latent caches as a Lightning data module."""

from __future__ import annotations

import os
from functools import cached_property, partial
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from transporter_pl.datamodules.cache.joined import JoinedCaches
from transporter_pl.datamodules.cache.order import Batches, Permutation, ResumableLoader, Selection, ThreadedLoader
from transporter_pl.errors import TransporterError, check_counts, check_not_negative
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import Encoded, Origin, Shapes, TokenStatistics

STATISTICS_BYTES = 8 * 2**30  # of tokens, which say what all of them would: a feature's mean over 10^7 values and more
READ_AT_ONCE = 8  # clips whose tokens are added up


class CacheDataModule(L.LightningDataModule):
    """Batches of ``Encoded`` from latent caches, shuffled anew in every epoch by the run's seed.

    Without ``val_path``, a fixed draw takes some clips for validation. Name the official validation split where there
    is one: clips that were cut from one video are alike, and a draw puts some of them on either side. There is no third
    split: the validation clips are the test clips too, as no stage chooses anything by them.

    Of several processes each takes its part of every batch; ``batch_size`` is that of one of them.

    Args:
        path: Folder or URL of the cache, or of several that were made alike.
        batch_size: Clips a batch.
        val_path: The same, of the validation clips.
        val_fraction: Share of the clips that validates, if there is no ``val_path``.
        num_workers: Threads that read ahead.

    Raises:
        TransporterError: If an argument is out of its range; and, once the data is asked for, if there is no finished
            cache, caches were made in different ways, or there are too few clips to split.
    """

    def __init__(
        self,
        path: str | list[str],
        batch_size: int = 8,
        val_path: str | list[str] | None = None,
        val_fraction: float = 0.1,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_counts(batch_size=batch_size)
        check_not_negative(num_workers=num_workers)
        if not 0 < val_fraction < 1:
            msg = f"val_fraction: {val_fraction} is not between 0 and 1"
            raise TransporterError(msg)
        self.paths, self.val_paths = _listed("path", path), [] if val_path is None else _listed("val_path", val_path)
        self.batch_size, self.val_fraction, self.num_workers = batch_size, val_fraction, num_workers
        self._training: Batches | None = None
        self._loaded: dict[str, int] = {}

    def setup(self, stage: str) -> None:
        """Open the caches before anything else takes time; a training begins at the first clip, or where it is told."""
        _ = self.split
        self._training, self._loaded = None, {}

    @cached_property
    def cache(self) -> JoinedCaches:
        """The clips that train, and, if there is no ``val_path``, those that validate."""
        found, known = JoinedCaches(self.paths), dict[str, str]()
        for cache in found.caches:
            if cache.key.clips in known:
                msg = f"path: {known[cache.key.clips]!r} and {cache.path!r} hold the same clips; name one of them"
                raise TransporterError(msg)
            known[cache.key.clips] = cache.path
        return found

    @cached_property
    def val_cache(self) -> JoinedCaches:
        """The clips that validate, maybe among others."""
        if not self.val_paths:
            return self.cache
        found = JoinedCaches(self.val_paths, self.cache.caches[0])
        trained = {cache.key.clips for cache in self.cache.caches}
        both = [cache.path for cache in found.caches if cache.key.clips in trained]
        if both:
            rank_zero_warn(f"val_path: the clips of {both} are those that train, so that they validate nothing")
        return found

    @cached_property
    def split(self) -> tuple[Selection, Selection]:
        """The training clips of ``cache``, in an order that stays, and the validation clips of ``val_cache``."""
        count = len(self.cache)
        order = Permutation(count, "split")
        if self.val_paths:
            return Selection(range(count), order), Selection(range(len(self.val_cache)))
        if count < 2:
            msg = f"path: {self.paths} hold {count} clip(s), but training and validation need one each"
            raise TransporterError(msg)
        held_out = min(count - 1, max(1, round(self.val_fraction * count)))
        return Selection(range(held_out, count), order), Selection(range(held_out), order)

    @property
    def shapes(self) -> Shapes:
        """Shapes of one clip's encodings."""
        return self.cache.shapes

    @property
    def origin(self) -> Origin:
        """The backbones that encoded the clips, and fingerprints of their weights."""
        key = self.cache.key
        return Origin(key.generator.path, key.vlm.path, key.video, key.generator_weights, key.vlm_weights)

    @property
    def vlm(self) -> BackboneSpec:
        """The VLM that made the tokens, for those who ask it about them."""
        return self.cache.key.vlm

    def token_statistics(self) -> TokenStatistics:
        """What z_Ω of training clips have in common.

        Over all of them, or, so that a training starts in minutes, the first in the fixed order whose tokens fill
        ``STATISTICS_BYTES``: a random sample, the same in every process and run.
        """
        training, _ = self.split
        first = self.cache.tensor("tokens", [0])
        count = min(len(training), max(1, STATISTICS_BYTES // first.nbytes))
        rows = training(np.arange(count, dtype=np.uint64)).tolist()
        total, square = (torch.zeros(first.shape[1:], dtype=torch.float64) for _ in range(2))
        for start in range(0, len(rows), READ_AT_ONCE):
            tokens = self.cache.tensor("tokens", rows[start : start + READ_AT_ONCE]).double()
            total, square = total + tokens.sum(0), square + tokens.square().sum(0)
        return TokenStatistics.from_sums(count, total, square)

    def train_dataloader(self) -> DataLoader[Encoded]:
        """Shuffled batches of training clips.

        Raises:
            TransporterError: If Lightning would take single clips in their place.
        """
        if overfit := getattr(self.trainer, "overfit_batches", 0):
            msg = f"overfit_batches: {overfit}, for which Lightning would take clips one by one; leave it out, and "
            raise TransporterError(msg + "encode few clips (--data.limit) to overfit them")
        state = self._state()
        self._training = self._batches(self.split[0], shuffle=True)
        if state:
            self._training.load_state_dict(state)
        return ResumableLoader(self.cache, None, sampler=self._training, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Encoded]:
        """Batches of validation clips, always in the same order."""
        return ThreadedLoader(self.val_cache, None, sampler=self._batches(self.split[1]), num_workers=self.num_workers)

    def test_dataloader(self) -> DataLoader[Encoded]:
        """The validation clips."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands, and on which clips.

        Lightning asks the loader too, but drops its answer where a training was stopped at the end of an epoch.
        """
        return {**self._state(), "data": self._data()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on there; other clips than those that were trained on so far are told."""
        was = state_dict.pop("data", None)
        if was not in (None, self._data()):
            msg = f"path: {self.paths} are not what the checkpoint was trained on, in other clips or another storage; "
            rank_zero_warn(msg + "the training goes on with them, and is not what it would have been")
        self._loaded = state_dict

    def _state(self) -> dict[str, int]:
        return self._loaded if self._training is None else self._training.state_dict()

    def _data(self) -> list[str]:
        return [f"{cache.key.clips} {cache.key.storage}" for cache in self.cache.caches]

    def _batches(self, clips: Selection, shuffle: bool = False) -> Batches:
        """What this process takes of the clips."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # that of ``seed_everything``
        batches = partial(Batches, clips, self.batch_size, seed, shuffle)
        if self.trainer is None:
            return batches()
        return batches(self.trainer.accumulate_grad_batches, self.trainer.world_size, self.trainer.global_rank)


def _listed(field: str, paths: str | list[str]) -> list[str]:
    found = paths if isinstance(paths, list) else [paths]
    if not found:
        msg = f"{field}: is an empty list; name a cache"
        raise TransporterError(msg)
    return [str(path) for path in found]
