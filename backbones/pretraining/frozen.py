"""What the recipes of a frozen part share: the trained VAE that they go on from, and checkpoints without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
from diffusers import AutoencoderKLWan
from torch import Tensor

from transporter_pl.backbones.folders import loading
from transporter_pl.errors import TransporterError


def trained_vae(field: str, folder: str) -> AutoencoderKLWan:
    """The VAE of a local folder; in single precision, as half-precision weights don't train.

    Args:
        field: Argument that the folder was given in, for the error.
        folder: Folder in diffusers' format.

    Raises:
        TransporterError: If no VAE is there, or it can't be read.
    """
    if not (Path(folder) / "config.json").is_file():
        msg = (
            f"{field}: no VAE in {folder!r}; `transporter fit --config shapemotion/pretrain_vae.yaml` makes one, "
            "shapemotion/pretrain_generator.yaml then puts it into its pipeline; or give another folder"
        )
        raise TransporterError(msg)
    with loading(folder):
        vae: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(folder, use_safetensors=True).float()
    vae.register_to_config(_name_or_path="")  # what is passed on names no folder of this machine
    return vae


class PartlyFrozen(L.LightningModule):
    """A recipe whose checkpoints hold only what trains; its frozen weights come from its own arguments."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out."""
        for state in _states(checkpoint):
            for name in self._frozen():
                state.pop(name, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put them back: weight averaging loads strictly, whatever ``strict_loading`` says."""
        for state in _states(checkpoint):
            state.update(self._frozen())

    def _frozen(self) -> dict[str, Tensor]:
        return {name: p.data for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}


def _states(checkpoint: dict[str, Any]) -> Iterator[dict[str, Tensor]]:
    """The model's states: under weight averaging, which comes first, these are the average and the current one."""
    return (checkpoint[name] for name in ("state_dict", "current_model_state") if name in checkpoint)
