"""Lightning callbacks that show what Φ does to a few held-out clips while it trains, in TensorBoard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from transporter_pl.adapters import VLMAdapter
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.coupling.relations import gram
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.loading import BackboneSpec, load_vlm
from transporter_pl.origin import weights_fingerprint
from transporter_pl.report.relations import Relations, relations_figure
from transporter_pl.samples import Encoded
from transporter_pl.stages.coupling import CouplingStage
from transporter_pl.stages.sharding import gathered


class _Watch(L.Callback, ABC):
    """Shows the same held-out clips every so many steps, and at the end; changes nothing about the training."""

    def __init__(self, every_n_steps: int, clips: int) -> None:
        check_counts(every_n_steps=every_n_steps, clips=clips)
        self.every_n_steps, self.clips = every_n_steps, clips

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the clips, if there is a TensorBoard to show them in.

        Raises:
            TransporterError: If the callback stands in another stage's config.
        """
        stage, loggers = self._stage(pl_module), [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        self._watched, self._shown = bool(loggers), 0
        self._boards = [logger.experiment for logger in loggers] if trainer.is_global_zero else []
        if self._boards:
            self._take(trainer.datamodule, stage.device)  # type: ignore[attr-defined]

    def _take(self, data: Any, device: torch.device) -> None:  # noqa: ANN401  (any data module)
        """Keep what is shown again and again."""
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its workers
            self._batch = distinct_clips(data.val_dataloader(), self.clips).to(device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Show them after every ``every_n_steps`` optimiser steps."""
        if trainer.global_step % self.every_n_steps == 0:
            self._look(trainer.global_step, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show them at the end."""
        self._look(trainer.global_step, pl_module)

    @torch.no_grad()
    def _look(self, step: int, pl_module: L.LightningModule) -> None:
        if self._watched and step != self._shown:  # several batches may make up a step
            self._shown = step
            network = gathered(self._stage(pl_module).network)  # by all processes, whoever shows it
            if self._boards:
                with evaluated(network.to(pl_module.device)):
                    self._show(network, step)

    @abstractmethod
    def _show(self, network: CouplingNetwork, step: int) -> None:
        """Write to each of ``_boards`` what Φ does to ``_batch``."""

    def _stage(self, module: L.LightningModule) -> CouplingStage:
        if not isinstance(module, CouplingStage):
            msg = f"callbacks: {type(self).__name__} watches a CouplingStage, not {type(module).__name__}; leave it out"
            raise TransporterError(msg)
        return module


class WatchRelations(_Watch):
    """T̃, and the Gram matrices H(z_Ω), H(ẑ2) and H(z̃) side by side, as a picture in TensorBoard.

    Beside it, ``val/plan_peak`` says how sharp T̃ is: the mean, over target tokens, of the largest weight in a column. 1
    is a plan that takes one source token for each, 1/N one that takes all alike. What Φ does not have is left out.
    Other loggers than TensorBoard's get nothing.

    Args:
        every_n_steps: Optimiser steps from one picture to the next; there is one at the end, too.
        clips: Held-out clips in it.

    Raises:
        TransporterError: If a number is below 1.
    """

    def __init__(self, every_n_steps: int = 1000, clips: int = 2) -> None:
        super().__init__(every_n_steps, clips)

    def _show(self, network: CouplingNetwork, step: int) -> None:
        coupled = network.standardised(self._batch.latents, self._batch.condition, self._batch.reencoded)
        plan = network.plan(coupled, self._batch.reencoded)
        kinds = {"z_\\Omega": network.standardise(self._batch.tokens), "\\hat z_2": coupled.second}
        kinds["\\tilde z"] = coupled.tokens
        grams = {f"$H({name})$": gram(z, network.config.gram) for name, z in kinds.items() if z is not None}
        clips = [
            Relations(name, {title: h[row] for title, h in grams.items()}, None if plan is None else plan[row])
            for row, name in enumerate(self._batch.ids)
        ]
        for board in self._boards:
            board.add_figure("relations", relations_figure(clips), step)
            if plan is not None:
                board.add_scalar("val/plan_peak", plan.amax(1).mean(), step)


class WatchCaptions(_Watch):
    """The VLM's captions of held-out clips through Φ, beside those of the clips themselves, as text in TensorBoard.

    It loads the VLM that made the data's tokens, and holds it in memory beside Φ, but in no checkpoint. Other loggers
    than TensorBoard's get nothing; where there is no TensorBoard, no VLM is loaded.

    Args:
        every_n_steps: Optimiser steps from one time to the next; there is one at the end, too.
        clips: Held-out clips that are captioned.
        max_new_tokens: Longest caption, in tokens.

    Raises:
        TransporterError: If a number is below 1; and, before the first step, if the data does not name its VLM, or that
            has other weights by now.
    """

    def __init__(self, every_n_steps: int = 1000, clips: int = 4, max_new_tokens: int = 64) -> None:
        super().__init__(every_n_steps, clips)
        check_counts(max_new_tokens=max_new_tokens)
        self.max_new_tokens = max_new_tokens

    def _take(self, data: Any, device: torch.device) -> None:  # noqa: ANN401  (any data module)
        super()._take(data, device)
        self._vlm = vlm_of(data, device)
        self._of_clips = self._said(self._batch.tokens)

    def _said(self, tokens: Tensor) -> list[str]:
        return self._vlm.caption(tokens.to(self._vlm.dtype), max_new_tokens=self.max_new_tokens)

    def _show(self, network: CouplingNetwork, step: int) -> None:
        batch = self._batch
        said = self._said(network(batch.latents, batch.condition, batch.reencoded).tokens)
        rows = [("clip", "caption", "VLM", "VLM through Φ"), ("---",) * 4]
        rows += zip(batch.ids, batch.captions, self._of_clips, said, strict=True)
        table = "\n".join(f"| {' | '.join(map(in_a_cell, row))} |" for row in rows)
        for board in self._boards:
            board.add_text("captions", table, step)


def distinct_clips(batches: Iterable[Encoded], count: int) -> Encoded:
    """The first ``count`` clips, or as many as there are, whose tokens differ: a clip may have several captions."""
    found: list[dict[str, Any]] = []
    for row in _rows(batches):
        if not any(torch.equal(row["tokens"], other["tokens"]) for other in found):
            found.append(row)
        if len(found) == count:
            break
    columns = {name: tuple(row[name] for row in found) for name in found[0]}
    joined: dict[str, Any] = {n: torch.stack(c) if isinstance(c[0], Tensor) else c for n, c in columns.items()}
    return Encoded(**joined)


def _rows(batches: Iterable[Encoded]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for row in range(len(batch.ids)):
            yield {field.name: getattr(batch, field.name)[row] for field in fields(Encoded)}


@contextmanager
def evaluated(network: CouplingNetwork) -> Iterator[CouplingNetwork]:
    """Φ in eval mode, and every part of it as it was thereafter."""
    modes: dict[nn.Module, bool] = {module: module.training for module in network.modules()}
    try:
        yield network.eval()
    finally:
        for module, training in modes.items():
            module.training = training


def vlm_of(data: object, device: torch.device) -> VLMAdapter:
    """The VLM that made a data module's tokens.

    Raises:
        TransporterError: If the data module does not name it, or it has other weights by now.
    """
    spec, origin = getattr(data, "vlm", None), getattr(data, "origin", None)
    if not isinstance(spec, BackboneSpec) or origin is None:
        msg = f"callbacks: WatchCaptions asks the VLM, but {type(data).__name__} has no `vlm` that names it; "
        raise TransporterError(msg + "use a latent cache, or leave the callback out")
    vlm = load_vlm(spec, origin.video, device)
    was, now = origin.vlm_weights, weights_fingerprint(vlm)
    if was not in ("", now):
        msg = f"vlm: the tokens were made with other weights than those of {spec.path!r} (fingerprint {was}, not {now})"
        msg += "; encode the clips anew, or leave WatchCaptions out"
        raise TransporterError(msg)
    return vlm


def in_a_cell(text: str) -> str:
    """A text as a cell of a table in Markdown, which knows neither lines nor bars there."""
    return " ".join(text.replace("|", "\\|").split())
