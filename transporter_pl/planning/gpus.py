"""GPUs by name: what they hold, and how fast they are at best."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from transporter_pl.errors import TransporterError, did_you_mean

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """One kind of GPU.

    Attributes:
        name: As it is sold.
        memory: Bytes.
        flops: Dense bfloat16 operations a second by its data sheet; ``None`` where only the memory is known.
    """

    name: str
    memory: int
    flops: float | None = None


KNOWN = tuple(
    GPU(name, round(gib * GIB), tera * 1e12)
    for name, gib, tera in (
        ("H200 141GB", 140, 989),
        ("H100 80GB", 79.6, 989),
        ("A100 80GB", 80, 312),
        ("A100 40GB", 40, 312),
        ("L40S 48GB", 45, 362),
        ("RTX 4090 24GB", 24, 165),
    )
)


def find_gpu(name: str) -> GPU:
    """The GPU of a name such as "H100 80GB" or "h200", or one of so many GiB, "48" or "48GiB".

    Raises:
        TransporterError: If it is unknown, or the name fits several (lists those known, suggests the nearest).
    """
    size = re.fullmatch(r"(\d+(\.\d+)?)\s*(GiB|GB|G)?", name.strip(), re.IGNORECASE)
    if size is not None and 0 < float(size[1]) < math.inf:
        return GPU(f"{size[1]} GiB", round(float(size[1]) * GIB))
    fitting = [gpu for gpu in KNOWN if _plain(gpu.name).startswith(_plain(name)) and _plain(name)]
    if len(fitting) == 1:
        return fitting[0]
    known = [gpu.name for gpu in KNOWN]
    hint = " Which of them?" if fitting else did_you_mean(name, known, cutoff=0.5)
    msg = f"gpu: {name!r} is {'ambiguous' if fitting else 'unknown'}.{hint} Known: {', '.join(known)}; or give its GiB"
    raise TransporterError(msg)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
