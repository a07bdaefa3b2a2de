"""What all stages have in common: they survive."""

from __future__ import annotations

from typing import Any, Self

import lightning as L  # noqa: N812
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from transporter_pl.stages.checkpoints import CheckpointFiles, delete_halves
from transporter_pl.stages.survival import ExactResume, Preemption


class Stage(L.LightningModule):
    """A LightningModule whose training can be killed, preempted and resumed, and whose checkpoints unpickle nothing."""

    def setup(self, stage: str) -> None:
        """Clear what killed starts left; see to the checkpoints, unless another way of writing them was chosen."""
        if stage == TrainerFn.FITTING and self.trainer.is_global_zero:
            delete_halves(self.trainer)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = CheckpointFiles()

    def configure_callbacks(self) -> list[L.Callback]:
        """What lets it be interrupted."""
        return [ExactResume(), Preemption()]

    def look_for_signals(self) -> None:
        """Stop on SIGTERM in long work before the first step; all processes take part.

        Raises:
            SystemExit: Then.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Preemption):
                callback.look(self.trainer)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """As Lightning's, but nothing is unpickled, wherever the file lies."""
        return super().load_from_checkpoint(checkpoint_path, *args, **{**kwargs, "weights_only": True})  # type: ignore[no-any-return]
