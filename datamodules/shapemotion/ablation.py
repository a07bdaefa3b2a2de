"""``transporter ablate``: variants of Φ, trained alike and measured on the same held-out clips."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from transporter_pl.coupling.config import CouplingConfig, CouplingOptions
from transporter_pl.datamodules.cache.latents import LatentCache
from transporter_pl.datamodules.shapemotion.ablation_runs import Outcome, Run, finished, perform
from transporter_pl.datamodules.shapemotion.ablation_table import ablation_table, write_tables
from transporter_pl.datamodules.shapemotion.heldout import Bench, generated_clips, rendered_clips
from transporter_pl.errors import TransporterError, check_counts
from transporter_pl.files import check_folder
from transporter_pl.loading import BackboneSpec, load_pair
from transporter_pl.origin import checkpoint_name, origin_of
from transporter_pl.samples import Shapes, VideoSpec
from transporter_pl.transport import new_transport

NAME = re.compile(r"[A-Za-z0-9][\w-]*")  # of a variant: it becomes a folder's


@dataclass(frozen=True)
class Variant:
    """What one row of the table has of its own.

    Attributes:
        transport: Registered name or class path of the transport.
        transport_options: Its own options.
    """

    transport: str
    transport_options: dict[str, Any] = field(default_factory=dict)


def ablate(
    generator: BackboneSpec,
    vlm: BackboneSpec,
    video: VideoSpec,
    cache: Path,
    network: CouplingOptions,
    variants: dict[str, Variant],
    seeds: int = 3,
    steps: int = 1000,
    batch_size: int = 16,
    lr: float = 1e-3,
    warmup: int = 100,
    clips: int = 256,
    generated: int = 128,
    denoising_steps: int = 20,
    out: Path = Path("runs/shapemotion/ablation"),
    device: str = "auto",
) -> dict[str, list[Outcome]]:
    """Train every variant of Φ with every seed, measure each on held-out clips, and print means and spreads.

    A round is all variants with one seed. Every run leaves ``out``/<variant>/seed<k>; one that is there already, with
    the same settings, is taken as it is, so that a call that was interrupted goes on where it stopped.

    Args:
        generator: The generator.
        vlm: The VLM.
        video: Geometry of the clips.
        cache: Latent cache that trains Φ, made with both by ``transporter encode``.
        network: Options of Φ, the same for all variants.
        variants: Name → transport and its options.
        seeds: Number of seeds, 0, 1, ….
        steps: Optimiser steps of a run.
        batch_size: Clips a step.
        lr: Peak learning rate.
        warmup: Steps of linear warm-up; cosine decay to 0 follows.
        clips: Held-out rendered clips.
        generated: Held-out generated clips.
        denoising_steps: Sampling steps of the latter.
        out: Folder of the runs, of ``table.md`` and of ``table.json``.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.

    Raises:
        TransporterError: Before anything is trained, if a number or a variant is wrong, the cache is of other
            backbones, or ``out`` can't be written or holds runs of other settings; after all others, if a run failed.
    """
    check_counts(seeds=seeds, steps=steps, batch_size=batch_size)
    check_counts(clips=clips, generated=generated, denoising_steps=denoising_steps)
    _check_rate(lr, warmup)
    check_folder("out", out)
    latents = LatentCache(cache)
    _check_backbones(latents, generator, vlm, video)
    networks = _networks(network, variants, latents.shapes)
    shared = Run(network, 0, steps, batch_size, lr, warmup, clips, generated, denoising_steps, latents.key)
    runs = [(name, replace(shared, network=networks[name], seed=k)) for k in range(seeds) for name in networks]
    bench = functools.cache(partial(_bench, generator, vlm, video, latents, shared, device))
    outcomes, failed = _perform_all(runs, out, cache, bench)
    Console().print(f"written to {out}", highlight=False)
    if failed:
        msg = f"variants: {'; '.join(failed)}. The others are done; the same call tries these again"
        raise TransporterError(msg)
    return outcomes


def _perform_all(
    runs: list[tuple[str, Run]], out: Path, cache: Path, bench: Callable[[], Bench]
) -> tuple[dict[str, list[Outcome]], list[str]]:
    """What came of every run, and what is wrong with those that failed; every round prints its table."""
    found = [finished(run, _folder(out, name, run)) for name, run in runs]
    outcomes: dict[str, list[Outcome]] = {name: [] for name, _ in runs}
    console, failed = Console(), list[str]()
    for number, ((name, run), outcome) in enumerate(zip(runs, found, strict=True), 1):
        if outcome is None:
            measuring = bench()  # before the line that says what is done next
            console.print(f"run {number} of {len(runs)}: {name}, seed {run.seed}", highlight=False)
            try:
                outcome = perform(run, _folder(out, name, run), cache, measuring)
            except TransporterError as error:
                failed.append(f"{name}, seed {run.seed}: {error}")
                console.print(f"failed: {error}", highlight=False)
        outcomes[name] += [] if outcome is None else [outcome]
        if number % len(outcomes) == 0:
            console.print(ablation_table(outcomes))
            write_tables(outcomes, out)
    return outcomes, failed


def _check_rate(lr: float, warmup: int) -> None:
    if not 0 < lr < math.inf:
        msg = f"lr: {lr:g} is no learning rate; give a finite number above 0, such as 0.001"
        raise TransporterError(msg)
    if warmup < 0:
        msg = f"warmup: {warmup} is negative; give 0 for none"
        raise TransporterError(msg)


def _folder(out: Path, name: str, run: Run) -> Path:
    return out / name / f"seed{run.seed}"


def _networks(shared: CouplingOptions, variants: Mapping[str, Variant], shapes: Shapes) -> dict[str, CouplingOptions]:
    """Every variant's options of Φ.

    Raises:
        TransporterError: If there is no variant, a name can't be a folder's, or Φ can't be built (names the variant).
    """
    if not variants:
        msg = "variants: none; give at least one, such as {mean: {transport: mean}}"
        raise TransporterError(msg)
    networks = {}
    for name, variant in variants.items():
        if not NAME.fullmatch(name):
            msg = f"variants: {name!r} names a folder; use letters, digits, _ and -"
            raise TransporterError(msg)
        networks[name] = replace(shared, transport=variant.transport, transport_options=variant.transport_options)
        try:
            CouplingConfig.of(shapes, networks[name])
            new_transport(variant.transport, shapes.tokens[1], variant.transport_options)
        except TransporterError as error:
            msg = f"variants.{name}: {error}"
            raise TransporterError(msg) from error
    return networks


def _check_backbones(cache: LatentCache, generator: BackboneSpec, vlm: BackboneSpec, video: VideoSpec) -> None:
    """Refuse backbones that the cache was not made with, by what is known before they are loaded."""
    key = cache.key
    rows = {
        "generator": (checkpoint_name(key.generator.path), checkpoint_name(generator.path)),
        "vlm": (checkpoint_name(key.vlm.path), checkpoint_name(vlm.path)),
        "generator.dtype": (key.generator.dtype, generator.dtype),
        "vlm.dtype": (key.vlm.dtype, vlm.dtype),
        "video": (str(key.video), str(video)),
    }
    _refuse_others(cache, rows)


def _refuse_others(cache: LatentCache, rows: Mapping[str, tuple[str, str]]) -> None:
    """Compare what the cache was made with, where it says so, with what is given.

    Raises:
        TransporterError: If one differs (names both).
    """
    for name, (was, now) in rows.items():
        if was and was != now:
            msg = f"{name}: {now!r}, but the cache in {cache.path!r} was made with {was!r}; give that, or make "
            msg += "a cache with yours by `transporter encode`"
            raise TransporterError(msg)


def _bench(
    generator: BackboneSpec, vlm: BackboneSpec, video: VideoSpec, cache: LatentCache, run: Run, device: str
) -> Bench:
    """The backbones, and what they make of held-out clips."""
    xi, omega = load_pair(generator, vlm, video, device=device)
    key, found = cache.key, origin_of(xi, omega)
    rows = {
        "generator's weights": (key.generator_weights, found.generator_weights),
        "vlm's weights": (key.vlm_weights, found.vlm_weights),
    }
    _refuse_others(cache, rows)
    real = rendered_clips(xi, omega, run.clips)
    return Bench(omega, real, generated_clips(xi, omega, run.generated, run.denoising_steps))
