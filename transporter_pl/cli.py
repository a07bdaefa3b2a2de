"""The ``transporter`` command: finds the subcommand, and turns user errors into one line."""

from __future__ import annotations

import difflib
import importlib
import sys
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transporter_pl import __doc__ as summary
from transporter_pl import __version__
from transporter_pl.errors import TransporterError


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        help: One line for ``transporter --help``.
        target: ``module:function``, imported only when the command is called.
        stage: Whether the target takes the raw arguments, as Lightning's own parser reads them, instead of having its
            arguments read from its signature.
    """

    help: str
    target: str
    stage: bool = False

    def load(self) -> Callable[..., Any]:
        """Import the target."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


COMMANDS = {
    "demo": Command("everything below, on the shipped models", "transporter_pl.commands.demo:demo"),
    "clips": Command("the embedded world's clips as files", "transporter_pl.datamodules.shapemotion.files:write_clips"),
    "encode": Command("captioned videos → latent cache", "transporter_pl.datamodules.encode:encode_videos"),
    "fit": Command("train Φ, a concept bank or a small backbone", "transporter_pl.commands.stages:run", stage=True),
    "validate": Command("measure a trained stage on held-out clips", "transporter_pl.commands.stages:run", stage=True),
    "test": Command("the same on test clips", "transporter_pl.commands.stages:run", stage=True),
    "explain": Command("a pair of words → videos, captions and a page", "transporter_pl.commands.explain:explain"),
    "measure": Command("the embedded world's bars, as tables", "transporter_pl.datamodules.shapemotion.bars:measure"),
    "list": Command("registered plug-ins, shipped checkpoints and configs", "transporter_pl.commands.listing:show"),
}


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Args:
        args: Arguments after ``transporter``; ``sys.argv``'s if left out.

    Returns:
        Exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    try:
        _run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        # Lightning turns Ctrl-C into exit(1)
        return 130 if isinstance(end.__context__, KeyboardInterrupt) else int(end.code or 0)
    except Exception as error:
        message = _user_error(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def _run(argv: list[str]) -> None:
    if not argv or argv[0].startswith("-"):
        _overview(argv or ["--help"])
        return
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        msg = f"command: unknown name {name!r}.{hint} Known: {', '.join(COMMANDS)}"
        raise TransporterError(msg)
    from transporter_pl.commands.arguments import call, find_configs

    command = COMMANDS[name]
    rest = find_configs(rest)
    if command.stage:
        command.load()([name, *rest])
    else:
        call(command.load(), f"transporter {name}", rest)


def _overview(argv: list[str]) -> None:
    """``--help`` and ``--version``."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="transporter", description=summary, version=__version__, exit_on_error=False)
    commands = parser.add_subcommands(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_subcommand(name, ArgumentParser(), help=command.help)
    parser.parse_args(argv)


def _user_error(error: Exception) -> str | None:
    """What to tell the user, where bad input is at the root of an error; ``None`` where it is not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TransporterError):
            # a data loader's worker puts its traceback before the message
            return str(cause).rpartition("TransporterError: ")[2]
        cause = cause.__cause__  # jsonargparse wraps what a class raises in its __init__
    return str(error) if isinstance(error, ArgumentError) else None
