"""From names in a config to frozen backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch

from transporter_pl.adapters import Frozen, GeneratorAdapter, VLMAdapter, generators, vlms
from transporter_pl.coupling.bridge import check_fit
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Origin, Shapes, VideoSpec

A = TypeVar("A", GeneratorAdapter, VLMAdapter)
Weights = Literal["pretrained", "random"]


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone to load.

    Attributes:
        name: Registered adapter name (``wan``, ``video_llama3``) or class path.
        path: Hub id, local folder, or the name of a shipped checkpoint (``shapemotion-wan``); ``org/name@revision`` is
            a branch, tag or commit of a hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        checkpointing: Whether activations are computed anew in the backward pass: less memory, more time.
        weights: ``pretrained``, or ``random`` ones of the same size, which show what a run costs and nothing else.

    Raises:
        TransporterError: If torch has no such floating-point type, or there is no such kind of weights.
    """

    name: str
    path: str
    dtype: str = "float32"
    checkpointing: bool = False
    weights: Weights = "pretrained"

    def __post_init__(self) -> None:
        kind = getattr(torch, self.dtype, None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            msg = f"dtype: {self.dtype!r} is no floating-point type; use float32, bfloat16 or float16"
            raise TransporterError(msg)
        if self.weights not in get_args(Weights):
            msg = f"weights: {self.weights!r} is unknown; use {' or '.join(get_args(Weights))}"
            raise TransporterError(msg)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return kind


def load_generator(spec: BackboneSpec, video: VideoSpec, device: torch.device | str = "cpu") -> GeneratorAdapter:
    """The frozen generator of a spec, for videos of one geometry; random weights are drawn on the device itself."""
    return _load(generators.get(spec.name), spec, video, device)


def load_vlm(spec: BackboneSpec, video: VideoSpec, device: torch.device | str = "cpu") -> VLMAdapter:
    """The frozen VLM of a spec, for videos of one geometry; random weights are drawn on the device itself."""
    return _load(vlms.get(spec.name), spec, video, device)


def load_pair(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    network: CouplingNetwork | None = None,
    device: str = "cpu",
) -> tuple[GeneratorAdapter, VLMAdapter]:
    """Both frozen backbones; no weight is loaded before all that their configurations tell is known to fit.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        video: Geometry of the videos.
        network: Φ, that shall couple them.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.

    Raises:
        TransporterError: If a name is unknown, a path can't be read, the geometry does not suit a backbone, Φ was
            trained for something else, or there is no such device.
    """
    place, xi, omega = _device(device), generators.get(generator.name), vlms.get(vlm.name)
    shapes = Shapes(*xi.shapes_of(generator.path, video), omega.token_shape_of(vlm.path, video))
    if network is not None:
        check_fit(network, Origin(generator.path, vlm.path, video), shapes)
    return load_generator(generator, video, place), load_vlm(vlm, video, place)


def _load(kind: type[A], spec: BackboneSpec, video: VideoSpec, device: torch.device | str) -> A:
    if spec.checkpointing and kind.checkpoint_activations is Frozen.checkpoint_activations:
        msg = f"checkpointing: the adapter {spec.name!r} does not offer it; leave it out"
        raise TransporterError(msg)
    if spec.weights == "random":
        with torch.device(device):
            adapter = kind.from_config(spec.path, video, spec.torch_dtype)
    else:
        adapter = kind.from_pretrained(spec.path, video, spec.torch_dtype).to(device)
    if spec.checkpointing:
        adapter.checkpoint_activations()
    return adapter


def _device(name: str) -> torch.device:
    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device: {name!r} is not there; use auto, cpu, or cuda on a machine with a GPU"
        raise TransporterError(msg) from error
