"""Data that a training can be resumed on, and that several processes share, as in a latent cache; all in memory."""

import atexit
import os
from pathlib import Path

import lightning as L  # noqa: N812
import torch
import torch.distributed as dist

from transporter_pl.samples import Encoded, Origin, Shapes, TokenStatistics, VideoSpec

SHAPES = Shapes(latents=(4, 2, 2, 2), condition=(3, 6), tokens=(10, 8))
ORIGIN = Origin("hub/generator", "hub/vlm", VideoSpec(9, 64, 64, 8.0))


class OrderedEncodings(L.LightningDataModule):
    """Clips in an order that seed and epoch give; every process has its part of each global batch."""

    def __init__(self, clips: int = 28, batch_size: int = 4, dtype: str = "bfloat16") -> None:
        super().__init__()
        self.shapes, self.origin = SHAPES, ORIGIN
        self.clips, self.batch_size = clips, batch_size
        draws = torch.Generator().manual_seed(0)

        def made(shape, scale=1.0, shift=0.0):
            return (shift + scale * torch.randn(clips, *shape, generator=draws)).to(getattr(torch, dtype))

        self.tensors = {
            "latents": made(SHAPES.latents),
            "condition": made(SHAPES.condition),
            "tokens": made(SHAPES.tokens, 3, 5),
            "reencoded": made(SHAPES.tokens, 3, 5),
        }

    def token_statistics(self) -> TokenStatistics:
        return TokenStatistics.of(self.tensors["tokens"])

    def batch(self, chosen: list[int]) -> Encoded:
        names = tuple(str(i) for i in chosen)
        return Encoded(ids=names, captions=names, **{k: v[chosen] for k, v in self.tensors.items()})

    def train_dataloader(self) -> "Batches":
        return Batches(self, self.trainer.global_rank, self.trainer.world_size, shuffled=True)

    def val_dataloader(self) -> "Batches":
        return Batches(self, self.trainer.global_rank, self.trainer.world_size, shuffled=False)


class Batches:
    """A loader that knows how many batches it has given, of all epochs."""

    def __init__(self, data: OrderedEncodings, rank: int, processes: int, shuffled: bool) -> None:
        self.data, self.rank, self.processes, self.shuffled, self.given = data, rank, processes, shuffled, 0

    def __len__(self) -> int:
        return self.data.clips // (self.data.batch_size * self.processes)

    def __iter__(self):
        epoch, start = divmod(self.given, len(self))
        order = torch.arange(self.data.clips)
        if self.shuffled:
            order = torch.randperm(self.data.clips, generator=torch.Generator().manual_seed(epoch))
        for batch in range(start, len(self)):
            self.given += 1
            first = (batch * self.processes + self.rank) * self.data.batch_size
            yield self.data.batch(order[first : first + self.data.batch_size].tolist())

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


class Signalled(L.Callback):
    """Sends its own process a signal in the midst of a batch, counted over epochs; of several, to one or to all."""

    def __init__(self, number: int, batch: int, hook: str = "on_before_backward", rank: int | None = None) -> None:
        self.number, self.batch, self.rank = number, batch, rank
        setattr(self, hook, self.send)

    def send(self, trainer: L.Trainer, *_: object) -> None:
        here = self.rank in (None, trainer.global_rank)
        if here and trainer.fit_loop.epoch_loop.total_batch_idx == self.batch and not trainer.ckpt_path:
            os.kill(os.getpid(), self.number)


class Unfinished(L.Callback):
    """Leaves Gloo's threads with something to do, and writes, when the interpreter ends, what is left of them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.work = dist.all_reduce(torch.ones(2**24), async_op=True)
        atexit.register(self.write, Path(self.folder) / str(trainer.global_rank))

    def write(self, file: Path) -> None:
        threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
        file.write_text(f"{self.work.is_completed()} {threads.count('pt_gloo_runloop')} {dist.is_initialized()}")
