"""Recipe of the small VLMs."""

from __future__ import annotations

from typing import Literal, cast

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from transporter_pl.backbones.pretraining.schedule import warm_hold_decay
from transporter_pl.backbones.pretraining.small_vlms import SMALL, go_on_from, take_vision
from transporter_pl.datamodules.shapemotion.datamodule import RenderedClips
from transporter_pl.samples import VideoSpec
from transporter_pl.stages.hyperparameters import check_choices

EMBEDDINGS = ("embed_tokens", "lm_head", "position_embedding")  # tables, not maps between features: not for Muon
CLIP = 1.0  # largest norm of the gradient


class VLMPretraining(L.LightningModule):
    """Captioning: cross-entropy of the caption's tokens after the video and the prompt.

    Pixel noise of a random strength up to ``noise`` is added in training, so that a codec's small errors do not matter.
    Matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW: AdamW alone leaves the colour at chance
    where Muon has it after 300 steps (docs/shapemotion.md).

    Args:
        export: Folder of the finished model.
        video: Geometry of the clips.
        vlm: ``video_llama3``, ``gemma3`` or ``phi4_multimodal``.
        patch: Patch side in pixels.
        merge: Squares of merge x merge patches become one token; Phi-4 always merges two by two.
        vision_dim: Width of the vision encoder.
        vision_layers: Its layers.
        text_dim: Width of the language model.
        text_layers: Its layers.
        lr: Peak learning rate of AdamW.
        muon_lr: Peak learning rate of Muon.
        noise: Largest standard deviation of the pixel noise.
        init: Folder of a model of the same widths to go on from; its patches may be larger: coarse patches learn motion
            soon, fine ones see shapes.
        vision: Folder or name of a trained VLM of any kind, with the same patches and widths, whose vision encoder this
            one begins with, as the published models begin with the same SigLIP.

    Raises:
        TransporterError: If there is no such kind, or the weights to begin with don't fit.
    """

    def __init__(
        self,
        export: str,
        video: VideoSpec,
        vlm: Literal["video_llama3", "gemma3", "phi4_multimodal"] = "video_llama3",
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
        vision: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["video"])
        self.automatic_optimization = False  # Lightning steps a single optimiser only
        check_choices(VLMPretraining, self.hparams)
        widths = {"vision_dim": vision_dim, "vision_layers": vision_layers, "text_dim": text_dim}
        self.adapter = SMALL[vlm](video, export, patch, merge, **widths, text_layers=text_layers)
        if init is not None:
            go_on_from(init, self.adapter.model)
        if vision is not None:
            take_vision(vision, self.adapter.model)

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
