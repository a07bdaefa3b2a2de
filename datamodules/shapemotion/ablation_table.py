"""The ablation's table: a row a variant, mean and spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

from rich.box import SIMPLE_HEAD
from rich.table import Table

from transporter_pl.datamodules.shapemotion.ablation_runs import Outcome
from transporter_pl.datamodules.shapemotion.world import FACTORS
from transporter_pl.files import replace_file

Outcomes = Mapping[str, Sequence[Outcome]]  # of every variant, a run a seed
Figure = Callable[[Outcome], float | None]

TITLE = (
    "Held-out clips through Φ, mean ±standard deviation over {} seed(s): words right in captions (%) of real and of "
    "generated clips, shape and speed alone of real ones; z̃ against z_Ω: cosine, Gram error; seconds of a training step"
)


def _percent(factor: str) -> Figure:
    return lambda outcome: 100 * outcome.fidelity.real[list(FACTORS).index(factor)]


# name of a column → the figure of a run, decimals
COLUMNS: dict[str, tuple[Figure, int]] = {
    "real": (lambda outcome: 100 * fmean(outcome.fidelity.real), 1),
    "generated": (lambda outcome: 100 * fmean(outcome.fidelity.generated), 1),
    "shape": (_percent("shape"), 1),
    "speed": (_percent("speed"), 1),
    "cosine": (lambda outcome: outcome.fidelity.cosine, 4),
    "Gram": (lambda outcome: outcome.fidelity.gram, 4),
    "s/step": (lambda outcome: outcome.seconds, 3),
}


def ablation_table(outcomes: Outcomes) -> Table:
    """For the terminal, of which 80 columns do."""
    table = Table(title=_title(outcomes), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    for name, (_, decimals) in COLUMNS.items():
        table.add_column(name, min_width=max(len(name), decimals + 3))  # a deviation goes below its mean, if need be
    for row in _rows(outcomes):
        table.add_row(*row)
    return table


def write_tables(outcomes: Outcomes, out: Path) -> None:
    """``table.md`` as it is printed, and ``table.json`` with every run's figures beside means and deviations."""
    lines = [["variant", *COLUMNS], ["---"] * (1 + len(COLUMNS)), *_rows(outcomes)]
    markdown = f"{_title(outcomes)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    variants = {name: {**_summary(runs), "runs": [asdict(r) for r in runs]} for name, runs in outcomes.items()}
    text = json.dumps({"factors": list(FACTORS), "variants": variants}, indent=1, ensure_ascii=False)
    replace_file(out / "table.md", lambda aside: aside.write_text(markdown, encoding="utf-8"))
    replace_file(out / "table.json", lambda aside: aside.write_text(text, encoding="utf-8"))


def spread(runs: Sequence[Outcome], figure: Figure) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of a figure; ``None`` where no run has it, or a single one."""
    values = [value for value in map(figure, runs) if value is not None]
    return fmean(values) if values else None, stdev(values) if len(values) > 1 else None


def _summary(runs: Sequence[Outcome]) -> dict[str, dict[str, float | None]]:
    spreads = {name: spread(runs, figure) for name, (figure, _) in COLUMNS.items()}
    return {name: {"mean": mean, "std": deviation} for name, (mean, deviation) in spreads.items()}


def _title(outcomes: Outcomes) -> str:
    return TITLE.format(max(map(len, outcomes.values())))


def _rows(outcomes: Outcomes) -> list[list[str]]:
    return [
        [name, *(_text(*spread(runs, figure), decimals) for figure, decimals in COLUMNS.values())]
        for name, runs in outcomes.items()
    ]


def _text(mean: float | None, deviation: float | None, decimals: int) -> str:
    if mean is None:
        return "–"
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ±{deviation:.{decimals}f}")
