"""What the fixture ``tiny`` gives, in a module that other processes find too: of conftest.py there are several."""

from dataclasses import dataclass

from transporter_pl.loading import BackboneSpec
from transporter_pl.samples import VideoSpec


@dataclass(frozen=True)
class Tiny:
    """A generator and a VLM of random weights, and the geometry that they share."""

    generator: BackboneSpec
    vlm: BackboneSpec
    video: VideoSpec
