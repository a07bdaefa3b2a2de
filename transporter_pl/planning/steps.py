"""One step of everything that a run does, by the very code that does it, on tensors with data or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from transporter_pl.adapters import GeneratorAdapter, VLMAdapter
from transporter_pl.concepts.divergences import hellinger
from transporter_pl.concepts.objectives import velocity_objective
from transporter_pl.concepts.pairs import Contrast
from transporter_pl.concepts.points import Points
from transporter_pl.concepts.reading import token_divergence
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.config import CouplingConfig
from transporter_pl.coupling.losses import LossWeights
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.encoding import encode
from transporter_pl.errors import check_counts
from transporter_pl.explain.modulation import Layers
from transporter_pl.explain.sampler import draw_noise, velocities
from transporter_pl.samples import Clips, Encoded, Origin
from transporter_pl.stages.coupling import measured_loss

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]
CAPTION = "a red ball moves to the left"
TIME = 0.5  # t of all steps: any other costs the same


@dataclass(frozen=True)
class Part:
    """One part of a run.

    Attributes:
        name: Its name.
        run: Does it.
    """

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Batches:
    """How much each part of a run does at once, on each GPU.

    Attributes:
        encode: Clips encoded at once.
        coupling: Clips a batch of stage 1.
        concept: Points a step of stage 2, of all its pairs, and latents that it draws and asks about at once.
        explain: Videos drawn at once.
    """

    encode: int = 8
    coupling: int = 8
    concept: int = 8
    explain: int = 8

    def __post_init__(self) -> None:
        """Refuse what is no number of things.

        Raises:
            TransporterError: If a number is below 1.
        """
        check_counts(**{f"batches.{name}": value for name, value in vars(self).items()})


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """What Lightning puts around a training step."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def new_network(config: CouplingConfig, precision: Precision, device: torch.device | str = "cpu") -> CouplingNetwork:
    """An untrained Φ as stage 1 has it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if precision == "bf16-true" else torch.float32)
    try:
        with torch.device(device):
            return CouplingNetwork(config)
    finally:
        torch.set_default_dtype(before)


class CouplingSteps:
    """Stage 1: Φ alone, with gradients and the two moments of AdamW.

    Args:
        network: Φ.
        batch: Encoded clips.
        precision: Lightning's.
    """

    def __init__(self, network: CouplingNetwork, batch: Encoded, precision: Precision = "32-true") -> None:
        self.network, self.batch, self.precision = network, batch, precision
        trained = [p for p in network.parameters() if p.requires_grad]
        # as it is on GPUs; decode-and-re-encode has nothing to train
        self.optimizer = torch.optim.AdamW(trained, foreach=True) if trained else None

    def step(self) -> None:
        """One batch; gradients stay, as they do while several are accumulated."""
        with autocast(self.precision, self.batch.latents.device):
            loss, _ = measured_loss(self.network, self.batch, LossWeights())
        if self.optimizer is not None:
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def parts(self) -> Iterator[Part]:
        """One step, once another has made the optimizer's state."""
        self.step()
        yield Part("step", self.step)


def encode_parts(generator: GeneratorAdapter, vlm: VLMAdapter, count: int) -> Iterator[Part]:
    """What ``transporter encode`` does with a batch of clips, each with a caption, and with further captions."""
    video, captions = torch.rand(count, *_frames(generator), device=generator.device), (CAPTION,) * count
    clips = Clips(captions, video, captions)

    @torch.no_grad()
    def encode_captions() -> None:
        generator.encode_text(list(captions))

    yield Part("clips → cache", lambda: encode(generator, vlm, clips))
    yield Part("captions → cache", encode_captions)


class ConceptSteps:
    """Stage 2 and ``explain``: generator, VLM and Φ, all frozen.

    Args:
        generator: Ξ.
        vlm: Ω.
        network: Φ.
        batches: How much is done at once.
        precision: Lightning's.
    """

    def __init__(
        self,
        generator: GeneratorAdapter,
        vlm: VLMAdapter,
        network: CouplingNetwork,
        batches: Batches,
        precision: Precision = "32-true",
    ) -> None:
        origin = Origin(generator.source, vlm.source, generator.video)
        self.bridge, self.batches, self.precision = Bridge(generator, vlm, network, origin), batches, precision
        with torch.no_grad():
            self.ends = generator.encode_text([CAPTION, CAPTION])

    def parts(self) -> Iterator[Part]:
        """Of stage 2: one step of some trajectories, Δϑ of some points, and one optimiser step."""
        rows = self.batches.concept
        vectors = self._vectors()
        optimizer = torch.optim.Adam([vectors], foreach=True)
        yield Part("trajectory step", self._trajectories)
        yield Part("divergence", lambda: self._divergence(self._points(self.batches.concept)))
        yield Part("step", lambda: self._step(self._points(rows), vectors, optimizer))

    def explain_parts(self) -> Iterator[Part]:
        """Of ``explain``: sampling; the drawn videos and their tokens by both routes; the VLM's answers.

        Each needs those before it, and may run any number of times.
        """
        generator, vlm, count = self.bridge.generator, self.bridge.vlm, self.batches.explain
        drawn: list[Tensor] = []  # latents and condition
        seen: list[Tensor] = []  # the videos, and their tokens by either route

        @torch.no_grad()
        def draw() -> None:
            condition = generator.encode_text([CAPTION] * count)
            drawn[:] = [self._denoise(draw_noise(generator, [0] * count), condition), condition]

        @torch.no_grad()
        def look() -> None:
            video = generator.decode(drawn[0])
            seen[:] = [video, self.bridge.tokens(*drawn), vlm.encode(video)]

        @torch.no_grad()
        def ask() -> None:
            # how long an answer gets depends on data; what it adds to the prompt's keys and values is small
            with suppress(DataDependentOutputException):
                vlm.caption(seen[1], max_new_tokens=1)
            vlm.logits(seen[1])

        yield Part("sampling step", draw)
        yield Part("decode, Φ, encode", look)
        yield Part("answers", ask)

    @torch.no_grad()
    def _trajectories(self) -> None:
        noise = draw_noise(self.bridge.generator, [0] * self.batches.concept)
        self._denoise(noise, self.ends[:1].expand(len(noise), -1, -1))

    def _denoise(self, latents: Tensor, condition: Tensor) -> Tensor:
        """What one step of ``denoise`` asks of the generator, with guidance where it is meant to be sampled with it."""
        generator = self.bridge.generator
        guided = generator.guidance_at(TIME) > 1
        unconditional = generator.encode_text([""]).expand_as(condition) if guided else None
        t = torch.tensor(TIME, device=latents.device)
        return velocities(generator, latents, Layers.at(TIME, condition, []), t, unconditional)[0]

    def _divergence(self, points: Points) -> None:
        ends, contrasts = self.ends.expand(len(points), -1, -1, -1), [Contrast("a", 0, 1)] * len(points)
        token_divergence(self.bridge, points, ends, contrasts, None, hellinger)

    def _step(self, points: Points, vectors: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        with autocast(self.precision, self.ends.device):
            phi = torch.tensor([0.5] * len(points), device=self.ends.device)
            condition = self.ends[None][points.context, 0]
            moved = vectors.expand(len(points), -1, -1)
            loss, _ = velocity_objective(self.bridge.generator, points, condition, moved, phi)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _points(self, count: int) -> Points:
        """As the teacher has computed them; all at one t, as two experts would share a batch otherwise."""
        latents = torch.randn(count, *self.bridge.generator.latent_shape, device=self.ends.device)
        t, context = (torch.tensor([value] * count, device=self.ends.device) for value in (TIME, 0))
        return Points(latents, t, context, context, torch.zeros_like(latents), torch.zeros_like(latents))

    def _vectors(self) -> Tensor:
        shape = 1, *self.ends.shape[1:]
        return torch.zeros(shape, device=self.ends.device, requires_grad=True)


def _frames(generator: GeneratorAdapter) -> tuple[int, int, int, int]:
    spec = generator.video
    return spec.frames, 3, spec.height, spec.width
