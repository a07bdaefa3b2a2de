"""A linear codec of space-time blocks: the target that the VAE's encoder is anchored to."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BlockPCA(nn.Module):
    """Leading principal components of the 1xSxS first-frame blocks and the 4xSxS blocks of a clip.

    It has the Wan VAE's own grid (one latent frame for the first frame, then one for every four). A small VAE trained
    from scratch spends its first thousands of steps in finding a code; with its encoder regressed on these components
    and its decoder fed with them, both are useful after hundreds. The decoder is no longer linear, so the finished VAE
    is sharper than this codec.

    Args:
        channels: Number of components K.
        block: Side S of a block in pixels.
    """

    mean_first: Tensor
    mean_rest: Tensor
    basis_first: Tensor
    basis_rest: Tensor
    scale_first: Tensor
    scale_rest: Tensor

    def __init__(self, channels: int, block: int) -> None:
        super().__init__()
        self.channels, self.block = channels, block
        for part, frames in (("first", 1), ("rest", 4)):
            size = 3 * frames * block * block
            self.register_buffer(f"mean_{part}", torch.zeros(size))
            self.register_buffer(f"basis_{part}", torch.zeros(size, channels))
            self.register_buffer(f"scale_{part}", torch.ones(channels))

    @torch.no_grad()
    def fit(self, video: Tensor) -> BlockPCA:
        """Find the components of videos (B, 3, T, H, W); half-whitened, so that faint components stay faint."""
        bases = []
        for part, blocks in zip(("first", "rest"), self._blocks(video), strict=True):
            rows = blocks.flatten(0, -2)
            mean = rows.mean(0)
            # a few more components than asked for, as the randomised method's last ones are inexact
            bases.append(torch.pca_lowrank(rows - mean, q=self.channels + 8, niter=4)[2][:, : self.channels])
            getattr(self, f"mean_{part}").copy_(mean)
        bases[0] = self._match(bases[0], bases[1])
        for part, blocks, basis in zip(("first", "rest"), self._blocks(video), bases, strict=True):
            spread = ((blocks.flatten(0, -2) - getattr(self, f"mean_{part}")) @ basis).std(0)
            getattr(self, f"scale_{part}").copy_((spread * spread.mean()).sqrt())
            getattr(self, f"basis_{part}").copy_(basis)
        return self

    def encode(self, video: Tensor) -> Tensor:
        """Components (B, K, T', H/S, W/S) of videos (B, 3, T, H, W)."""
        first, rest = self._blocks(video)
        latents = torch.cat(
            [
                (first - self.mean_first) @ self.basis_first / self.scale_first,
                (rest - self.mean_rest) @ self.basis_rest / self.scale_rest,
            ],
            1,
        )
        return latents.permute(0, 4, 1, 2, 3).contiguous()

    def _blocks(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Flattened blocks: first frame (B, 1, h, w, 3·S²) and the rest (B, (T-1)/4, h, w, 12·S²)."""
        batch, _, frames, height, width = video.shape
        side = self.block
        grid = (height // side, side, width // side, side)
        first = video[:, :, :1].reshape(batch, 3, 1, *grid).permute(0, 2, 3, 5, 1, 4, 6)
        rest = video[:, :, 1:].reshape(batch, 3, (frames - 1) // 4, 4, *grid).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return first.flatten(4), rest.flatten(4)

    def _match(self, first: Tensor, rest: Tensor) -> Tensor:
        """Order and sign of the first-frame components such that a still clip has alike latents in every frame."""
        still = rest.reshape(3, 4, -1, self.channels).mean(1).flatten(0, 1)
        likeness = first.T @ still
        order: list[int] = []
        for column in likeness.abs().T:
            column = column.clone()
            column[order] = -1
            order.append(int(column.argmax()))
        matched = first[:, order]
        return matched * torch.where((matched * still).sum(0) < 0, -1.0, 1.0)
