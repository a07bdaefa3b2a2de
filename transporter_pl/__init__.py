"""TRANSPORTER: look inside video vision-language models by turning their logits into video."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transporter_pl.explain.dials import Dial
    from transporter_pl.explain.explainer import Explainer

__version__ = "0.1.0"
__all__ = ["Dial", "Explainer", "__version__"]

# imported where they are asked for: the command line's help needs no torch
LAZY = {"Dial": "transporter_pl.explain.dials", "Explainer": "transporter_pl.explain.explainer"}


def __getattr__(name: str) -> object:
    """What the package offers in Python."""
    if name not in LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(LAZY[name]), name)
