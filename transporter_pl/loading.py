"""From names in a config to frozen backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch

from transporter_pl.adapters import Frozen, GeneratorAdapter, VLMAdapter, generators, vlms
from transporter_pl.coupling.bridge import check_fit
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.registry import Registry
from transporter_pl.samples import Origin, Shapes, VideoSpec

A = TypeVar("A", GeneratorAdapter, VLMAdapter)
Weights = Literal["pretrained", "random"]


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone to load.

    Attributes:
        name: Registered name of an adapter, as ``transporter list`` shows it, or class path.
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

    @classmethod
    def parse(cls, text: str) -> BackboneSpec:
        """The spec of "name:path", as "wan:shapemotion-wan".

        Raises:
            TransporterError: If there is no colon.
        """
        name, colon, path = text.partition(":")
        if not (name and colon and path):
            msg = f"backbone: {text!r} is not name:path; write the adapter's name and the path, as wan:shapemotion-wan"
            raise TransporterError(msg)
        return cls(name, path)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return kind


def load_generator(spec: BackboneSpec, video: VideoSpec, device: torch.device | str = "cpu") -> GeneratorAdapter:
    """The frozen generator of a spec, for videos of one geometry; random weights are drawn on the device itself."""
    return _load(_adapter(GeneratorAdapter, generators, spec), spec, video, device)


def load_vlm(spec: BackboneSpec, video: VideoSpec, device: torch.device | str = "cpu") -> VLMAdapter:
    """The frozen VLM of a spec, for videos of one geometry; random weights are drawn on the device itself."""
    return _load(_adapter(VLMAdapter, vlms, spec), spec, video, device)


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
    place = find_device(device)
    xi, omega = _adapter(GeneratorAdapter, generators, generator), _adapter(VLMAdapter, vlms, vlm)
    shapes = pair_shapes(generator, vlm, video)
    if network is not None:
        check_fit(network, Origin(generator.path, vlm.path, video), shapes)
    for kind, spec in ((xi, generator), (omega, vlm)):
        if spec.weights == "pretrained":  # both are asked for before the first is downloaded
            kind.check_access(spec.path)
    return load_generator(generator, video, place), load_vlm(vlm, video, place)


def pair_shapes(generator: BackboneSpec, vlm: BackboneSpec, video: VideoSpec) -> Shapes:
    """What both give for one clip, by their configurations alone.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        video: Geometry of the videos.

    Raises:
        TransporterError: If a name is unknown, a path can't be read, or the geometry does not suit a backbone.
    """
    xi, omega = _adapter(GeneratorAdapter, generators, generator), _adapter(VLMAdapter, vlms, vlm)
    return Shapes(*xi.shapes_of(generator.path, video), omega.token_shape_of(vlm.path, video))


def _adapter(port: type, registry: Registry[type[A]], spec: BackboneSpec) -> type[A]:
    """The adapter of a spec's name, which as a class path may name anything."""
    kind = registry.get(spec.name)
    if not (isinstance(kind, type) and issubclass(kind, port)):
        msg = f"name: {spec.name!r} is no {port.__name__}; registered {registry.kind}: {', '.join(registry.names())}"
        raise TransporterError(msg)
    return kind


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


def find_device(name: str) -> torch.device:
    """The device of a name; ``auto`` takes the GPU if there is one.

    Raises:
        TransporterError: If there is no such device.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device: {name!r} is not there; use auto, cpu, or cuda on a machine with a GPU"
        raise TransporterError(msg) from error
