"""Fresh ShapeMotion clips for the pretraining recipes, rendered in the data loader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self, cast

import lightning as L  # noqa: N812
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from transporter_pl.chance import draws_of
from transporter_pl.datamodules.shapemotion.files import frame_side
from transporter_pl.datamodules.shapemotion.world import TEMPLATES, Scene, exchanged, factor_of, render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Clips, VideoSpec


@dataclass(frozen=True)
class RenderedClips:
    """A batch of clips with the scenes that they show.

    Attributes:
        clips: Captioned videos.
        scene: The truth about them; it stays on the CPU, where the reader works.
    """

    clips: Clips
    scene: Scene

    def to(self, device: torch.device) -> Self:
        """The batch with its video on another device; Lightning moves batches by this method."""
        return replace(self, clips=replace(self.clips, video=self.clips.video.to(device)))


class RenderedBatches(Dataset[RenderedClips]):
    """Batch k of an endless stream, a pure function of its arguments and k.

    Args:
        video: Geometry; frames are square.
        batch_size: Clips a batch.
        seed: Seed of the stream.
        held_out: Whether the word combinations are those that training never sees.
        templates: Caption template: ``random``, or one template's index.
        words: Two words that have changed places in every caption, or none.
    """

    def __init__(
        self,
        video: VideoSpec,
        batch_size: int,
        seed: int,
        held_out: bool,
        templates: Literal["random"] | int,
        words: tuple[str, str] | None = None,
    ) -> None:
        self.frames, self.side = video.frames, frame_side(video)
        self.batch_size, self.seed = batch_size, seed
        self.held_out, self.templates, self.words = held_out, templates, words

    def __getitem__(self, index: int) -> RenderedClips:
        """Render batch ``index``."""
        name = f"{'held-out' if self.held_out else 'train'}-{self.seed}-{index}"
        draws = draws_of(name)
        scene = sample_scene(self.batch_size, draws, self.held_out)
        pixels = render(scene, self.frames, self.side, draws)
        if self.templates == "random":
            captions = scene.captions(torch.randint(len(TEMPLATES), (self.batch_size,), generator=draws))
        else:
            captions = scene.captions(self.templates)
        if self.words is not None:
            captions = [exchanged(caption, self.words) for caption in captions]
        ids = tuple(f"{name}-{clip}" for clip in range(self.batch_size))
        return RenderedClips(Clips(ids, pixels, tuple(captions)), scene)


class FreshIndices(Sampler[int]):
    """The next ``count`` indices at every epoch, whatever the epochs before had.

    Attributes:
        used: How many indices the training has used.
    """

    def __init__(self, count: int) -> None:
        self.count, self.used = count, 0

    def __len__(self) -> int:
        """Indices an epoch."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Indices of this epoch."""
        return iter(range(self.used, self.used + self.count))


class FreshLoader(DataLoader[RenderedClips]):
    """Counts the batches that were used; those that workers prepare in advance don't count."""

    def __iter__(self) -> Iterator[RenderedClips]:  # type: ignore[override]
        """Batches of an epoch."""
        indices = cast(FreshIndices, self.sampler)
        for batch in super().__iter__():
            indices.used += 1
            yield batch


class ShapeMotionDataModule(L.LightningDataModule):
    """Rendered clips: new ones at every step of a training, the same held-out combinations at every validation.

    Args:
        video: Geometry; frames are square.
        batch_size: Clips a batch.
        batches_per_epoch: Training batches that count as one epoch.
        val_clips: Held-out clips, rounded up to whole batches.
        seed: Seed of everything; step k sees the same clips in every run, resumed or not, with any number of workers.
        templates: Caption template: ``random``, or one template's index.
        num_workers: Processes that render.
        exchange: Two words of one factor, "left:right", each of which stands in the captions where the other belongs:
            a planted error, of which one knows that a VLM makes it.

    Raises:
        TransporterError: If frames are not square, a count is below one, or there is no such template or pair of words.
    """

    def __init__(
        self,
        video: VideoSpec,
        batch_size: int = 8,
        batches_per_epoch: int = 1000,
        val_clips: int = 64,
        seed: int = 0,
        templates: Literal["random"] | int = "random",
        num_workers: int = 0,
        exchange: str | None = None,
    ) -> None:
        super().__init__()
        if templates != "random" and templates not in range(len(TEMPLATES)):
            msg = f"templates: {templates!r} is neither random nor 0 to {len(TEMPLATES) - 1}"
            raise TransporterError(msg)
        counts = {"batch_size": batch_size, "batches_per_epoch": batches_per_epoch, "val_clips": val_clips}
        for name, count in counts.items():
            if count < 1:
                msg = f"{name}: {count} is below 1"
                raise TransporterError(msg)
        words = None
        if exchange is not None:
            factor_of(exchange)
            negative, _, positive = exchange.partition(":")
            words = negative, positive
        self.indices, self.val_batches = FreshIndices(batches_per_epoch), -(-val_clips // batch_size)
        self.num_workers = num_workers
        self.train_batches = RenderedBatches(video, batch_size, seed, False, templates, words)
        self.held_out_batches = RenderedBatches(video, batch_size, seed, True, templates, words)

    def train_dataloader(self) -> DataLoader[RenderedClips]:
        """New clips at every step."""
        return FreshLoader(self.train_batches, batch_size=None, sampler=self.indices, num_workers=self.num_workers)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint holds: how many batches the training has used.

        Lightning would ask the loader too, but drops its answer where a training was stopped at the end of an epoch.
        """
        return {"used": self.indices.used}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after what was used."""
        self.indices.used = state_dict["used"]

    def val_dataloader(self) -> DataLoader[RenderedClips]:
        """The same held-out clips at every call."""
        indices = range(self.val_batches)
        return DataLoader(self.held_out_batches, batch_size=None, sampler=indices, num_workers=self.num_workers)
