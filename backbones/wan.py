"""Wan 2.1 and 2.2 text-to-video through diffusers: one expert (5B and smaller) or two (A14B)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanPipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from transporter_pl.adapters import GeneratorAdapter
from transporter_pl.backbones.folders import check_video, read_config, saved_aside
from transporter_pl.backbones.shipped import configuration, resolve
from transporter_pl.backbones.wan_geometry import GUIDANCE, OWN, WanGeometry, read_guidance
from transporter_pl.backbones.wan_loading import load_pipeline
from transporter_pl.backbones.wan_random import random_pipeline
from transporter_pl.backbones.wan_schedule import WanSchedule, check_scheduler
from transporter_pl.samples import VideoSpec


class WanAdapter(GeneratorAdapter):
    """A WanPipeline as a generator Ξ.

    Its own conventions are ours already: v = ω − z and z_t = (1 − σ) z + σ ω, at the model's time 1000 σ.

    Args:
        pipeline: The pipeline, on any device.
        video: Geometry of the clips.
        source: Hub id or folder that it came from.
        guidance_scale: Scale of classifier-free guidance that it is meant to be sampled with.
        guidance_scale_2: Scale of the expert for low noise; ``None``: the same.

    Raises:
        TransporterError: If the geometry does not suit the pipeline, or its scheduler is none of flow matching.
    """

    def __init__(
        self,
        pipeline: WanPipeline,
        video: VideoSpec,
        source: str | Path = "",
        guidance_scale: float = GUIDANCE,
        guidance_scale_2: float | None = None,
    ) -> None:
        super().__init__()
        parts = pipeline.components
        check_scheduler(parts["scheduler"].config)
        self.transformer: ModelMixin = parts["transformer"]
        self.transformer_2: ModelMixin | None = parts["transformer_2"]
        self.text_encoder: nn.Module = parts["text_encoder"]
        self.vae: AutoencoderKLWan = parts["vae"]
        self.pipeline, self.video, self.source = pipeline, video, str(source)
        self._guidance_scale, self._guidance_scale_2 = guidance_scale, guidance_scale_2
        self.geometry = WanGeometry.of(self.vae.config, self.transformer.config, parts["tokenizer"].model_max_length)
        self._latent_shape = self.geometry.latents(video)
        self._whole = WanSchedule(parts["scheduler"], 2).whole

    @classmethod
    def from_pretrained(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """Load from a hub id, a local folder or the name of a shipped checkpoint; the VAE stays in float32.

        Raises:
            TransporterError: Before any weight is loaded, if the folder is no WanPipeline or can't be reached, or the
                geometry does not suit it.
        """
        folder = resolve(path)
        WanGeometry.read(folder).latents(video)
        check_scheduler(read_config(folder, "scheduler/scheduler_config.json"))
        guidance = read_guidance(folder, path)
        return cls(load_pipeline(folder, dtype), video, path, *guidance).freeze()

    @classmethod
    def from_config(cls, path: str | Path, video: VideoSpec, dtype: torch.dtype = torch.float32) -> Self:
        """The pipeline of a hub id or local folder with random weights; the VAE stays in float32.

        Raises:
            TransporterError: As ``from_pretrained``.
        """
        folder = configuration(path)
        WanGeometry.read(folder).latents(video)
        check_scheduler(read_config(folder, "scheduler/scheduler_config.json"))
        return cls(random_pipeline(folder, dtype), video, path, *read_guidance(folder, path)).freeze()

    @classmethod
    def shapes_of(cls, path: str | Path, video: VideoSpec) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """(C, T', H', W') of latents and (L, D_c) of a condition, from the folder's configuration alone.

        Raises:
            TransporterError: As ``from_pretrained``.
        """
        geometry = WanGeometry.read(configuration(path))
        return geometry.latents(video), geometry.condition

    def save(self, path: str | Path) -> None:
        """Write a WanPipeline folder, with the guidance scales beside it in ``transporter.json``."""
        own = {"guidance_scale": self._guidance_scale}
        if self._guidance_scale_2 is not None:
            own["guidance_scale_2"] = self._guidance_scale_2
        with saved_aside(path) as aside:
            self.pipeline.save_pretrained(aside)
            (aside / OWN).write_text(json.dumps(own) + "\n", encoding="utf-8")

    @classmethod
    def check_access(cls, path: str | Path) -> None:
        """Read the hub's own index, whatever the package knows of the model.

        Raises:
            TransporterError: If it can't be read.
        """
        read_config(resolve(path), "model_index.json")

    def checkpoint_activations(self) -> None:
        """Of every block of the transformers only the input is kept for the backward pass."""
        for expert in (self.transformer, self.transformer_2):
            if expert is not None:
                expert.enable_gradient_checkpointing()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the transformer, a few of whose weights stay in float32 whatever it is loaded in."""
        kind: torch.dtype = self.transformer.dtype
        return kind

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, T', H', W') of one clip's latents."""
        return self._latent_shape

    @property
    def condition_shape(self) -> tuple[int, int]:
        """(L, D_c) of one caption's condition."""
        return self.geometry.condition

    @property
    def guidance_scale(self) -> float:
        """Classifier-free guidance scale; the unconditional condition is that of the empty caption."""
        return self._guidance_scale

    def guidance_at(self, t: float) -> float:
        """The scale of the expert that is trained for t."""
        low = self._boundary is not None and bool(self._model_time(torch.tensor(t)) < self._boundary)
        return self._guidance_scale_2 if low and self._guidance_scale_2 is not None else self.guidance_scale

    def encode(self, video: Tensor) -> Tensor:
        """Video (B, T, 3, H, W) in [0, 1] → latents (mode − mean) / std, (B, C, T', H', W').

        Raises:
            TransporterError: If the clips are not of the adapter's geometry.
        """
        check_video(video, self.video)
        pixels = video.to(self.vae.dtype).transpose(1, 2) * 2 - 1
        mean, std = self._statistics()
        latents: Tensor = (self.vae.encode(pixels).latent_dist.mode() - mean) / std
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') → video (B, T, 3, H, W) in [0, 1]; clamped pixels have no gradient."""
        mean, std = self._statistics()
        pixels = self.vae.decode(latents.to(self.vae.dtype) * std + mean).sample
        video: Tensor = (pixels.transpose(1, 2) + 1) / 2
        return video

    def encode_text(self, captions: list[str]) -> Tensor:
        """Captions → condition (B, L, D_c); rows after ``</s>`` are zero, but the transformer attends to them."""
        condition: Tensor = self.pipeline.encode_prompt(
            captions,
            do_classifier_free_guidance=False,
            max_sequence_length=self.condition_shape[0],
            device=next(self.text_encoder.parameters()).device,
        )[0]
        return condition

    def velocity(self, latents: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """Velocity v = G(z_t, ε, t) of the expert that is trained for t, chosen for every clip of the batch."""
        time = self._model_time(t)
        if self._boundary is None or self.transformer_2 is None:
            return self._ask(self.transformer, latents, condition, time)
        high = time >= self._boundary
        velocity = torch.empty_like(latents)
        for rows, expert in ((high, self.transformer), (~high, self.transformer_2)):
            if rows.any():
                velocity[rows] = self._ask(expert, latents[rows], condition[rows], time[rows])
        return velocity

    def schedule(self, steps: int) -> WanSchedule:
        """A fresh schedule of ``steps`` steps of the pipeline's own scheduler."""
        return WanSchedule(self.pipeline.scheduler, steps, self.device)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config, weight = self.vae.config, next(self.vae.parameters())
        mean, std = (weight.new_tensor(x).view(1, -1, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
        return mean, std

    @property
    def _boundary(self) -> float | None:
        ratio = self.pipeline.config.boundary_ratio
        return None if ratio is None else ratio * self.pipeline.scheduler.config.num_train_timesteps

    def _model_time(self, t: Tensor) -> Tensor:
        """1000 t, cut to whole numbers where the pipeline's scheduler does so."""
        time = t.double() * self.pipeline.scheduler.config.num_train_timesteps
        # σ is a float32: what was whole before must stay whole
        counted: Tensor = (time + 1e-4).floor() if self._whole else time
        return counted.float()

    @staticmethod
    def _ask(expert: ModelMixin, latents: Tensor, condition: Tensor, time: Tensor) -> Tensor:
        kind = expert.dtype
        velocity: Tensor = expert(latents.to(kind), time, condition.to(kind), return_dict=False)[0]
        return velocity.to(latents.dtype)


def decode_raw(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """``vae.decode`` without its clamp to ±1, which stops the gradient of every saturated pixel.

    Args:
        vae: The VAE; its feature cache is used, so that one call must end before the next begins.
        latents: Not normalised, (B, C, T', H', W').

    Returns:
        Video (B, 3, T, H, W), around [-1, 1].
    """
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for index in range(latents.shape[2]):
        vae._conv_idx = [0]
        first = {"first_chunk": True} if index == 0 else {}
        chunk = hidden[:, :, index : index + 1]
        frames.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, **first))
    vae.clear_cache()
    video = torch.cat(frames, 2)
    return unpatchify(video, vae.config.patch_size) if vae.config.patch_size else video
