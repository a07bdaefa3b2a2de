"""Does it fit? One clip is rehearsed before any long work, as a sampling run would else fail at its end."""

from __future__ import annotations

import psutil
import torch
from torch import Tensor

from transporter_pl.coupling.bridge import Bridge
from transporter_pl.errors import TransporterError
from transporter_pl.planning.meter import Meter

GIB = 2**30
REHEARSED_T = 0.5


@torch.no_grad()
def check_memory(bridge: Bridge, rows: int, condition: Tensor, fields: int = 2) -> None:
    """Refuse as many rows at once as need more memory than the device has free.

    One clip goes through everything that a sampling run does: a guided velocity, decoding, Φ, the VLM's encoder and its
    answer. What it needs beside the weights grows with the rows.

    Args:
        bridge: Generator, Φ and VLM, on their device.
        rows: Clips at once.
        condition: ε− of one clip, (1, L, D_c).
        fields: Velocities of each clip in a step: its own, that of the empty caption, one for each set of frames.

    Raises:
        TransporterError: With need, free memory, and the number of clips that fits.
    """
    free = free_memory(bridge.generator.device)
    try:
        need = _rehearsed(bridge, condition, fields)
    except torch.OutOfMemoryError as error:
        msg = f"memory: not even one clip fits into the {free / GIB:.1f} GiB that are free; take fewer frames or a "
        raise TransporterError(msg + "smaller size, or another device") from error
    if need * rows > free:
        fits = int(free // need)
        fix = f"give --batch_size {fits}" if fits else "take fewer frames or a smaller size, or another device"
        msg = f"batch_size: {rows} clips at once need {need * rows / GIB:.1f} GiB beside the weights, but "
        raise TransporterError(msg + f"{free / GIB:.1f} GiB are free; {fix}")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of a GPU, what torch holds in reserve is free too."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def _rehearsed(bridge: Bridge, condition: Tensor, fields: int = 2) -> int:
    """Bytes that one clip needs at most, beside the weights."""
    generator = bridge.generator
    with Meter() as meter:
        meter.hold(bridge)
        held = meter.live
        latents = torch.zeros(1, *generator.latent_shape, device=condition.device)
        t = torch.full((fields,), REHEARSED_T, device=condition.device)
        velocity = generator.velocity(latents.expand(fields, -1, -1, -1, -1), condition.expand(fields, -1, -1), t)[:1]
        video = generator.decode(velocity)
        for tokens in (bridge.tokens(velocity, condition), bridge.vlm.encode(video)):
            bridge.vlm.logits(tokens)
    return int(meter.peak - held)
