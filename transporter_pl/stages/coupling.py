"""Stage 1: train the coupling network on cached encodings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from transporter_pl.coupling.bridge import check_fit, check_same
from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.coupling.losses import LossWeights, coupling_loss
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.coupling.storage import origin_from
from transporter_pl.errors import TransporterError, check_not_negative
from transporter_pl.samples import Encoded, Origin, Shapes, TokenStatistics
from transporter_pl.stages.checkpoints import writing
from transporter_pl.stages.guard import LossGuard
from transporter_pl.stages.hyperparameters import built, export_folder
from transporter_pl.stages.sharding import check_sharding, gathered, in_order_of, is_sharded, shard
from transporter_pl.stages.stage import Stage

BAR = {"first": "L1", "second": "L2", "transport": "L3", "total": "loss"}  # names that leave room for the progress bar
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # Lightning's others would cast batches, which are frozen


@runtime_checkable
class EncodedData(Protocol):
    """What the stage asks of its data module, beside batches of ``Encoded``."""

    @property
    def shapes(self) -> Shapes:
        """Shapes of one clip's encodings."""

    @property
    def origin(self) -> Origin:
        """The backbones that made them."""

    def token_statistics(self) -> TokenStatistics:
        """What z_Ω of the training clips have in common."""


class CouplingStage(Stage):
    """Trains Φ by L1 + L2 + L3 (TRANSPORTER: AdamW, lr 1e-3, 100k steps of 8 batches of 8).

    Holds no backbone, so a checkpoint is Φ alone. At the end of ``fit`` it writes Φ as a folder for
    ``CouplingNetwork.from_pretrained``. A loss that is not finite or diverges stops it: see ``LossGuard``.

    Args:
        shapes: Shapes of one clip's encodings; the command line takes them from the data.
        network: Options of Φ.
        weights: Weights of the three losses.
        lr: Peak learning rate of AdamW.
        weight_decay: Of matrices; vectors and ς do not decay.
        warmup: Steps of linear warm-up; cosine decay to 0 follows.
        export: Folder of the trained Φ, by default ``coupling`` in the trainer's ``default_root_dir``.

    Raises:
        TransporterError: If the rate or the warm-up is below 0.
    """

    def __init__(
        self,
        shapes: Shapes,
        network: CouplingOptions = CouplingOptions(),  # noqa: B008  (frozen)
        weights: LossWeights = LossWeights(),  # noqa: B008  (frozen)
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup: int = 100,
        export: str | None = None,
    ) -> None:
        super().__init__()
        check_not_negative(lr=lr, warmup=warmup)
        shapes, network = built(Shapes, shapes), built(CouplingOptions, network)
        self.weights = built(LossWeights, weights)
        self.save_hyperparameters()
        # checkpoints load with weights_only=True, which knows no dataclass of ours
        self.hparams.update(shapes=asdict(shapes), network=asdict(network), weights=asdict(self.weights))
        self.network = CouplingNetwork(CouplingConfig.of(shapes, network))
        self._given: tuple[Origin, Shapes] | None = None  # what the data is

    # -- what it is trained for ---------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """See that the data is what Φ was made for, and that Φ's folder can be written.

        Raises:
            TransporterError: If a setting differs (names it), the data module does not tell, or the export folder can't
                be one.
        """
        super().setup(stage)
        check_sharding(self.trainer.strategy)
        if self.trainer.precision not in PRECISIONS:
            msg = f"precision: {self.trainer.precision!r} would change what the data hold; use {', '.join(PRECISIONS)}"
            raise TransporterError(msg)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, EncodedData):
            self._given = data.origin, data.shapes
            check_fit(self.network, *self._given)
        elif stage == TrainerFn.FITTING:
            msg = f"data: {type(data).__name__} gives no shapes, origin and token_statistics(); use a latent cache"
            raise TransporterError(msg)
        if stage == TrainerFn.FITTING:
            export_folder(self, "coupling")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which backbones Φ is for, as plain data; and number the optimiser's states as any strategy reads them."""
        checkpoint["origin"] = None if self.network.origin is None else asdict(self.network.origin)
        if "optimizer_states" in checkpoint and not is_sharded(self.network):  # sharded ones are numbered so already
            states = zip(self.trainer.optimizers, checkpoint["optimizer_states"], strict=True)
            checkpoint["optimizer_states"] = [in_order_of(self, *one) for one in states]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that the checkpoint's Φ is for the data, before its weights are loaded; older ones tell shapes alone.

        Raises:
            TransporterError: If a setting differs (names it), or it is another stage's checkpoint.
        """
        made_for = checkpoint.get("hyper_parameters", {}).get("shapes")
        if made_for is None:
            msg = "ckpt_path: no checkpoint of a coupling training; give one that fit wrote for a CouplingStage"
            raise TransporterError(msg)
        self.network.origin = origin_from(checkpoint.get("origin"))
        if self._given is not None:
            check_same(self.network.origin, built(Shapes, made_for), *self._given)
        if "state_dict" in checkpoint:  # sharded weights are there already
            self._check_network(checkpoint)

    def _check_network(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network, naming the options that differ."""
        was, now = checkpoint["hyper_parameters"]["network"], self.hparams["network"]
        saved, own = (
            {name: weight.shape or (1,) for name, weight in state.items() if not name.startswith("network.token_")}
            for state in (checkpoint["state_dict"], self.state_dict())
        )
        if saved != own:
            others = [f"network.{name} {was.get(name)}, not {now[name]}" for name in now if was.get(name) != now[name]]
            msg = f"ckpt_path: its Φ has {' and '.join(others)}; give the options that it was made with"
            raise TransporterError(msg)

    def on_fit_start(self) -> None:
        """Take the statistics of the tokens, unless a checkpoint told them, and the backbones' names, from the data."""
        data: EncodedData = self.trainer.datamodule  # type: ignore[attr-defined]
        if not (self.trainer.ckpt_path and self.network.has_statistics):
            self.network.set_statistics(data.token_statistics())
        self.network.origin = data.origin
        # decode-and-re-encode learns nothing: Φ's folder is written at once
        self.trainer.should_stop = not self._trained()

    # -- what is measured ---------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Refuse to measure a Φ that was never trained.

        Raises:
            TransporterError: If no checkpoint was given.
        """
        if self.trainer.state.fn != TrainerFn.FITTING and not self.network.has_statistics:
            msg = "ckpt_path: missing, so that Φ is untrained; give --ckpt_path and a checkpoint that fit wrote"
            raise TransporterError(msg)

    on_test_start = on_validation_start

    def training_step(self, batch: Encoded, index: int) -> Tensor:
        """One optimiser step's loss."""
        return self._shared_step(batch, "train")

    def validation_step(self, batch: Encoded, index: int) -> None:
        """Losses and similarities on held-out clips."""
        self._shared_step(batch, "val")

    def test_step(self, batch: Encoded, index: int) -> None:
        """The same on test clips."""
        self._shared_step(batch, "test")

    def _shared_step(self, batch: Encoded, stage: str) -> Tensor:
        total, logged = measured_loss(self.network, batch, self.weights)
        named = {f"{stage}/{name}": value for name, value in logged.items()}
        self.log_dict(named, batch_size=len(batch.ids), sync_dist=stage != "train")
        short = {BAR[name]: logged[name] for name in BAR if name in logged} if stage == "train" else {stage: total}
        self.log_dict(short, prog_bar=True, logger=False, batch_size=len(batch.ids), sync_dist=stage != "train")
        return total

    # -- what is learned ----------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[L.Callback]:
        """What stops a training that has gone wrong, and what lets it be interrupted."""
        return [LossGuard(), *super().configure_callbacks()]

    def configure_model(self) -> None:
        """Shard Φ where the strategy asks for it."""
        if self._trainer is not None and isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.network, self.trainer.strategy.device_mesh)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with linear warm-up and cosine decay over the trainer's steps."""
        trained = self._trained()
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.hparams["weight_decay"]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"])
        factor = warmup_cosine(int(self.trainer.estimated_stepping_batches), self.hparams["warmup"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write Φ's folder."""
        network, folder = gathered(self.network), export_folder(self, "coupling")
        if self.trainer.is_global_zero:
            with writing("export", folder):
                network.save(folder)


def measured_loss(network: CouplingNetwork, batch: Encoded, weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of Φ on a batch, and everything about it that is logged, by name."""
    coupled = network.standardised(batch.latents, batch.condition, batch.reencoded)
    tokens = network.standardise(batch.tokens)
    loss = coupling_loss(coupled, tokens, weights, network.config.gram)
    with torch.no_grad():
        logged = {name: value for name, value in vars(loss).items() if value is not None}
        logged["cosine"] = cosine_similarity(coupled.tokens.float(), tokens.float(), dim=-1).mean()
    return loss.total, logged


def warmup_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate: linear up over ``warmup`` steps, then half a cosine down to 0 at ``steps``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * done))

    return factor
