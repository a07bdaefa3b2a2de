"""From names in a config to frozen backbones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter, generators, vlms
from transporter_pl.errors import TransporterError
from transporter_pl.samples import VideoSpec


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone to load.

    Attributes:
        name: Registered adapter name (``wan``, ``video_llama3``) or class path.
        path: Hub id, local folder, or the name of a shipped checkpoint (``shapemotion-wan``).
        dtype: ``float32``, ``bfloat16`` or ``float16``.
    """

    name: str
    path: str
    dtype: str = "float32"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it.

        Raises:
            TransporterError: If torch has no such floating-point type.
        """
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            msg = f"dtype: {self.dtype!r} is no floating-point type; use float32, bfloat16 or float16"
            raise TransporterError(msg)
        return dtype


def load_generator(spec: BackboneSpec, video: VideoSpec) -> GeneratorAdapter:
    """The frozen generator of a spec, for videos of one geometry."""
    return generators.get(spec.name).from_pretrained(spec.path, video, spec.torch_dtype)


def load_vlm(spec: BackboneSpec, video: VideoSpec) -> VLMAdapter:
    """The frozen VLM of a spec, for videos of one geometry."""
    return vlms.get(spec.name).from_pretrained(spec.path, video, spec.torch_dtype)
