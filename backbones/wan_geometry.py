"""What follows from the configuration of a WanPipeline, before any weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transporter_pl.backbones.folders import find_config, read_config
from transporter_pl.errors import TransporterError
from transporter_pl.origin import checkpoint_name
from transporter_pl.samples import VideoSpec

TEXT_LENGTH = 512  # default of the WanPipeline call
GUIDANCE = 5.0  # that call's default too, and what TI2V-5B is meant to be sampled with
OWN = "transporter.json"  # what a WanPipeline folder has no place for
# the published ones whose two experts are meant to be guided by other scales
PUBLISHED = {"Wan2.2-T2V-A14B-Diffusers": (4.0, 3.0)}


@dataclass(frozen=True)
class WanGeometry:
    """Sizes that follow from a pipeline's configuration.

    Attributes:
        channels: C of the latents.
        stride: Compression of the VAE in time and in space.
        patch: Patch of the transformer in (height, width), latent pixels.
        condition: (L, D_c) of a caption.
    """

    channels: int
    stride: tuple[int, int]
    patch: tuple[int, int]
    condition: tuple[int, int]

    @classmethod
    def of(cls, vae: Mapping[str, Any], transformer: Mapping[str, Any], text_length: int) -> Self:
        """From the configurations of the VAE and transformer, and the tokenizer's maximal length."""
        # old Wan 2.1 folders don't have the strides, which then are the class's defaults
        stride = vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)
        _, *patch = transformer["patch_size"]
        condition = min(TEXT_LENGTH, text_length), transformer["text_dim"]
        return cls(vae["z_dim"], stride, (patch[0], patch[1]), condition)

    @classmethod
    def read(cls, folder: str) -> Self:
        """From the configuration files of a folder or hub repository; no weights are read.

        Raises:
            TransporterError: If it is no folder of a WanPipeline.
        """
        index = find_config(folder, "model_index.json")
        if index is None:
            msg = f"path: {folder!r} has no model_index.json; give a folder in the layout of diffusers (hub ids of Wan "
            raise TransporterError(msg + "in that layout end in -Diffusers)")
        kind = index.get("_class_name")
        if kind != "WanPipeline":
            msg = f"path: {folder!r} holds a {kind}, not a WanPipeline; give a Wan text-to-video folder"
            raise TransporterError(msg)
        length = read_config(folder, "tokenizer/tokenizer_config.json").get("model_max_length", TEXT_LENGTH)
        vae, transformer = (read_config(folder, f"{part}/config.json") for part in ("vae", "transformer"))
        return cls.of(vae, transformer, length)

    def latents(self, video: VideoSpec) -> tuple[int, int, int, int]:
        """(C, T', H', W') of one clip's latents.

        Raises:
            TransporterError: If the frames are not 4k + 1 (the VAE would drop the rest silently), or height or width
                are no multiples of stride times patch.
        """
        time, space = self.stride
        if video.frames % time != 1:
            low = (video.frames - 1) // time * time + 1
            msg = f"video.frames: {video.frames} is not {time}k + 1 as Wan needs; use {low} or {low + time}"
            raise TransporterError(msg)
        for name, side, patch in (("height", video.height, self.patch[0]), ("width", video.width, self.patch[1])):
            if side % (space * patch):
                near = max(1, round(side / (space * patch))) * space * patch
                msg = (
                    f"video.{name}: {side} is not a multiple of {space * patch} (VAE stride {space} x patch {patch}); "
                    f"use {near}"
                )
                raise TransporterError(msg)
        return self.channels, (video.frames - 1) // time + 1, video.height // space, video.width // space


def read_guidance(folder: str, name: str | Path) -> tuple[float, float | None]:
    """The guidance scales that a folder is meant to be sampled with, as the WanPipeline call has them.

    Args:
        folder: Local folder or hub id.
        name: What the user calls it; the published ones, which have no file of ours, are known by name.

    Returns:
        ``guidance_scale``, and ``guidance_scale_2`` of the expert for low noise; None: the same.

    Raises:
        TransporterError: If the folder gives a scale that is no number of at least 1.
    """
    own = find_config(folder, OWN)
    if own is None:
        return PUBLISHED.get(checkpoint_name(str(name)), (GUIDANCE, None))
    first, second = own.get("guidance_scale", GUIDANCE), own.get("guidance_scale_2")
    for scale in (first, first if second is None else second):
        if not isinstance(scale, int | float) or not 1 <= scale < math.inf:
            msg = f"path: {OWN} in {folder!r} gives the guidance scale {scale!r}; write a number of at least 1"
            raise TransporterError(msg)
    return first, second
