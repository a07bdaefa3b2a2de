"""``transporter list``: what there is to name in a config. Imports no model, no data set and no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from rich.console import Console
from rich.table import Table

from transporter_pl.commands.arguments import packaged_configs
from transporter_pl.registry import Registry

KINDS = (
    *("generators", "vlms", "transports", "divergences", "objectives", "datamodules"),
    *("baselines", "methods", "columns", "video_encoders", "text_encoders"),
)


def show() -> None:
    """Print registered plug-ins and where they come from, shipped checkpoints and packaged configs."""
    console = Console()
    if not console.is_terminal:
        console.width = 200  # names are whole in a file or a pipe
    table = Table("kind", "name", title="Registered plug-ins", title_justify="left")
    table.add_column("from", overflow="fold")  # to be copied whole
    for kind in KINDS:
        for entry in sorted(entry_points(group=f"transporter_pl.{kind}"), key=lambda e: e.name):
            table.add_row(kind, entry.name, entry.value.replace(":", "."))  # as a config names it
    console.print(table)
    checkpoints: Registry[Callable[[], list[str]]] = Registry("checkpoints")
    shipped = [name for source in checkpoints.names() for name in checkpoints.get(source)()]
    for title, names in (("Shipped checkpoints", shipped), ("Packaged configs", packaged_configs())):
        section = Table(title, show_header=True)
        for name in names or ["none"]:
            section.add_row(name)
        console.print(section)
