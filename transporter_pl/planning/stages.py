"""The stages of a run: what each holds all the while, and the parts of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.encoding import encode
from transporter_pl.planning.steps import (
    CAPTION,
    Batches,
    ConceptSteps,
    CouplingSteps,
    Part,
    Precision,
    encode_parts,
    new_network,
)
from transporter_pl.precision import Storage
from transporter_pl.samples import Clips, Encoded

ENCODED = ("latents", "condition", "tokens", "reencoded")


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: ``encode``, ``stage 1``, ``stage 2`` or ``explain``.
        held: What lives as long as it does.
        parts: Its parts, to be run in order.
    """

    name: str
    held: tuple[nn.Module | Tensor, ...]
    parts: Iterator[Part]


def stages(
    generator: GeneratorAdapter,
    vlm: VLMAdapter,
    config: CouplingConfig,
    batches: Batches,
    precision: Precision,
    storage: Storage = "bfloat16",
) -> Iterator[Stage]:
    """All stages, on the backbones' device, with tensors that have data or with ones that have none.

    Stage 1 comes last, when nothing here holds the backbones any more: as in a real run, it then has the device to
    itself, if the caller has let go of them too.

    Args:
        generator: The generator Ξ.
        vlm: The VLM Ω.
        config: What Φ is built from.
        batches: How much is done at once.
        precision: Lightning's, in both stages.
        storage: Type that batches of stage 1 are read in.
    """
    place = generator.device
    yield Stage("encode", (generator, vlm), encode_parts(generator, vlm, batches.encode))
    batch = _batch(generator, vlm, batches.coupling, storage)
    steps = ConceptSteps(generator, vlm, new_network(config, "32-true", place), batches, precision)
    del generator, vlm
    yield Stage("stage 2", (steps.bridge, steps.ends), steps.parts())
    yield Stage("explain", (steps.bridge,), steps.explain_parts())
    del steps
    phi = new_network(config, precision, place)
    tensors = (getattr(batch, name) for name in ENCODED)
    yield Stage("stage 1", (phi, *tensors), CouplingSteps(phi, batch, precision).parts())


def _batch(generator: GeneratorAdapter, vlm: VLMAdapter, count: int, storage: Storage) -> Encoded:
    """One clip's encodings, many times over: encoding so many clips may take more memory than stage 1 does."""
    kind = torch.float32 if storage == "float32" else torch.bfloat16  # float8 comes back as bfloat16
    spec = generator.video
    video = torch.rand(1, spec.frames, 3, spec.height, spec.width, device=generator.device)
    clip = encode(generator, vlm, Clips(("",), video, (CAPTION,)))
    tensors = {name: getattr(clip, name).to(kind).repeat_interleave(count, 0) for name in ENCODED}
    return replace(clip, ids=clip.ids * count, captions=clip.captions * count, **tensors)
