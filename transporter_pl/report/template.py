"""Pages from templates, which share one style and one script."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from transporter_pl.report.figures import NEGATIVE, POSITIVE


def fill(name: str, **parts: str) -> str:
    """A page of the template of that name, with the shared ``page.css`` and ``page.js``.

    Args:
        name: File beside this module.
        parts: What it leaves open, as HTML.
    """
    style = Template(_read("page.css")).substitute(negative_colour=NEGATIVE, positive_colour=POSITIVE)
    return Template(_read(name)).substitute(parts, style=style, script=_read("page.js"))


def _read(name: str) -> str:
    return (files("transporter_pl.report") / name).read_text(encoding="utf-8")
