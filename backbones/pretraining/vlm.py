"""Recipe of the small VideoLLaMA 3."""

from __future__ import annotations

from typing import cast

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import VideoLlama3ForConditionalGeneration

from transporter_pl.backbones.folders import loading
from transporter_pl.backbones.pretraining.schedule import warm_hold_decay
from transporter_pl.backbones.scratch import new_video_llama3
from transporter_pl.backbones.video_llama3 import VideoLlama3Adapter
from transporter_pl.datamodules.shapemotion.datamodule import RenderedClips
from transporter_pl.datamodules.shapemotion.world import vocabulary
from transporter_pl.samples import VideoSpec

EMBEDDINGS = ("embed_tokens", "lm_head")  # tables, not maps between features: not for Muon
PATCHES = "model.vision_model.embeddings.patch_embedding.weight"
CLIP = 1.0  # largest norm of the gradient


class VLMPretraining(L.LightningModule):
    """Captioning: cross-entropy of the caption's tokens after the video and the prompt.

    Pixel noise of a random strength up to ``noise`` is added in training, so that a codec's small errors do not matter.
    Matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW: AdamW alone leaves the colour at chance
    where Muon has it after 300 steps (docs/shapemotion.md).

    Args:
        export: Folder of the finished model.
        video: Geometry of the clips.
        patch: Patch side in pixels.
        merge: Squares of merge x merge patches become one token.
        vision_dim: Width of the vision encoder.
        vision_layers: Its layers.
        text_dim: Width of the language model.
        text_layers: Its layers.
        lr: Peak learning rate of AdamW.
        muon_lr: Peak learning rate of Muon.
        noise: Largest standard deviation of the pixel noise.
        init: Folder of a model of the same widths to go on from; its patches may be larger: coarse patches learn motion
            soon, fine ones see shapes.
    """

    def __init__(
        self,
        export: str,
        video: VideoSpec,
        patch: int = 16,
        merge: int = 2,
        vision_dim: int = 128,
        vision_layers: int = 3,
        text_dim: int = 128,
        text_layers: int = 4,
        lr: float = 1e-3,
        muon_lr: float = 0.015,
        noise: float = 0.05,
        init: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["video"])
        self.automatic_optimization = False  # Lightning steps a single optimiser only
        model, tokenizer = new_video_llama3(
            [*vocabulary(), "Describe", "the", "video", "Time", "s"],
            patch=patch,
            vision_dim=vision_dim,
            vision_layers=vision_layers,
            text_dim=text_dim,
            text_layers=text_layers,
        )
        if init is not None:
            _go_on_from(init, model)
        processor = {
            "video_processor_type": "VideoLlama3VideoProcessor",
            "do_resize": False,
            "patch_size": patch,
            "merge_size": merge,
            "use_token_compression": False,
        }
        self.adapter = VideoLlama3Adapter(model, tokenizer, video, export, processor)

    def training_step(self, batch: RenderedClips, index: int) -> None:
        """Cross-entropy of the captions of noisy clips, and a step of both optimisers."""
        video = batch.clips.video
        strength = self.hparams["noise"] * torch.rand(len(video), 1, 1, 1, 1, device=self.device)
        loss = self.caption_loss(video + strength * torch.randn_like(video), list(batch.clips.captions))
        self.log("train/loss", loss.detach(), prog_bar=True)
        muon, adam = cast(list[LightningOptimizer], self.optimizers())
        muon.zero_grad()
        adam.zero_grad()
        self.manual_backward(loss)
        clip_grad_norm_(self.parameters(), CLIP)
        muon.step()
        adam.optimizer.step()  # past Lightning, which would count a second step
        for scheduler in cast(list[LRScheduler], self.lr_schedulers()):
            scheduler.step()

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
        """Muon for the layers' matrices, AdamW for the rest, both with warm-up and linear decay."""
        matrices: list[Tensor] = []
        rest: list[Tensor] = []
        patches: list[Tensor] = []
        for name, weight in self.adapter.model.named_parameters():
            table = any(part in name for part in EMBEDDINGS)
            (patches if weight.ndim > 2 else rest if table or weight.ndim == 1 else matrices).append(weight)
        lr = self.hparams["lr"]
        # a patch row sums over thousands of pixels that change together: at the others' rate it never settles
        groups = [{"params": rest}, {"params": patches, "lr": lr / 10}]
        optimizers = (
            torch.optim.Muon(matrices, self.hparams["muon_lr"], weight_decay=0.0),
            torch.optim.AdamW(groups, lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        factor = warm_hold_decay(self.trainer.max_steps)
        schedulers = [LambdaLR(optimizer, factor) for optimizer in optimizers]
        return list(optimizers), schedulers

    def on_fit_end(self) -> None:
        """Write the model folder, in half precision, which is enough to load and go on from."""
        self.adapter.half().save(self.hparams["export"])


def _go_on_from(folder: str, model: VideoLlama3ForConditionalGeneration) -> None:
    """Copy all weights; those of the patch embedding are resampled to the new patches, with the same sums."""
    with loading(folder):
        weights = VideoLlama3ForConditionalGeneration.from_pretrained(folder, use_safetensors=True).float().state_dict()
    old, side = weights[PATCHES], model.config.vision_config.patch_size
    weights[PATCHES] = interpolate(old, (side, side), mode="area") * (old.shape[-1] / side) ** 2
    model.load_state_dict(weights)
