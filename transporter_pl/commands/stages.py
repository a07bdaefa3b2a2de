"""``transporter fit | validate | test``: Lightning's own command line over any of our stages and data modules."""

from __future__ import annotations

from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from transporter_pl.samples import Shapes

# Shapes come whole, by a link. Of a plain dataclass the parser would ask for every field instead.
set_parsing_settings(subclasses_enabled=[Shapes])


class StageCLI(LightningCLI):
    """LightningCLI whose errors reach the caller, and whose models learn the data's shapes from the data module."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without ``predict``, which no stage has."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401  (Lightning's signature)
        """A parser that raises instead of exiting."""
        return super().init_parser(exit_on_error=False, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Hand ``data.shapes`` to a model that asks for ``shapes``; others are left alone."""
        parser.link_arguments("data.shapes", "model.init_args.shapes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Read the arguments that were given, without a word on ``sys.argv``."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: Lightning would put the checkpoint's hyperparameters over the user's overrides."""


def run(argv: list[str]) -> None:
    """Run ``fit``, ``validate`` or ``test``; ``argv`` begins with that name."""
    # no class is named: any model, and any data module or none, as concepts need no data
    StageCLI(
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # it would put Shapes, as an object, into every checkpoint
        save_config_kwargs={"overwrite": True},  # without a logger, every run has the same folder
        parser_kwargs={"prog": "transporter"},
        args=argv,
    )
