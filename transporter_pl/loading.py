"""From names in a config to frozen backbones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter, generators, vlms
from transporter_pl.coupling.bridge import check_fit
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Origin, Shapes, VideoSpec


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone to load.

    Attributes:
        name: Registered adapter name (``wan``, ``video_llama3``) or class path.
        path: Hub id, local folder, or the name of a shipped checkpoint (``shapemotion-wan``).
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        TransporterError: If torch has no such floating-point type.
    """

    name: str
    path: str
    dtype: str = "float32"

    def __post_init__(self) -> None:
        kind = getattr(torch, self.dtype, None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            msg = f"dtype: {self.dtype!r} is no floating-point type; use float32, bfloat16 or float16"
            raise TransporterError(msg)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return kind


def load_generator(spec: BackboneSpec, video: VideoSpec) -> GeneratorAdapter:
    """The frozen generator of a spec, for videos of one geometry."""
    return generators.get(spec.name).from_pretrained(spec.path, video, spec.torch_dtype)


def load_vlm(spec: BackboneSpec, video: VideoSpec) -> VLMAdapter:
    """The frozen VLM of a spec, for videos of one geometry."""
    return vlms.get(spec.name).from_pretrained(spec.path, video, spec.torch_dtype)


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
    return load_generator(generator, video).to(place), load_vlm(vlm, video).to(place)


def _device(name: str) -> torch.device:
    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device: {name!r} is not there; use auto, cpu, or cuda on a machine with a GPU"
        raise TransporterError(msg) from error
