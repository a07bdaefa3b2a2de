"""What a pair costs: ours, with Φ and bank trained, against every baseline until the target logit is as high.

    python benchmarks/baselines.py --coupling demo/full/coupling --concepts demo/full/concepts

Each pair of the bank in some of the scenes that it was learned in, all of them in one batch for every method; models,
clips and code are loaded and run once before. A baseline has arrived at a video when its pixels, shown without
transforms, give the positive token the logit that our video of φ = 1 has; these looks are not timed. The time until
then is that of the batch's steps, as if all of its videos went on, divided by the videos. What a baseline looks at, the
generator draws from other noise than ours.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from transporter_pl.baselines.ascent import Ascent, targets_of
from transporter_pl.baselines.base import Canvas, baselines, new_baseline
from transporter_pl.baselines.references import References
from transporter_pl.baselines.targets import Targets, target_logit
from transporter_pl.commands.arguments import call, find_configs
from transporter_pl.concepts.bank import ConceptBank
from transporter_pl.concepts.pairs import Pair
from transporter_pl.coupling.bridge import Bridge
from transporter_pl.explain.explainer import Explainer
from transporter_pl.explain.modulation import Modulation, modulate
from transporter_pl.explain.sampler import draw_noise, sample
from transporter_pl.loading import BackboneSpec, find_device

OPTIONS = {"maco": {"lr": 0.1}, "leaps": {"lr": 0.1}}  # the papers' rates are for hundreds of steps
OURS = {
    "ours, guided": (None, "φ = 1, with the generator's own guidance"),
    "ours": (1.0, "φ = 1, without guidance: one forward of the generator a step"),
}


@dataclass(frozen=True)
class Cost:
    """What a method took.

    Attributes:
        method: Its name.
        arrived: Share of videos that reached the logit within the budget.
        forwards: The VLM's forward passes a video until then, median over all; the budget where it was not reached.
        seconds: The same in seconds.
        logit: The target logit at the end, mean.
        probability: P(token+) at the end, mean.
    """

    method: str
    arrived: float
    forwards: float
    seconds: float
    logit: float
    probability: float


def main(
    coupling: str,
    concepts: str,
    generator: BackboneSpec = BackboneSpec("wan", "shapemotion-wan"),  # noqa: B008
    vlm: BackboneSpec = BackboneSpec("video_llama3", "shapemotion-videollama3"),  # noqa: B008
    scenes: int = 2,
    forwards: int = 256,
    every: int = 4,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Print the table.

    Args:
        coupling: Folder of Φ.
        concepts: Folder of the bank.
        generator: The generator.
        vlm: The VLM.
        scenes: Videos a pair.
        forwards: Largest budget of a video, one restart.
        every: Steps from one look to the next.
        seed: Seed of noise and starts.
        device: ``cpu``, ``cuda``, …; ``auto`` takes the GPU if there is one.
    """
    place = find_device(device)
    explainer = Explainer.from_pretrained(generator, vlm, coupling, concepts, device=device)
    bridge, bank = explainer.bridge, explainer.bank
    asked = [(c.pair, context) for c in bank.entries for context in c.pair.contexts[:scenes]]
    start, end = (drawn(bridge, asked, bank, seed + 1, phi, None)[0] for phi in (0.0, 1.0))
    references = References(start, end, torch.cat([start, end]))
    targets = targets_of(bridge.vlm, asked, "positive", references, None)
    rows, wanted = [], torch.empty(0)
    for name, (guidance, _) in OURS.items():
        seconds, (video, _) = timed(lambda: drawn(bridge, asked, bank, seed, 1.0, guidance), place)  # noqa: B023
        logit, log_prob = answers(bridge, video, targets)
        wanted = logit if name == "ours, guided" else wanted
        arrived, means = (logit >= wanted).float().mean().item(), (logit.mean().item(), log_prob.exp().mean().item())
        rows.append(Cost(name, arrived, 0, seconds / len(asked), *means))
    for name in ("am", "gradvit", "maco", "leaps"):
        rows.append(climbed(name, bridge, targets, references, wanted, (forwards, every, seed), place))
    Console().print(table(rows, len(asked), place))


@torch.no_grad()
def drawn(
    bridge: Bridge, asked: list[tuple[Pair, str]], bank: ConceptBank, seed: int, phi: float, guidance: float | None
) -> tuple[Tensor, list[str]]:
    """Our videos of all cases in one batch, and the captions through Φ."""
    generator = bridge.generator
    condition = generator.encode_text([pair.captions(context)[0] for pair, context in asked])
    vectors = torch.stack([bank[pair].vector.expand(condition.shape[1:]) for pair, _ in asked])
    moved = Modulation(vectors.to(condition), phi)
    noise = draw_noise(generator, [seed * len(asked) + row for row in range(len(asked))])
    latents = sample(generator, condition, noise, 20, guidance, [moved])
    return generator.decode(latents), bridge.vlm.caption(bridge.tokens(latents, modulate(condition, [moved])))


def climbed(
    name: str,
    bridge: Bridge,
    targets: Targets,
    references: References,
    wanted: Tensor,
    budget: tuple[int, int, int],
    place: torch.device,
) -> Cost:
    """A baseline, until all videos have arrived or the budget is spent."""
    forwards, every, seed = budget
    count, kind = len(wanted), baselines.get(name)
    seeds, vlm = tuple(range(seed, seed + count)), bridge.vlm
    clips = references.positive, references.natural
    canvas = Canvas(bridge.generator.video, seeds, *clips, vlm.moments, vlm.patch_size)
    baseline = new_baseline(name, canvas, OPTIONS.get(name, {})).to(place)
    spent, ascent = timed(lambda: Ascent(bridge.vlm, baseline, targets, "positive"), place)
    used, steps = int(kind.needs_stimulus), forwards - int(kind.needs_stimulus)
    optimiser, schedule = baseline.optimiser(steps)
    taken, passes = torch.full((count,), torch.inf), torch.full((count,), float(forwards))
    for step in range(steps):
        spent += timed(lambda: _step(ascent, optimiser, schedule, (step, steps)), place)[0]  # noqa: B023
        used += 1
        if step % every == every - 1 or step == steps - 1:
            logit, log_prob = answers(bridge, baseline.pixels().detach(), targets)
            new = (logit >= wanted) & taken.isinf()
            taken[new], passes[new] = spent / count, float(used)
            if not taken.isinf().any():
                break
    arrived = taken.isfinite().float().mean().item()
    taken[taken.isinf()] = spent / count
    means = logit.mean().item(), log_prob.exp().mean().item()
    return Cost(name, arrived, median(passes.tolist()), median(taken.tolist()), *means)


def _step(ascent: Ascent, optimiser: torch.optim.Optimizer, schedule: object, when: tuple[int, int]) -> None:
    optimiser.zero_grad()
    ascent.climb(*when).loss.sum().backward()
    optimiser.step()
    schedule.step()


@torch.no_grad()
def answers(bridge: Bridge, video: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """The target logits of videos and their log probabilities, (B,) each on the CPU."""
    logits = bridge.vlm.logits(bridge.vlm.encode(video), None, targets.prefixes)
    return target_logit(logits, targets, "logit").cpu(), target_logit(logits, targets, "log_prob").cpu()


def timed(call_it, place):
    """Seconds of a call, and its result."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    start = time.perf_counter()
    result = call_it()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter() - start, result


def table(rows: list[Cost], videos: int, place: torch.device) -> Table:
    """A row a method; ratios against the first."""
    title = f"{videos} videos at once on {place}, {torch.get_num_threads()} thread(s)"
    found = Table(
        title=title, caption=f"ratio of seconds to those of {rows[0].method!r}, which is who is to be reached"
    )
    for heading in ("method", "arrived", "VLM forwards", "s a video", "ratio", "target logit", "P(token+)"):
        found.add_column(heading)
    for row in rows:
        more = "" if row.arrived > 0.5 or not row.forwards else "≥ "  # where the median is the budget's
        taken = (f"{row.forwards:.0f}", f"{row.seconds:.2f}", f"{row.seconds / rows[0].seconds:.1f}")
        means = f"{row.logit:.2f}", f"{row.probability:.3f}"
        found.add_row(row.method, f"{100 * row.arrived:.0f} %", *(more + figure for figure in taken), *means)
    return found


if __name__ == "__main__":
    call(main, "baselines.py", find_configs(sys.argv[1:]))
