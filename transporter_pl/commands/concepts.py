"""``transporter concepts list | show | merge``: what is in banks of concepts. Loads no backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from transporter_pl.commands.arguments import call_one_of
from transporter_pl.concepts.bank import Concept, ConceptBank
from transporter_pl.concepts.calibration import Calibration
from transporter_pl.concepts.pairs import Pair, pairs_of
from transporter_pl.errors import TransporterError
from transporter_pl.files import check_folder


def run(argv: list[str]) -> None:
    """Run one of the commands; ``argv`` begins with ``concepts``."""
    call_one_of("concepts", "What is in banks of concepts.", COMMANDS, _add_arguments, argv)


def _add_arguments(command: str, parser: ArgumentParser) -> None:
    if command == "merge":
        parser.add_argument("banks", type=Path, nargs="+", metavar="BANK", help="Folders of banks.")
        parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="Folder of the new bank.")
        parser.add_argument("--pairs", type=str, nargs="+", metavar="PAIR", help="Pairs to keep; left out, all.")
        return
    parser.add_argument("bank", type=Path, metavar="BANK", help="Folder of a bank.")
    if command == "show":
        parser.add_argument("pair", type=str, nargs="?", metavar="PAIR", help='"left:right"; left out, all.')


def list_concepts(bank: Path) -> None:
    """Name a bank's concepts, one a line."""
    _list(ConceptBank.from_pretrained(bank))


def show_concepts(bank: Path, pair: str | None = None) -> None:
    """Show all that a bank holds of one concept, or of every one.

    Raises:
        TransporterError: If the folder is no bank, or does not hold the pair.
    """
    found = ConceptBank.from_pretrained(bank)
    shown = found if pair is None else found.select([Pair.parse(pair)])
    console = _console()
    console.print(_table("bank", str(bank), _made_with(found)))
    for concept in shown.entries:
        console.print(_table("pair", concept.pair.name, _figures(concept)))
        if concept.calibration is not None:
            console.print(_sweep(concept.calibration, concept.pair))


def merge_banks(banks: list[Path], out: Path, pairs: list[str] | None = None) -> None:
    """Write the concepts of several banks, or some of them, into one; a single bank is filtered.

    Raises:
        TransporterError: If a folder is no bank, the banks were made with different backbones, two hold the same pair,
            or none holds one that is asked for.
    """
    check_folder("out", out)
    if out.resolve() in {bank.resolve() for bank in banks}:
        msg = f"out: {str(out)!r} is one of the banks that are read; give a folder of its own"
        raise TransporterError(msg)
    found = [ConceptBank.from_pretrained(bank) for bank in banks]
    if pairs is not None:
        found = _keep(found, [pair.name for pair in pairs_of(pairs)])
    merged = ConceptBank.merge(found)
    merged.save(out)
    _list(merged)


COMMANDS: dict[str, Callable[..., None]] = {"list": list_concepts, "show": show_concepts, "merge": merge_banks}


def _keep(banks: list[ConceptBank], names: list[str]) -> list[ConceptBank]:
    """The banks with the pairs of these names alone."""
    held = [[concept.pair.name for concept in bank.entries] for bank in banks]
    known = dict.fromkeys(name for names_held in held for name in names_held)
    for name in names:
        if name not in known:
            msg = f"pairs: no bank holds {name!r}; they hold {', '.join(known) or 'nothing'}"
            raise TransporterError(msg)
    return [bank.select(name for name in names if name in mine) for bank, mine in zip(banks, held, strict=True)]


def _list(bank: ConceptBank) -> None:
    """One line a concept; soft, so that no terminal breaks it."""
    width = max((len(concept.pair.name) for concept in bank.entries), default=0)
    for concept in bank.entries:
        figures = f"Δϑ {concept.divergence:.2f}  explained {concept.explained:.2f}  {concept.steps} steps"
        verdict = "not calibrated" if concept.calibration is None else concept.calibration.sentence(concept.pair)
        line = f"{concept.pair.name:<{width}}  {figures}  {verdict}"
        _console().print(line, soft_wrap=True)


def _made_with(bank: ConceptBank) -> Iterator[tuple[str, str]]:
    for name, value in vars(bank).items():
        if name != "entries":
            yield name.replace("_", " "), value or "not known"


def _figures(concept: Concept) -> Iterator[tuple[str, str]]:
    yield "contexts", "\n".join(concept.pair.contexts) or "none"
    yield "prompt", concept.prompt
    yield "Δϑ between the words", f"{concept.divergence:.4g}"
    yield "steps", str(concept.steps)
    yield "loss", f"{concept.loss:.4g}"
    yield "explained", f"{concept.explained:.4g}"
    yield "objective", concept.objective
    yield "vector", " × ".join(map(str, concept.vector.shape))
    if concept.calibration is None:
        yield "calibration", "not measured"
        return
    saturation = concept.calibration.saturation
    yield "did it move?", concept.calibration.sentence(concept.pair)
    yield "monotonicity", f"{concept.calibration.monotonicity:.2f}"
    yield "saturation", "none" if saturation is None else f"φ = {saturation:g}"


def _sweep(calibration: Calibration, pair: Pair) -> Table:
    """The calibration's figures, a row for each φ."""
    words = f"P({pair.negative})", f"P({pair.positive})"
    table = Table("φ", *words, "Δϑ through Φ", "Δϑ re-encoded", "elsewhere")
    for phi, *figures in zip(*vars(calibration).values(), strict=True):
        table.add_row(f"{phi:g}", *(f"{figure:.4f}" for figure in figures))
    return table


def _table(name: str, value: str, rows: Iterator[tuple[str, str]]) -> Table:
    table = Table(name)
    table.add_column(value, overflow="fold")  # to be copied whole
    for row in rows:
        table.add_row(*row)
    return table


def _console() -> Console:
    """A console that prints words as they are."""
    return Console(markup=False, emoji=False, highlight=False)
