"""Do generators and VLMs keep what their ports promise?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from transporter_pl.adapters import Frozen, GeneratorAdapter, VLMAdapter
from transporter_pl.errors import TransporterError
from transporter_pl.testing.findings import Finding, close, expect, findings, reaches, rowwise, same

A = TypeVar("A", GeneratorAdapter, VLMAdapter)
CAPTIONS = ["a red ball", "a large blue square that moves to the left"]
TIMES = 0.95, 0.3  # on either side of most boundaries between experts


def check_generator(adapter: GeneratorAdapter) -> list[Finding]:
    """Every promise of the ``GeneratorAdapter`` port, on two random clips; the adapter is saved and loaded once."""
    checks = [_generator_shapes, _frozen, _generator_gradients, _generator_batch, _generator_input, _condition]
    return findings([*checks, _latent_frames, _schedule, _guidance, _generator_folder], adapter)


def check_vlm(adapter: VLMAdapter) -> list[Finding]:
    """Every promise of the ``VLMAdapter`` port, on two random clips; the adapter is saved and loaded once."""
    checks = [_vlm_shapes, _frozen, _vlm_gradients, _vlm_batch, _vlm_input, _prompts, _text, _caption]
    return findings([*checks, _vlm_folder], adapter)


def _generator_shapes(adapter: GeneratorAdapter) -> Iterator[str]:
    video, latents, condition, t = _generator_inputs(adapter)
    decoded = adapter.decode(latents)
    yield from expect("encode", adapter.encode(video), (2, *adapter.latent_shape))
    yield from expect("decode", decoded, tuple(video.shape))
    yield from expect("encode_text", condition, (2, *adapter.condition_shape))
    yield from expect("velocity", adapter.velocity(latents, condition, t), tuple(latents.shape))
    if decoded.min() < 0 or decoded.max() > 1:
        yield f"decode: pixels in [{decoded.min():.3f}, {decoded.max():.3f}], not in [0, 1]"


def _generator_gradients(adapter: GeneratorAdapter) -> Iterator[str]:
    video, latents, condition, t = _generator_inputs(adapter)
    yield from reaches("encode → pixels", adapter.encode, video)
    # near the centre of latent space, so that few pixels are clamped
    yield from reaches("decode → latents", adapter.decode, latents / 10)
    yield from reaches("velocity → latents", lambda x: adapter.velocity(x, condition, t), latents)
    yield from reaches("velocity → condition", lambda x: adapter.velocity(latents, x, t), condition, everywhere=False)
    yield from _no_weight_gradients(adapter)


def _generator_batch(adapter: GeneratorAdapter) -> Iterator[str]:
    video, latents, condition, t = _generator_inputs(adapter)
    yield from rowwise("encode", adapter.encode, video)
    yield from rowwise("decode", adapter.decode, latents)
    yield from rowwise("velocity", adapter.velocity, latents, condition, t)
    alone = torch.cat([adapter.encode_text([c]) for c in CAPTIONS])
    yield from same("encode_text: a caption in a batch and alone", adapter.encode_text(CAPTIONS), alone)


def _generator_input(adapter: GeneratorAdapter) -> Iterator[str]:
    yield from _refuses_short("encode", adapter.encode, _clips(adapter))


def _condition(adapter: GeneratorAdapter) -> Iterator[str]:
    _, latents, condition, t = _generator_inputs(adapter)
    yield from expect("encode_text of the empty caption", adapter.encode_text([""]), (1, *adapter.condition_shape))
    base = adapter.velocity(latents, condition, t)
    if close(base, adapter.velocity(latents, condition.flip(0), t)):
        yield "velocity: the same for another condition"
    if close(base, adapter.velocity(latents, condition, t.flip(0))):
        yield "velocity: the same at another t"


def _latent_frames(adapter: GeneratorAdapter) -> Iterator[str]:
    held = adapter.latent_frames
    frames = [frame for some in held for frame in some]
    if len(held) != adapter.latent_shape[1] or not all(held) or frames != list(range(adapter.video.frames)):
        yield f"latent_frames: {held} don't share {adapter.video.frames} frames out to {adapter.latent_shape[1]}"


def _schedule(adapter: GeneratorAdapter) -> Iterator[str]:
    _, clean, _, _ = _generator_inputs(adapter)
    schedule, steps = adapter.schedule(5), 5
    times = schedule.times
    if tuple(times.shape) != (steps,) or not (times[:-1] > times[1:]).all() or times[0] > 1 or times[-1] <= 0:
        yield f"schedule: times {times.tolist()} are not {steps} falling numbers in (0, 1]"
    noise = _random(adapter, tuple(clean.shape), seed=3)
    # the second run finds a history that is shared between schedules, the third begins midway
    for run, start in (("first run", 0), ("second run", 0), ("begun midway", 2)):
        schedule = adapter.schedule(steps)
        latents = (1 - times[start]) * clean + times[start] * noise
        for index in range(start, steps):
            latents = schedule.step(noise - clean, index, latents)
        yield from same(f"schedule, {run}: the velocity ω − z should lead to z", latents, clean)


def _guidance(adapter: GeneratorAdapter) -> Iterator[str]:
    for t in TIMES:
        if not 1 <= adapter.guidance_at(t) < float("inf"):
            yield f"guidance_at({t}): {adapter.guidance_at(t)} is not at least 1"


def _generator_folder(adapter: GeneratorAdapter) -> Iterator[str]:
    video, latents, condition, t = _generator_inputs(adapter)
    with _reloaded(adapter) as (folder, again):
        shapes = again.shapes_of(folder, again.video)
        yield from _foretold("shapes_of", shapes, (again.latent_shape, again.condition_shape))
    yield from _frozen(again)
    yield from same("encode after save and load", again.encode(video), adapter.encode(video))
    yield from same("decode after save and load", again.decode(latents), adapter.decode(latents))
    yield from same("encode_text after save and load", again.encode_text(CAPTIONS), condition)
    yield from same(
        "velocity after save and load", again.velocity(latents, condition, t), adapter.velocity(latents, condition, t)
    )
    yield from same("schedule's times after save and load", again.schedule(5).times, adapter.schedule(5).times)
    for time in TIMES:
        was, now = adapter.guidance_at(time), again.guidance_at(time)
        if was != now:
            yield f"guidance_at({time}): {was} became {now} after save and load"


def _vlm_shapes(adapter: VLMAdapter) -> Iterator[str]:
    tokens = adapter.encode(_clips(adapter))
    logits = adapter.logits(tokens)
    yield from expect("encode", tokens, (2, *adapter.token_shape))
    yield from expect("logits", logits, (2, logits.shape[-1]))
    *layers, last = adapter.encode_layers(_clips(adapter))
    yield from same("encode_layers: what comes last and encode's tokens", last, tokens)
    for index, layer in enumerate(layers):
        if layer.ndim != 3 or len(layer) != 2:
            yield f"encode_layers: layer {index} of two clips has shape {tuple(layer.shape)}, not (2, n, D)"
    if adapter.moments < 1 or adapter.token_shape[0] % adapter.moments:
        yield f"moments: {adapter.token_shape[0]} tokens are no whole number for each of {adapter.moments}"
    size = adapter.patch_size
    if size is not None and not (len(size) == 2 and min(size) > 0):
        yield f"patch_size: {size} is no height and width in pixels"


def _vlm_gradients(adapter: VLMAdapter) -> Iterator[str]:
    video = _clips(adapter)
    yield from reaches("encode → pixels", adapter.encode, video)
    yield from reaches("logits → tokens", lambda x: adapter.logits(x).softmax(-1), adapter.encode(video))
    yield from _no_weight_gradients(adapter)


def _vlm_batch(adapter: VLMAdapter) -> Iterator[str]:
    video = _clips(adapter)
    tokens = adapter.encode(video)
    yield from rowwise("encode", adapter.encode, video)
    yield from rowwise("logits", adapter.logits, tokens)
    alone = [adapter.caption(row[None], max_new_tokens=4)[0] for row in tokens]
    if adapter.caption(tokens, max_new_tokens=4) != alone:
        yield f"caption: {adapter.caption(tokens, max_new_tokens=4)} in a batch, {alone} alone"


def _vlm_input(adapter: VLMAdapter) -> Iterator[str]:
    yield from _refuses_short("encode", adapter.encode, _clips(adapter))


def _prompts(adapter: VLMAdapter) -> Iterator[str]:
    tokens, asked = adapter.encode(_clips(adapter)), adapter.default_prompt
    base = adapter.logits(tokens)
    yield from same("logits: without a prompt and with the default one", base, adapter.logits(tokens, asked))
    if close(base, adapter.logits(tokens, f"{asked} {asked}")):
        yield "logits: the same for another prompt"
    if close(base, adapter.logits(tokens, answer="1 2")):
        yield "logits: the same after the beginning of an answer"
    if close(base, adapter.logits(tokens.flip(0))):
        yield "logits: the same for other tokens"
    tokens, prompts, answers = tokens[[0, 1, 1]], [asked, f"{asked} {asked}", asked], ["1 2", "", "1 2"]
    alone = [adapter.logits(row[None], *texts) for row, *texts in zip(tokens, prompts, answers, strict=True)]
    yield from same(
        "logits: a prompt and an answer for each clip", adapter.logits(tokens, prompts, answers), torch.cat(alone)
    )


def _text(adapter: VLMAdapter) -> Iterator[str]:
    if adapter.token_ids(""):
        yield f"token_ids: the empty text has ids {adapter.token_ids('')}; special tokens must stay out"
    for text in (*CAPTIONS, "1 2"):
        ids = adapter.token_ids(text)
        again = adapter.token_ids(adapter.text(ids))
        if not ids or again != ids:
            yield f"text: {text!r} has ids {ids}, whose text {adapter.text(ids)!r} has {again}"


def _caption(adapter: VLMAdapter) -> Iterator[str]:
    tokens = adapter.encode(_clips(adapter))
    likeliest = [adapter.text([i]).strip() for i in adapter.logits(tokens).argmax(-1).tolist()]
    for said, expected in zip(adapter.caption(tokens, max_new_tokens=1), likeliest, strict=True):
        if said not in (expected, ""):  # special tokens are left out of captions
            yield f"caption: begins with {said!r}, but the largest logit is that of {expected!r}"


def _vlm_folder(adapter: VLMAdapter) -> Iterator[str]:
    video = _clips(adapter)
    tokens = adapter.encode(video)
    with _reloaded(adapter) as (folder, again):
        yield from _foretold("token_shape_of", again.token_shape_of(folder, again.video), again.token_shape)
    yield from _frozen(again)
    yield from same("encode after save and load", again.encode(video), tokens)
    yield from same("logits after save and load", again.logits(tokens), adapter.logits(tokens))
    said, expected = (a.caption(tokens, max_new_tokens=8) for a in (again, adapter))
    if said != expected:
        yield f"caption: {expected} became {said} after save and load"


def _frozen(adapter: Frozen) -> Iterator[str]:
    training = [name or "the adapter" for name, module in adapter.train().named_modules() if module.training]
    if training:
        yield f"frozen: {len(training)} modules train after .train(), such as {training[0]}; call freeze()"
    learning = [name for name, weight in adapter.named_parameters() if weight.requires_grad]
    if learning:
        yield f"frozen: {len(learning)} weights ask for gradients, such as {learning[0]}; call freeze()"


def _no_weight_gradients(adapter: Frozen) -> Iterator[str]:
    touched = [name for name, weight in adapter.named_parameters() if weight.grad is not None]
    if touched:
        yield f"frozen: {len(touched)} weights received gradients, such as {touched[0]}"


def _generator_inputs(adapter: GeneratorAdapter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two clips, two latents, the conditions of two captions, and two times."""
    latents = _random(adapter, (2, *adapter.latent_shape), seed=1)
    condition = adapter.encode_text(CAPTIONS)
    return _clips(adapter), latents, condition, torch.tensor(TIMES, device=adapter.device)


def _clips(adapter: Frozen) -> Tensor:
    spec = adapter.video
    return _random(adapter, (2, spec.frames, 3, spec.height, spec.width), seed=2).sigmoid()


def _random(adapter: Frozen, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(adapter.device)


@contextmanager
def _reloaded(adapter: A) -> Iterator[tuple[str, A]]:
    """A folder that the adapter was saved to, and the adapter that was loaded from it."""
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(folder)
        yield folder, type(adapter).from_pretrained(folder, adapter.video, adapter.dtype).to(adapter.device)


def _foretold(what: str, shapes: tuple[object, ...], loaded: tuple[object, ...]) -> Iterator[str]:
    if shapes != loaded:
        yield f"{what}: {shapes} from the configuration alone, but the loaded adapter says {loaded}"


def _refuses_short(what: str, function: Callable[[Tensor], Tensor], video: Tensor) -> Iterator[str]:
    try:
        function(video[:, :-1])
    except TransporterError:
        return
    yield f"{what}: took a clip with a frame too few; raise a TransporterError"
