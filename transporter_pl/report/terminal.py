"""An explanation on the terminal: did it move?"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from transporter_pl.explain.explanation import Explanation
from transporter_pl.report.page import numbers, summary


def show(explanation: Explanation, console: Console | None = None) -> None:
    """Print the warnings, the figures of every φ, and what they come to.

    Args:
        explanation: A sweep of φ.
        console: Where to; by default the terminal.
    """
    console = console or Console(markup=False, highlight=False)
    for text in explanation.warnings:
        console.print(f"warning: {text}", style="yellow", soft_wrap=True)
    word = explanation.pair.positive
    table = Table("φ", f"P({word})", "Δϑ through Φ", "Δϑ re-encoded", "what else changed", box=None)
    for sample in explanation.samples:
        positive, _, *rest = numbers(sample)
        table.add_row(f"{sample.phi:g}", positive, *rest)
    console.print(table)
    console.print(summary(explanation), soft_wrap=True)
    console.print(explanation.sentence, style="bold", soft_wrap=True)
