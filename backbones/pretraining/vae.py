"""Recipe of the small Wan VAE."""

from __future__ import annotations

import math

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import max_pool3d

from transporter_pl.backbones.folders import saved_aside
from transporter_pl.backbones.pretraining.anchor import BlockPCA
from transporter_pl.backbones.pretraining.frozen import PartlyFrozen, trained_vae
from transporter_pl.backbones.pretraining.schedule import first_batches, warm_hold_decay
from transporter_pl.backbones.scratch import new_vae
from transporter_pl.backbones.wan import decode_raw
from transporter_pl.datamodules.shapemotion.datamodule import RenderedClips

RIM = 3  # pixels round the object that weigh as much as it


class VAEPretraining(PartlyFrozen):
    """Trains an AutoencoderKLWan: reconstruction + KL + anchor to the clips' principal components.

    L = w mse(x, x̂) + 0.1 w |x − x̂| + β KL(q(z|x) ‖ N(0, I)) + λ mse(mode, PCA(x)), x in [-1, 1]; w is ``emphasis`` + 1
    on the object (where a pixel differs from the clip's background, its median) and ``RIM`` pixels round it, and 1
    elsewhere: without the rim, too large an object costs less than too small a one, and objects grow. For the first
    ``taught`` of the steps the decoder reads PCA(x) with a little noise instead of the encoder's sample.

    Args:
        export: Folder of the finished VAE alone (diffusers' format); may be the ``vae`` of a pipeline's folder.
        latent_channels: K.
        base_dim: Width of the VAE.
        patch: Pixels are folded patch x patch; the stride is 4 in time and 4·patch in space.
        lr: Peak learning rate.
        kl_weight: β, KL averaged per latent number.
        anchor_weight: λ.
        taught: Share of the steps in which the decoder reads the components.
        emphasis: Extra weight of the object's pixels, which are a small part of a frame.
        init: Folder of a VAE to go on from.
        decoder_only: Train the decoder alone, on the encoder's modes: latents stay what they are, and a generator that
            was trained on them stays good.

    Raises:
        TransporterError: If there is no VAE in the folder to go on from.
    """

    def __init__(
        self,
        export: str,
        latent_channels: int = 24,
        base_dim: int = 32,
        patch: int = 4,
        lr: float = 3e-3,
        kl_weight: float = 1e-4,
        anchor_weight: float = 0.1,
        taught: float = 0.4,
        emphasis: float = 4.0,
        init: str | None = None,
        decoder_only: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.vae = trained_vae("init", init) if init else new_vae(latent_channels, base_dim, patch)
        if decoder_only:
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        else:
            self.anchor = BlockPCA(latent_channels, 4 * patch)

    def on_fit_start(self) -> None:
        """Fit the anchor on a few hundred clips."""
        if not self.hparams["decoder_only"] and not self.anchor.basis_first.any():
            clips = [batch.clips.video for batch in first_batches(self, 80)]
            self.anchor.fit(_pixels(torch.cat(clips)).to(self.device))

    def training_step(self, batch: RenderedClips, index: int) -> Tensor:
        """One step of the loss above; three steps of four see the first five frames only, which is cheaper."""
        video = _pixels(batch.clips.video)
        video = video if index % 4 == 0 else video[:, :, :5]
        posterior = self.vae.encode(video).latent_dist
        alone = self.hparams["decoder_only"]
        loss = self._decoder_loss(posterior.mode(), video) if alone else self._whole_loss(posterior, video)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _whole_loss(self, posterior: DiagonalGaussianDistribution, video: Tensor) -> Tensor:
        target = self.anchor.encode(video)
        taught = self.global_step < self.hparams["taught"] * self.trainer.max_steps
        latents = target + 0.05 * torch.randn_like(target) if taught else posterior.sample()
        kl = posterior.kl().mean() / latents[0].numel()
        anchor = (posterior.mode() - target).square().mean()
        regularised: Tensor = self.hparams["kl_weight"] * kl + self.hparams["anchor_weight"] * anchor
        return self._decoder_loss(latents, video) + regularised

    def _decoder_loss(self, latents: Tensor, video: Tensor) -> Tensor:
        error = decode_raw(self.vae, latents) - video
        return (self._weight(video) * (error.square() + 0.1 * error.abs())).mean()

    def _weight(self, video: Tensor) -> Tensor:
        """Weight of every pixel, (B, 1, T, H, W)."""
        background = video.flatten(2).median(-1).values[:, :, None, None, None]
        there = ((video - background).abs().amax(1, keepdim=True) > 0.1).float()
        near = max_pool3d(there, (1, 2 * RIM + 1, 2 * RIM + 1), 1, (0, RIM, RIM))
        emphasis: float = self.hparams["emphasis"]
        return 1 + emphasis * near

    def reconstruct(self, video: Tensor) -> Tensor:
        """Encode (to the mode) and decode; video (B, T, 3, H, W) in [0, 1]."""
        decoded: Tensor = self.vae.decode(self.vae.encode(_pixels(video)).latent_dist.mode()).sample
        return (decoded.transpose(1, 2) + 1) / 2

    def validation_step(self, batch: RenderedClips, index: int) -> None:
        """Peak signal-to-noise ratio of held-out clips."""
        video = batch.clips.video
        error = (self.reconstruct(video) - video).square().mean()
        self.log("val/psnr", -10 * math.log10(error.item()), prog_bar=True, batch_size=len(video))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and linear decay."""
        weights = [p for p in self.vae.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, self.hparams["lr"], betas=(0.9, 0.98), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_hold_decay(self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Export in half precision, with the mean and spread of training clips' latents for the pipeline."""
        if not self.hparams["decoder_only"]:
            self._measure_latents()
        with saved_aside(self.hparams["export"]) as aside:
            self.vae.half().save_pretrained(aside)

    def _measure_latents(self) -> None:
        videos = [_pixels(batch.clips.video) for batch in first_batches(self, 40)]
        modes = torch.cat([self.vae.encode(v.to(self.device)).latent_dist.mode() for v in videos])
        self.vae.register_to_config(
            latents_mean=modes.mean((0, 2, 3, 4)).tolist(), latents_std=modes.std((0, 2, 3, 4)).tolist()
        )


def _pixels(video: Tensor) -> Tensor:
    """(B, T, 3, H, W) in [0, 1] → (B, 3, T, H, W) in [-1, 1]."""
    return video.transpose(1, 2) * 2 - 1
