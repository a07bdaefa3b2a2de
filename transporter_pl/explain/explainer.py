"""From a caption and a pair of words to videos, and to what the VLM says about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Contrast, Pair
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.coupling.network import CouplingNetwork
from transporter_pl.coupling.storage import read_origin
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.explain.dials import SWEEP, Dial
from transporter_pl.explain.explanation import Explanation
from transporter_pl.explain.looking import faded, look
from transporter_pl.explain.memory import check_memory
from transporter_pl.explain.modulation import Modulation, modulate
from transporter_pl.explain.request import Request, as_pair
from transporter_pl.explain.sampler import Watch, draw_noise, sample
from transporter_pl.explain.spans import frame_weights
from transporter_pl.explain.starting import Start, begin, first_step
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.samples import VideoSpec

CALIBRATED = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


class Explainer:
    """Draws videos that a concept moves, and asks the VLM about them.

    Args:
        bridge: Generator, Φ and VLM.
        bank: The concepts.

    Raises:
        TransporterError: If a vector does not fit the generator, or the bank was learned with other weights.
    """

    def __init__(self, bridge: Bridge, bank: ConceptBank) -> None:
        self.bridge, self.bank = bridge, bank
        self.fitting = 0, 0  # rows, and velocities of each, that are known to fit into the memory
        check_vectors(bank, bridge.generator.condition_shape)
        bank.check_weights(bridge.origin)

    @classmethod
    def from_pretrained(
        cls,
        generator: BackboneSpec | str,
        vlm: BackboneSpec | str,
        coupling: str | Path,
        concepts: str | Path,
        video: VideoSpec | None = None,
        device: str = "cpu",
    ) -> Self:
        """Load everything from its folders; bank and Φ first, which are quick and tell whether all fits.

        Args:
            generator: The generator Ξ; "wan:shapemotion-wan" is the adapter's name and the path.
            vlm: The VLM Ω, likewise.
            coupling: Folder of Φ.
            concepts: Folder of the concept bank.
            video: Geometry of the videos; by default the one that Φ was trained for.
            device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.

        Raises:
            TransporterError: Before a backbone is loaded, if bank or Φ was made for other ones (names both), or
                ``load_pair`` refuses them.
        """
        specs = [BackboneSpec.parse(spec) if isinstance(spec, str) else spec for spec in (generator, vlm)]
        bank = ConceptBank.from_pretrained(concepts, *(spec.path for spec in specs))
        network = CouplingNetwork.from_pretrained(coupling)
        check_vectors(bank, network.config.condition_shape)
        xi, omega = load_pair(specs[0], specs[1], video or geometry(coupling), network, device)
        return cls(Bridge(xi, omega, network.to(xi.device)), bank)

    @torch.no_grad()
    def explain(
        self,
        caption: str | None,
        pair: str | tuple[str, str] | Pair,
        phi: Sequence[float] = SWEEP,
        seed: int = 0,
        steps: int = 20,
        guidance: float | None = None,
        prompt: str | None = None,
        window: tuple[float, float] = (0.0, 1.0),
        span: str | None = None,
        ramp: str = "0",
        also: Sequence[Dial] = (),
        video: Tensor | None = None,
        start: Start = "noised",
        depth: float = 0.8,
        batch_size: int = 8,
        watch: Watch = iter,
    ) -> Explanation:
        """Sweep φ in one sampling run, the noise held.

        Args:
            caption: A caption with the pair's negative word, or with the slot {} in its place; ``None`` takes that of a
                template, with a ``video`` what the VLM says of it, else the first that the concept was learned in.
            pair: A pair of the bank, "left:right", ("left", "right"), or a template, "an oval moves {left|right}".
            phi: The φ values; 0 is drawn besides where it is not among them, as Δϑ is measured from it.
            seed: Seed of the noise.
            steps: Denoising steps.
            guidance: Guidance scale; ``None`` takes the generator's own.
            prompt: The question; ``None`` takes the VLM's own.
            window: Times in which the concept acts, see ``Modulation``.
            span: The frames that it acts on, see ``Dial``.
            ramp: How its weight rises before the span and falls after it, see ``Dial``.
            also: Other concepts, the same in every video.
            video: A clip to begin with in place of noise, (T, 3, H, W) in [0, 1].
            start: How: ``noised`` to a depth, or ``inverted``.
            depth: How far back towards noise, in (0, 1].
            batch_size: Videos drawn, decoded and read at once; fewer need less memory.
            watch: Sees the denoising steps pass by, see ``sample``.

        Raises:
            TransporterError: Before any sampling, if the bank has no such pair, the caption lacks the word, φ, window,
                span, depth or a count is wrong, a concept is turned twice, or the memory does not suffice.
        """
        how, where = (seed, steps, guidance, prompt), (window, span, ramp, tuple(also))
        request = Request(caption, as_pair(pair), tuple(phi), *how, *where, start, depth, batch_size)
        generator, bank = self.bridge.generator, self.bank
        request.check(bank, generator.video, video is not None)
        self._check_window(request, video is not None)
        concept, clip = bank[request.pair].pair, None if video is None else self._checked(video)
        context = self._context(request, concept, clip)
        contrast = Contrast.of(self.bridge.vlm, concept, context)
        condition = generator.encode_text([concept.captions(context)[0]])
        self._check_memory(min(batch_size, len(request.swept)), condition, request.fields)
        latents, moved = self._drawn(request, condition, clip, watch)
        seen = look(self.bridge, latents, moved, contrast, prompt, request.swept.index(0), batch_size)
        models = ("generator", generator.source), ("VLM", self.bridge.vlm.source)
        swept = torch.tensor(request.swept, dtype=torch.float64)
        return Explanation(
            pair=concept,
            context=context,
            seed=seed,
            phi=swept[: len(request.phi)],
            **vars(seen.first(len(request.phi))),
            calibration=seen.calibration(swept),
            fps=generator.video.fps,
            made_with=(*models, *request.settings(from_clip=clip is not None)),
            warnings=(*request.warnings(bank), *faded(seen.video, swept)),
        )

    @torch.no_grad()
    def calibrate(
        self,
        pair: str | tuple[str, str] | Pair,
        seeds: int = 2,
        phi: Sequence[float] = CALIBRATED,
        contexts: Sequence[str] = (),
        steps: int = 20,
        guidance: float | None = None,
        prompt: str | None = None,
        batch_size: int = 8,
    ) -> Calibration:
        """What the concept's dial does: the mean over seeds, each in a context of its own.

        Args:
            pair: A pair of the bank.
            seeds: Number of seeds.
            phi: The φ values.
            contexts: Captions with a slot; by default those that the concept was learned in.
            steps: Denoising steps.
            guidance: Guidance scale; ``None`` takes the generator's own.
            prompt: The question; ``None`` takes the VLM's own.
            batch_size: Videos drawn at once.

        Raises:
            TransporterError: As ``explain``.
        """
        check_counts(seeds=seeds)
        found = contexts or self.bank[as_pair(pair)].pair.contexts or (None,)
        how = steps, guidance, prompt
        rows = [(found[seed % len(found)], pair, phi, seed) for seed in range(seeds)]
        sweeps = [self.explain(*row, *how, batch_size=batch_size).calibration for row in rows]
        return Calibration.mean(sweeps)

    def _context(self, request: Request, concept: Pair, clip: Tensor | None) -> str:
        """The caption with its slot: the given one, the VLM's of the clip, or the first that q was learned in."""
        if request.caption is not None:
            return concept.context(request.caption)
        if clip is None:
            return concept.contexts[0]
        vlm = self.bridge.vlm
        (said,) = vlm.caption(vlm.encode(clip.to(vlm.device)), request.prompt)
        try:
            return concept.context(said)
        except TransporterError as error:
            msg = f"caption: the VLM says {said!r} of the clip, which does not hold {concept.negative!r} once; "
            raise TransporterError(msg + "give --caption with that word") from error

    def _check_window(self, request: Request, from_clip: bool) -> None:
        """Refuse concepts that act at no step."""
        times = self.bridge.generator.schedule(request.steps).times
        times = times[first_step(times, request.depth) :] if from_clip else times
        for dial in (request.main, *request.also):
            low, high = dial.window
            if not ((low <= times) & (times <= high)).any():
                msg = f"window: no denoising step of {dial.pair} has its t in {low:g} to {high:g}; widen it, or raise "
                msg += f"steps or depth; they run from {times[0]:.2g} to {times[-1]:.2g}"
                raise TransporterError(msg)

    def _check_memory(self, rows: int, condition: Tensor, fields: int) -> None:
        """As ``check_memory``, for more rows or fields than before."""
        if rows > self.fitting[0] or fields > self.fitting[1]:
            check_memory(self.bridge, rows, condition, fields)
            self.fitting = rows, fields

    def _drawn(self, request: Request, condition: Tensor, clip: Tensor | None, watch: Watch) -> tuple[Tensor, Tensor]:
        """Latents (P, C, T', H', W') of all φ, and the moved conditions (P, L, D_c) that Φ is given with them."""
        generator, count = self.bridge.generator, len(request.swept)
        steps, (noise, first) = request.steps, (draw_noise(generator, [request.seed]), 0)
        if clip is not None:
            clean = generator.encode(clip.to(generator.device))
            noise, first = begin(generator, request.start, clean, noise, condition, steps, request.depth)
        swept = self._modulation(request.main, torch.tensor(request.swept))
        moved = [*(self._modulation(dial, dial.phi) for dial in request.also), swept]
        rows = condition.expand(count, -1, -1), noise.expand(count, -1, -1, -1, -1)
        latents = sample(generator, *rows, steps, request.guidance, moved, watch, first, request.batch_size)
        if not latents.isfinite().all():
            msg = f"phi: {' '.join(f'{value:g}' for value in request.phi)} draws nothing finite; give smaller values"
            raise TransporterError(msg)
        return latents, modulate(rows[0], moved)

    def _modulation(self, dial: Dial, phi: float | Tensor) -> Modulation:
        """A concept of the bank at a strength."""
        generator = self.bridge.generator
        frames = frame_weights(dial.span, dial.ramp, generator.video, generator.latent_frames)
        return Modulation(self.bank[dial.pair].vector, phi, dial.window, frames)

    def _checked(self, video: Tensor) -> Tensor:
        """A clip as a batch of one."""
        spec = self.bridge.generator.video
        expected = (spec.frames, 3, spec.height, spec.width)
        if tuple(video.shape) != expected:
            msg = f"video: shape {tuple(video.shape)}, but {spec} are {expected}; cut and scale it to that"
            raise TransporterError(msg)
        if not (video.is_floating_point() and video.min() >= 0 and video.max() <= 1):
            msg = f"video: {video.dtype} from {video.min():g} to {video.max():g}; give floating-point pixels in [0, 1]"
            raise TransporterError(msg)
        return video[None]


def geometry(coupling: str | Path) -> VideoSpec:
    """The geometry that the Φ of a folder was trained for.

    Raises:
        TransporterError: If the folder holds no Φ, or one that does not know.
    """
    origin = read_origin(coupling)
    if origin is None:
        msg = f"video: the coupling network in {str(coupling)!r} does not know its geometry; give frames, height, "
        raise TransporterError(msg + "width and fps")
    return origin.video


def check_vectors(bank: ConceptBank, shape: tuple[int, int]) -> None:
    """Compare the vectors of a bank with a generator's condition (L, D_c).

    Raises:
        TransporterError: If one does not fit.
    """
    for concept in bank.entries:
        if tuple(concept.vector.shape) not in {tuple(shape), tuple(shape[1:])}:
            msg = f"concepts: the vector of {concept.pair.name!r} is {tuple(concept.vector.shape)}, but the "
            msg += f"generator's condition is {tuple(shape)}; load the generator that the bank was made with"
            raise TransporterError(msg)
