"""The one exception that means: the input is wrong, and here is what to change."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence


class TransporterError(ValueError):
    """Bad input. The message names the field, the value and the fix; the command line prints it without a traceback."""


def did_you_mean(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """The nearest of the known names as a sentence after a space, or nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_counts(**counts: float | None) -> None:
    """Refuse what should be at least 1, such as denoising steps and the guidance scale; ``None`` is left open.

    Raises:
        TransporterError: Naming the first that is too small.
    """
    for name, value in counts.items():
        if value is not None and not value >= 1:
            msg = f"{name}: {value} is too small; give at least 1"
            raise TransporterError(msg)


def check_not_negative(**values: float) -> None:
    """Refuse what should be a finite number, 0 or more, such as a learning rate and its warm-up.

    Raises:
        TransporterError: Naming the first that is not.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            msg = f"{name}: {value} is no finite number from 0 on; give one"
            raise TransporterError(msg)
