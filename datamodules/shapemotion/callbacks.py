"""Lightning callbacks that hold a training against the factor reader while it runs."""

from __future__ import annotations

from types import MethodType
from typing import TypeVar

import lightning as L  # noqa: N812
import torch
from torch import Tensor

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.datamodules.shapemotion.files import frame_side
from transporter_pl.datamodules.shapemotion.measure import caption_words
from transporter_pl.datamodules.shapemotion.reader import read
from transporter_pl.datamodules.shapemotion.world import FACTORS, Scene, render, sample_scene
from transporter_pl.errors import TransporterError
from transporter_pl.explain.sampler import sample
from transporter_pl.report.figures import frame_rows

T = TypeVar("T")


def _part(module: L.LightningModule, name: str, kind: type[T]) -> T:
    """What a recipe trains.

    Raises:
        TransporterError: If the callback stands in another recipe's config.
    """
    part = getattr(module, name, None)
    if not isinstance(part, kind):
        msg = f"callbacks: {type(module).__name__} has no {kind.__name__} in {name!r}; use the recipe's own callback"
        raise TransporterError(msg)
    return part


class _Measured(L.Callback):
    """Draws held-out scenes once and logs, after every validation, how well each factor agrees with its word."""

    def __init__(self, clips: int = 64, seed: int = 88) -> None:
        self.clips, self.seed = clips, seed

    def scene(self) -> tuple[Scene, torch.Generator]:
        """The same held-out scenes at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        return sample_scene(self.clips, generator, held_out=True), generator

    def log_agreement(self, trainer: L.Trainer, words: Tensor, truth: Tensor) -> None:
        """Share of clips in which each factor's word agrees; words and truth (B, 6)."""
        for name, share in zip(FACTORS, (words == truth).float().mean(0).tolist(), strict=True):
            trainer.lightning_module.log(f"reader/{name}", share, batch_size=len(words))

    def log_video(self, trainer: L.Trainer, video: Tensor, tag: str) -> None:
        """Frames of the first eight clips as one picture: clips down, time across."""
        if isinstance(trainer.logger, L.pytorch.loggers.TensorBoardLogger):
            trainer.logger.experiment.add_image(tag, frame_rows(video[:8]), trainer.global_step)

    def log_reading(self, trainer: L.Trainer, video: Tensor, scene: Scene, tag: str) -> None:
        """Agreement, wholeness and a picture of videos (B, T, 3, H, W) that should show the scenes."""
        reading = read(video.cpu())
        self.log_agreement(trainer, reading.words, scene.words)
        trainer.lightning_module.log("reader/whole", reading.whole.float().mean(), batch_size=len(video))
        self.log_video(trainer, video, tag)


class ReadReconstructions(_Measured):
    """For the VAE recipe: the factors after encode and decode."""

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Encode, decode, read."""
        scene, generator = self.scene()
        video = render(scene, 9, 64, generator).to(pl_module.device)
        reconstruct = _part(pl_module, "reconstruct", MethodType)
        self.log_reading(trainer, reconstruct(video), scene, "reconstructions")


class ReadGenerations(_Measured):
    """For the generator recipe: the factors of videos generated from held-out captions."""

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate, read."""
        scene, generator = self.scene()
        adapter = _part(pl_module, "adapter", GeneratorAdapter)  # type: ignore[type-abstract]
        noise = torch.randn(len(scene), *adapter.latent_shape, generator=generator).to(pl_module.device)
        latents = sample(adapter, adapter.encode_text(scene.captions()), noise, steps=20)
        self.log_reading(trainer, adapter.decode(latents), scene, "generations")


class ReadCaptions(_Measured):
    """For the VLM recipe: the factors that its captions of held-out clips name."""

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Caption, parse."""
        scene, generator = self.scene()
        adapter = _part(pl_module, "adapter", VLMAdapter)  # type: ignore[type-abstract]
        video = render(scene, adapter.video.frames, frame_side(adapter.video), generator).to(pl_module.device)
        self.log_agreement(trainer, caption_words(adapter.caption(adapter.encode(video))), scene.words)
