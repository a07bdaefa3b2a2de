"""TRANSPORTER: look inside video vision-language models by turning their logits into video."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transporter_pl.explain.explainer import Explainer

__version__ = "0.1.0"
__all__ = ["Explainer", "__version__"]


def __getattr__(name: str) -> object:
    """``Explainer``, imported where it is asked for: the command line's help needs no torch."""
    if name != "Explainer":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from transporter_pl.explain.explainer import Explainer

    return Explainer
