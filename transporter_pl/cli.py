"""The ``transporter`` command: finds the subcommand, and turns user errors into one line."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transporter_pl import __doc__ as summary
from transporter_pl import __version__
from transporter_pl.errors import TransporterError, did_you_mean
from transporter_pl.registry import Registry

INTERRUPTED = 130  # 128 + 2, as a shell has it after Ctrl-C


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


CORE = {
    "demo": Command("everything below, on the shipped models", "transporter_pl.commands.demo:demo"),
    "fit": Command("train Φ, a concept bank or a small backbone", "transporter_pl.commands.stages:run", stage=True),
    "validate": Command("measure a trained stage on held-out clips", "transporter_pl.commands.stages:run", stage=True),
    "test": Command("the same on test clips", "transporter_pl.commands.stages:run", stage=True),
    "explain": Command("a pair of words → videos, captions and a page", "transporter_pl.commands.explain:explain"),
    "evaluate": Command("tables that compare methods, VLM by VLM", "transporter_pl.evaluation.evaluate:evaluate"),
    "concepts": Command("list, show and merge concept banks", "transporter_pl.commands.concepts:run", stage=True),
    "plan": Command("what a run costs, before anything is downloaded", "transporter_pl.commands.plan:plan"),
    "list": Command("registered plug-ins, shipped checkpoints and configs", "transporter_pl.commands.listing:show"),
}


PLUGINS: Registry[Command] = Registry("commands")


def names() -> list[str]:
    """Names of all commands: the core's, then those of plug-ins."""
    return [*CORE, *(name for name in PLUGINS.names() if name not in CORE)]


def find(name: str) -> Command:
    """The command of a name; of plug-ins, only the one that is asked for is imported.

    Raises:
        TransporterError: If there is none (lists them, suggests the nearest), or a plug-in takes a name of the core's.
    """
    if name in CORE and name in PLUGINS.names():
        msg = f"command: {name!r} is the core's, but {PLUGINS.class_path(name)} takes its name; uninstall that package"
        raise TransporterError(msg)
    if name in CORE:
        return CORE[name]
    if name in PLUGINS.names():
        return PLUGINS.get(name)
    msg = f"command: unknown name {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}"
    raise TransporterError(msg)


def main(args: list[str] | None = None) -> int:
    """Run one command; at the end of the interpreter, leave the process group that it has joined.

    Args:
        args: Arguments after ``transporter``; ``sys.argv``'s if left out.

    Returns:
        Exit code: 0, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    atexit.unregister(leave_process_group)  # of an earlier command, should this one crash or be interrupted
    code = _exit_code(list(sys.argv[1:] if args is None else args))
    if code != INTERRUPTED:  # after Ctrl-C the other processes may be anywhere
        atexit.register(leave_process_group)
    return code


def _exit_code(argv: list[str]) -> int:
    try:
        _run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        # Lightning turns Ctrl-C into exit(1)
        return INTERRUPTED if isinstance(end.__context__, KeyboardInterrupt) else int(end.code or 0)
    except Exception as error:
        message = _user_error(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def leave_process_group() -> None:
    """Leave the process group, if there is one, before the interpreter ends; Lightning does so for NCCL alone.

    Gloo's threads drop the tensors of the last collective, for which they take the GIL. Where the interpreter is ending
    already that aborts it, and a command that has done all its work ends with status 134. Collectives that were begun
    and not waited for are waited for here.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # a group that nothing else holds waits for its threads; FSDP2's caches hold it, and it has but this time to end
        gc.collect()
        distributed.destroy_process_group()


def _run(argv: list[str]) -> None:
    if not argv or argv[0].startswith("-"):
        _overview(argv or ["--help"])
        return
    name, *rest = argv
    command = find(name)
    from transporter_pl.commands.arguments import backbones_in_their_place, call, find_configs, find_data

    rest = find_data(find_configs(rest))
    with backbones_in_their_place(name, rest):
        if command.stage:
            command.load()([name, *rest])
        else:
            call(command.load(), f"transporter {name}", rest)


def _overview(argv: list[str]) -> None:
    """``--help`` and ``--version``."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="transporter", description=summary, version=__version__, exit_on_error=False)
    commands = parser.add_subcommands(title="commands", metavar="COMMAND")
    for name in names():
        commands.add_subcommand(name, ArgumentParser(), help=find(name).help)
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
