"""The clips of a data module whose latents a training of concepts may start from."""

from __future__ import annotations

from collections.abc import Iterable

from transporter_pl.errors import TransporterError
from transporter_pl.loading import BackboneSpec
from transporter_pl.origin import checkpoint_name
from transporter_pl.samples import Encoded, Origin, VideoSpec


def latents_for(data: object, generator: BackboneSpec, video: VideoSpec) -> Iterable[Encoded]:
    """Training batches of a data module.

    Args:
        data: The data module.
        generator: The generator that shall go on from the latents.
        video: Its geometry.

    Raises:
        TransporterError: If there is none, it does not tell its origin, or its latents were made with something else.
    """
    if data is None:
        msg = "trajectory: 'data' needs clips; give a data module of cached latents, or trajectory: generated"
        raise TransporterError(msg)
    origin = getattr(data, "origin", None)
    if not isinstance(origin, Origin):
        msg = f"data: {type(data).__name__} does not say which generator made its latents; use a latent cache"
        raise TransporterError(msg)
    _check_origin(origin, generator, video)
    batches: Iterable[Encoded] = data.train_dataloader()  # type: ignore[attr-defined]
    return batches


def _check_origin(origin: Origin, generator: BackboneSpec, video: VideoSpec) -> None:
    """Refuse latents of another generator, or of another geometry."""
    names = checkpoint_name(origin.generator), checkpoint_name(generator.path)
    for field, made, given in (("generator", *names), ("video", str(origin.video), str(video))):
        if made != given:
            msg = f"{field}: the data's latents were made with {made}, not {given}; use that, or encode the clips anew"
            raise TransporterError(msg)
