"""What a pair costs: ours, with Φ and bank trained, against every baseline until its pixels say the word as well.

    python benchmarks/baselines.py --coupling demo/full/coupling --concepts demo/full/concepts

Each pair of the bank in some of the scenes that it was learned in, all of them in one batch for every method; models,
clips and code are loaded and run once before. A baseline has arrived at a video when its pixels, shown without
transforms, give the positive token the logit that our video of φ = 1 has, and, counted apart, when they give it the
probability to within 0.01; these looks are not timed. The time until then is that of the batch's steps, as if all of
its videos went on, divided by the videos. What a baseline looks at are the generator's clips of ε− and ε+, of other
noise than ours.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import product
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


GOALS = "target logit", "P(token+)"
SLACK = torch.tensor([[0.0], [0.01]])  # so much less is as high: a probability of ours may be 1 but for rounding


@dataclass(frozen=True)
class Cost:
    """What a method took until a figure of its pixels was that of ours.

    Attributes:
        arrived: Share of videos that came so far within the budget.
        forwards: The VLM's forward passes a video until then, median over all; the budget where it was not reached.
        seconds: The same in seconds.
        end: The figure at the end, mean.
    """

    arrived: float
    forwards: float
    seconds: float
    end: float


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
    start, end = (drawn(bridge, asked, bank, seed + 1, 0.0, None, word)[0] for word in (0, 1))
    references = References(start, end, torch.cat([start, end]))
    targets = targets_of(bridge.vlm, asked, "positive", references, None)
    rows, wanted = {}, torch.empty(0)
    for name, (guidance, _) in OURS.items():
        seconds, (video, _) = timed(lambda: drawn(bridge, asked, bank, seed, 1.0, guidance), place)  # noqa: B023
        found = answers(bridge, video, targets)
        wanted = found - SLACK if name == "ours, guided" else wanted
        arrived, ends = (found >= wanted).float().mean(1).tolist(), found.mean(1).tolist()
        rows[name] = [Cost(a, 0, seconds / len(asked), end) for a, end in zip(arrived, ends, strict=True)]
    for name in ("am", "gradvit", "maco", "leaps"):
        rows[name] = climbed(name, bridge, targets, references, wanted, (forwards, every, seed), place)
    Console().print(table(rows, len(asked), place))


@torch.no_grad()
def drawn(
    bridge: Bridge,
    asked: list[tuple[Pair, str]],
    bank: ConceptBank,
    seed: int,
    phi: float,
    guidance: float | None,
    word: int = 0,
) -> tuple[Tensor, list[str]]:
    """Videos of all cases in one batch, φ q away from ε− or, where ``word`` is 1, from ε+; the captions through Φ."""
    generator = bridge.generator
    condition = generator.encode_text([pair.captions(context)[word] for pair, context in asked])
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
) -> list[Cost]:
    """A baseline, until all videos have arrived at both goals or the budget is spent."""
    forwards, every, seed = budget
    count, kind = wanted.shape[1], baselines.get(name)
    seeds, vlm = tuple(range(seed, seed + count)), bridge.vlm
    clips = references.positive, references.natural
    canvas = Canvas(bridge.generator.video, seeds, *clips, vlm.moments, vlm.patch_size)
    baseline = new_baseline(name, canvas, OPTIONS.get(name, {})).to(place)
    spent, ascent = timed(lambda: Ascent(bridge.vlm, baseline, targets, "positive"), place)
    used, steps = int(kind.needs_stimulus), forwards - int(kind.needs_stimulus)
    optimiser, schedule = baseline.optimiser(steps)
    taken, passes = torch.full_like(wanted, torch.inf), torch.full_like(wanted, forwards)
    for step in range(steps):
        spent += timed(lambda: _step(ascent, optimiser, schedule, (step, steps)), place)[0]  # noqa: B023
        used += 1
        if step % every == every - 1 or step == steps - 1:
            found = answers(bridge, baseline.pixels().detach(), targets)
            new = (found >= wanted) & taken.isinf()
            taken[new], passes[new] = spent / count, float(used)
            if not taken.isinf().any():
                break
    arrived, ends = taken.isfinite().float().mean(1), found.mean(1)
    taken[taken.isinf()] = spent / count
    middle = [(median(passes[goal].tolist()), median(taken[goal].tolist())) for goal in range(len(GOALS))]
    return [Cost(a, *m, end) for a, m, end in zip(arrived.tolist(), middle, ends.tolist(), strict=True)]


def _step(ascent: Ascent, optimiser: torch.optim.Optimizer, schedule: object, when: tuple[int, int]) -> None:
    optimiser.zero_grad()
    ascent.climb(*when).loss.sum().backward()
    optimiser.step()
    schedule.step()


@torch.no_grad()
def answers(bridge: Bridge, video: Tensor, targets: Targets) -> Tensor:
    """Of videos both ``GOALS``, (2, B) on the CPU."""
    logits = bridge.vlm.logits(bridge.vlm.encode(video), None, targets.prefixes)
    return torch.stack([target_logit(logits, targets, "logit"), target_logit(logits, targets, "log_prob").exp()]).cpu()


def timed(call_it, place):
    """Seconds of a call, and its result."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    start = time.perf_counter()
    result = call_it()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter() - start, result


def table(rows: dict[str, list[Cost]], videos: int, place: torch.device) -> Table:
    """A row a method and goal; ratios against the first method, which is who is to be reached."""
    title = f"{videos} videos at once on {place}, {torch.get_num_threads()} thread(s)"
    found = Table(title=title, caption=f"ratio: of seconds, to those of {next(iter(rows))!r}")
    for heading in ("method", "as high as ours", "arrived", "VLM forwards", "s a video", "ratio", "at the end"):
        found.add_column(heading)
    first = next(iter(rows.values()))[0].seconds
    for (method, costs), goal in product(rows.items(), range(len(GOALS))):
        cost = costs[goal]
        more = "" if cost.arrived > 0.5 or not cost.forwards else "≥ "  # where the median is the budget's
        taken = f"{cost.forwards:.0f}", f"{cost.seconds:.2f}", f"{cost.seconds / first:.1f}"
        figures = f"{100 * cost.arrived:.0f} %", *(more + figure for figure in taken), f"{cost.end:.3f}"
        found.add_row("" if goal else method, GOALS[goal], *figures)
    return found


if __name__ == "__main__":
    call(main, "baselines.py", find_configs(sys.argv[1:]))
