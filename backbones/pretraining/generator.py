"""Recipe of the small Wan generator: text encoder and diffusion transformer, trained together by flow matching."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from transporter_pl.backbones.pretraining.frozen import PartlyFrozen, trained_vae
from transporter_pl.backbones.pretraining.schedule import first_batches, warm_hold_decay
from transporter_pl.backbones.scratch import new_wan
from transporter_pl.backbones.wan import WanAdapter
from transporter_pl.datamodules.shapemotion.datamodule import RenderedClips
from transporter_pl.datamodules.shapemotion.world import vocabulary
from transporter_pl.samples import Clips, VideoSpec

START, FRESH = 256, 4  # batches encoded before the first step; steps between two more


class GeneratorPretraining(PartlyFrozen):
    """Conditional flow matching on a frozen VAE's latents.

    L = ‖G(z_t, ε, t) − (ω − z)‖², z_t = (1 − t) z + t ω; t is uniform for half of the clips and logit-normal for the
    rest, then shifted towards noise as the scheduler shifts it. A tenth of the captions are dropped, for
    classifier-free guidance. Every fourth step encodes its fresh batch into a replay buffer, and all train on a larger
    batch drawn from there, as encoding costs more than it teaches.

    Args:
        vae: Folder of the trained VAE, which stays as it is.
        export: Folder of the finished WanPipeline.
        video: Geometry of the clips.
        heads: Attention heads of the transformer.
        head_dim: Width of a head.
        layers: Transformer layers.
        batch: Clips a step, drawn from the buffer.
        buffer: Clips held in the buffer.
        lr: Peak learning rate.
        guidance_scale: Scale stored in the folder, with which the generator is meant to be sampled.

    Raises:
        TransporterError: If there is no VAE in its folder.
    """

    def __init__(
        self,
        vae: str,
        export: str,
        video: VideoSpec,
        heads: int = 2,
        head_dim: int = 96,
        layers: int = 5,
        batch: int = 32,
        buffer: int = 24000,
        lr: float = 1.5e-3,
        guidance_scale: float = 2.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["video"])
        codec = trained_vae("vae", vae)
        pipeline = new_wan(vocabulary(), vae=codec, heads=heads, head_dim=head_dim, layers=layers)
        self.adapter = WanAdapter(pipeline, video, source=export, guidance_scale=guidance_scale)
        self.adapter.vae.requires_grad_(False)
        self.latents: list[Tensor] = []
        self.captions: list[str] = []

    def on_fit_start(self) -> None:
        """Fill the buffer with a first few batches."""
        if not self.latents:
            for batch in first_batches(self, START):
                self._remember(batch.clips)

    def training_step(self, batch: RenderedClips, index: int) -> Tensor:
        """Encode every fourth fresh batch, train on a batch from the buffer."""
        if index % FRESH == 0:
            self._remember(batch.clips)
        chosen = torch.randint(len(self.latents), (self.hparams["batch"],)).tolist()
        latents = torch.stack([self.latents[i] for i in chosen]).to(self.device)
        drop = torch.rand(len(chosen)) < 0.1
        captions = ["" if d else self.captions[i] for i, d in zip(chosen, drop.tolist(), strict=True)]
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU, the fused backward in bfloat16 takes three times as long
            loss = self.flow_matching_loss(latents, captions)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: RenderedClips, index: int) -> None:
        """The same loss on held-out captions."""
        latents = self.adapter.encode(batch.clips.video)
        loss = self.flow_matching_loss(latents, list(batch.clips.captions))
        self.log("val/loss", loss, batch_size=len(latents), prog_bar=True)

    def flow_matching_loss(self, latents: Tensor, captions: list[str]) -> Tensor:
        """Mean squared error of the velocity at random times; latents (B, C, T', H', W')."""
        count = len(latents)
        t = torch.rand(count, device=self.device)
        t = torch.where(torch.rand_like(t) < 0.5, t, torch.randn_like(t).sigmoid())
        shift = self.adapter.pipeline.scheduler.config.shift
        t = shift * t / (1 + (shift - 1) * t)
        noise = torch.randn_like(latents)
        share = t[:, None, None, None, None]
        noisy = (1 - share) * latents + share * noise
        velocity = self.adapter.velocity(noisy, self.adapter.encode_text(captions), t)
        return (velocity - (noise - latents)).square().mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and linear decay over text encoder and transformer."""
        weights = [p for p in self.adapter.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, self.hparams["lr"], betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_hold_decay(self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write the pipeline folder, in half precision, which is enough to load and go on from."""
        self.adapter.half().save(self.hparams["export"])

    @torch.no_grad()
    def _remember(self, clips: Clips) -> None:
        latents = self.adapter.encode(clips.video.to(self.device)).cpu()
        self.latents.extend(latents)
        self.captions.extend(clips.captions)
        surplus = max(0, len(self.latents) - self.hparams["buffer"])
        del self.latents[:surplus], self.captions[:surplus]
