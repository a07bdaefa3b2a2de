"""What a user asks an evaluation for: the VLMs that are explained, the rows of the table, and what all rows share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transporter_pl.concepts.pairs import Pair
from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import VideoSpec


@dataclass(frozen=True)
class Explained:
    """A VLM that is explained, and what was trained for it.

    Attributes:
        vlm: The VLM Ω.
        coupling: Folder of Φ.
        concepts: Folder of the concept bank.
        cache: Latent cache that trains Φ, made with the generator and this VLM.
    """

    vlm: BackboneSpec
    coupling: str | None = None
    concepts: str | None = None
    cache: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table: who draws.

    Attributes:
        method: Registered name or class path of the method.
        label: What the table calls it; left out, the row's key.
        options: The method's own options.
    """

    method: str
    label: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What all rows of all VLMs share.

    Attributes:
        generator: The generator Ξ.
        video: Geometry of all videos.
        pairs: The contrasts.
        steps: Denoising steps of everything that the generator draws.
        batch_size: Videos drawn, decoded and read at once.
    """

    generator: BackboneSpec
    video: VideoSpec
    pairs: tuple[Pair, ...]
    steps: int
    batch_size: int
