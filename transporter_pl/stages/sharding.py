"""Φ over several devices, where it is too large for each to hold it whole (FSDP2)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.stages.checkpoints import Pathlike, damage, unreadable

SHARDING = (FSDPStrategy, ModelParallelStrategy)
LAYER = "configs/cluster/fsdp.yaml"


class FSDP2(ModelParallelStrategy):
    """Lightning's FSDP2, whose checkpoints are one file of whole weights, and read as any other's.

    Lightning's own goes past ``checkpoint_io`` when it reads: it would unpickle what it is asked to, and know nothing
    of damage.

    Args:
        options: Those of ``ModelParallelStrategy``.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  (Lightning's)
        super().__init__(save_distributed_checkpoint=False, **options)

    def load_checkpoint(self, checkpoint_path: Pathlike, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain data, whatever else was asked for.

        Raises:
            TransporterError: If it is damaged, or holds anything else.
        """
        if trouble := damage(checkpoint_path):
            raise TransporterError(unreadable(checkpoint_path, trouble))
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def check_sharding(strategy: Strategy) -> None:
    """Refuse ways of sharding that would spoil something in silence.

    FSDP1 rounds the statistics of the tokens to the precision of the weights, and makes flat pieces of all weights, so
    that weight decay can't tell matrices from vectors; shards in folders are no file that can be checked as a whole.

    Raises:
        TransporterError: If it is one of these.
    """
    if isinstance(strategy, SHARDING) and not isinstance(strategy, FSDP2):
        name = type(strategy).__name__
        msg = f"strategy: {name} would round Φ's statistics, or scatter its checkpoints and read any that it is given; "
        raise TransporterError(msg + f"use --config {LAYER}, which is FSDP2")


def shard(network: CouplingNetwork, mesh: DeviceMesh) -> None:
    """Spread every layer's weights, and what is left as one more piece, over the devices of each node; once.

    Args:
        network: Φ.
        mesh: (nodes, devices of each), as Lightning lays it out; each node has all the shards, so that weights are
            gathered within nodes, and only gradients go between them.
    """
    if is_sharded(network):
        return
    parts = (part for part in (network.mixer, network.transformer) if part is not None)
    for layer in (layer for part in parts for layer in _layers(part)):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    register_fsdp_forward_method(network, "standardised")


def _layers(part: nn.Module) -> list[nn.Module]:
    return list(part.get_submodule("layers").children())


def is_sharded(network: CouplingNetwork) -> bool:
    """Whether ``shard`` has been at it."""
    return isinstance(network, FSDPModule)


def in_order_of(module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state by the places of its parameters in the module, instead of in its own groups.

    Under FSDP2 Lightning reads and writes it so; elsewhere the order within groups is all that counts.
    """
    places = {parameter: place for place, parameter in enumerate(module.parameters())}
    own = [places[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [own[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {own[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def gathered(network: CouplingNetwork) -> CouplingNetwork:
    """Φ with all of its weights, on the first process; itself where it is not sharded. All processes take part.

    On the other processes, what comes back has the right shapes alone.
    """
    if not is_sharded(network):
        return network
    whole = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    copy = CouplingNetwork(network.config)
    copy.origin = network.origin
    copy.load_state_dict(whole, strict=bool(whole))
    return copy
