"""Which frozen models, and with which weights, as a folder may be trained anew under its old name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePath

from torch import nn

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.errors import TransporterError
from transporter_pl.samples import Origin

AT_REVISION = re.compile(r"([\w-][\w.-]*/[\w.-]+)@(.+)")


def origin_of(generator: GeneratorAdapter, vlm: VLMAdapter) -> Origin:
    """What caches, Φ and concept banks say about the two models that they were made with."""
    weights = weights_fingerprint(generator), weights_fingerprint(vlm)
    return Origin(generator.source, vlm.source, generator.video, *weights)


def split_revision(source: str) -> tuple[str, str | None]:
    """The hub id "org/name@revision" as its two parts; no other hub id, and no local folder, has a revision."""
    found = None if Path(source).is_dir() else AT_REVISION.fullmatch(source)
    return (found[1], found[2]) if found else (source, None)


def checkpoint_name(source: str) -> str:
    """What a checkpoint keeps where it moves, be it a hub id, a shipped one or a local folder: its last part.

    A revision is no part of the name, as the folder that it is downloaded to has none; fingerprints tell weights apart.
    """
    return PurePath(split_revision(source)[0]).name


def weights_fingerprint(model: nn.Module) -> str:
    """Digest of a model's weights: of every tensor its name, shape and 64 numbers spread over it.

    Read as bfloat16, so that the same weights loaded in float32 and in bfloat16 are the same.
    """
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        sample = weight.flatten()[:: max(1, weight.numel() // 64)].bfloat16().float().cpu()
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_weights(trained: str, fingerprints: tuple[str, str], given: Origin) -> None:
    """Refuse backbones with other weights than those that something was trained with; unknown weights pass.

    Args:
        trained: What was trained, as the message names it.
        fingerprints: Of the generator and of the VLM that it was trained with.
        given: The backbones that it shall serve.

    Raises:
        TransporterError: If the weights of one differ (names it).
    """
    found = (("generator", given.generator, given.generator_weights), ("vlm", given.vlm, given.vlm_weights))
    for was, (kind, source, now) in zip(fingerprints, found, strict=True):
        if was and now and was != now:
            msg = f"{kind}: the {trained} was trained with other weights than those of {source!r} (fingerprint {was}, "
            msg += f"not {now}); give the folder with those weights, or train the {trained} anew"
            raise TransporterError(msg)
