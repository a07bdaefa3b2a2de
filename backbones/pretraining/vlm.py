"""Recipe of the small VideoLLaMA 3."""

from __future__ import annotations

from pathlib import Path

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy

from transporter_pl.backbones.pretraining.schedule import warm_hold_decay
from transporter_pl.backbones.scratch import new_video_llama3
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.datamodules.shapemotion.datamodule import RenderedClips
from transporter_pl.datamodules.shapemotion.world import vocabulary
from transporter_pl.samples import VideoSpec


class VLMPretraining(L.LightningModule):
    """Captioning: cross-entropy of the caption's tokens after the video and the prompt.

    Pixel noise of a random strength up to ``noise`` is added in training, so that a codec's small errors do not matter.

    Args:
        export: Folder of the finished model.
        video: Geometry of the clips.
        patch: Patch side in pixels; every patch becomes one token, as merging costs a small model most of its training.
        vision_dim: Width of the vision encoder.
        vision_layers: Its layers.
        text_dim: Width of the language model.
        text_layers: Its layers.
        lr: Peak learning rate.
        noise: Largest standard deviation of the pixel noise.
    """

    def __init__(
        self,
        export: str,
        video: VideoSpec,
        patch: int = 16,
        vision_dim: int = 96,
        vision_layers: int = 2,
        text_dim: int = 128,
        text_layers: int = 4,
        lr: float = 1e-3,
        noise: float = 0.05,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["video"])
        model, tokenizer = new_video_llama3(
            [*vocabulary(), "Describe", "the", "video", "Time", "s"],
            patch=patch,
            vision_dim=vision_dim,
            vision_layers=vision_layers,
            text_dim=text_dim,
            text_layers=text_layers,
        )
        processor = {
            "video_processor_type": "VideoLlama3VideoProcessor",
            "do_resize": False,
            "patch_size": patch,
            "merge_size": 1,
            "use_token_compression": False,
        }
        self.adapter = VideoLlama3Adapter(model, tokenizer, video, export, processor)

    def training_step(self, batch: RenderedClips, index: int) -> Tensor:
        """Cross-entropy of the captions of noisy clips."""
        video = batch.clips.video
        strength = self.hparams["noise"] * torch.rand(len(video), 1, 1, 1, 1, device=self.device)
        loss = self.caption_loss(video + strength * torch.randn_like(video), list(batch.clips.captions))
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: RenderedClips, index: int) -> None:
        """The same loss on held-out clips."""
        loss = self.caption_loss(batch.clips.video, list(batch.clips.captions))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.clips.video))

    def caption_loss(self, video: Tensor, captions: list[str]) -> Tensor:
        """Mean cross-entropy of each caption's tokens and its end; video (B, T, 3, H, W)."""
        tokenizer = self.adapter.tokenizer
        ended = [caption + tokenizer.eos_token for caption in captions]
        ids = tokenizer(ended, add_special_tokens=False, padding=True, return_tensors="pt")["input_ids"].to(self.device)
        logits = self.adapter.answer_logits(self.adapter.encode(video), ids)[:, :-1]
        return cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=tokenizer.pad_token_id)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and linear decay."""
        weights = self.adapter.parameters()
        optimizer = torch.optim.AdamW(weights, self.hparams["lr"], betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_hold_decay(self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Write the model folder."""
        Path(self.hparams["export"]).parent.mkdir(parents=True, exist_ok=True)
        self.adapter.save(self.hparams["export"])
