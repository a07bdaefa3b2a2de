"""A Lightning callback that shows what a baseline draws while it draws, in TensorBoard."""

from __future__ import annotations

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.report.figures import frame_rows
from transporter_pl.stages.baseline import BaselineStage


class WatchFrames(L.Callback):
    """The first videos as one picture, a row a video, time across. Other loggers than TensorBoard's get nothing.

    Args:
        every_n_steps: Steps from one picture to the next.
        videos: Number of videos in it.

    Raises:
        TransporterError: If a number is below 1; before the first step, if it stands in another stage's config.
    """

    def __init__(self, every_n_steps: int = 50, videos: int = 8) -> None:
        check_counts(every_n_steps=every_n_steps, videos=videos)
        self.every_n_steps, self.videos = every_n_steps, videos

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whose training it is."""
        if not isinstance(pl_module, BaselineStage):
            msg = f"callbacks: WatchFrames watches a BaselineStage, not {type(pl_module).__name__}; leave it out"
            raise TransporterError(msg)
        self.stage = pl_module

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Show them."""
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if boards and trainer.global_step % self.every_n_steps == 0:
            rows = frame_rows(self.stage.baseline.pixels()[: self.videos].float())
            for board in boards:
                board.add_image("frames", rows, trainer.global_step)
