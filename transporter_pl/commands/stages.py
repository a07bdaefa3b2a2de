"""``transporter fit | validate | test``: Lightning's own command line over any of our stages and data modules."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from transporter_pl.errors import TransporterError
from transporter_pl.samples import Shapes
from transporter_pl.stages.checkpoints import damage, is_url, last_checkpoint, run_checkpoints

NEEDED = {  # command → what the stage defines, and what the stage or its data does
    "fit": ("training_step", "train_dataloader"),
    "validate": ("validation_step", "val_dataloader"),
    "test": ("test_step", "test_dataloader"),
}

STAGE_YAML = "transporter-stage"

# Shapes come whole, by a link. Of a plain dataclass the parser would ask for every field instead.
set_parsing_settings(subclasses_enabled=[Shapes])


class StageCLI(LightningCLI):
    """LightningCLI whose errors reach the caller, and whose models learn the data's shapes from the data module."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without ``predict``, which no stage has."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401  (Lightning's signature)
        """A parser that raises instead of exiting, and knows the names of data sets and files of backbones."""
        return super().init_parser(exit_on_error=False, parser_mode=STAGE_YAML, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Hand ``data.shapes`` to a model that asks for ``shapes``; others are left alone."""
        parser.link_arguments("data.shapes", "model.init_args.shapes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Read the arguments that were given, without a word on ``sys.argv``."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def before_instantiate_classes(self) -> None:
        """See that the classes can do what was asked, before they load anything."""
        config = self.config[self.subcommand]
        check_checkpoint(config.get("ckpt_path"))
        check_command(str(self.subcommand), *(_class_of(config.get(key)) for key in ("model", "data")))

    def before_fit(self) -> None:
        """Find the checkpoint that was asked for, now that the trainer says where the run's checkpoints are."""
        given = self.config_init[self.subcommand]
        given["ckpt_path"] = resolved_checkpoint(given.get("ckpt_path"), self.trainer)

    before_validate = before_test = before_fit

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: Lightning would put the checkpoint's hyperparameters over the user's overrides."""


def check_checkpoint(path: str | None) -> None:
    """Refuse a checkpoint file that is not there, before anything is loaded.

    Raises:
        TransporterError: If so.
    """
    if path and str(path).endswith(".ckpt") and not is_url(path) and not Path(path).is_file():
        msg = f"ckpt_path: no file {str(path)!r}; give a training checkpoint, they lie under the run's default_root_dir"
        raise TransporterError(msg)


def resolved_checkpoint(path: str | None, trainer: L.Trainer) -> str | None:
    """The checkpoint that is meant: ``last`` is the newest of all starts of a run, ``None`` where there is none yet.

    Lightning itself looks for ``last`` in the new folder of this start alone, where nothing can be, and begins anew.
    A job of a cluster has the same command line when it is started first and when it is started again.

    Raises:
        TransporterError: If a file can't be resumed from; names the last one that can.
    """
    if path == "last":
        found = last_checkpoint(trainer)
        where = f"under {trainer.default_root_dir!r}"
        spoilt = run_checkpoints(trainer) if found is None else []
        if spoilt:  # a job that is started again must not begin anew, and lose what may be mended
            msg = f"ckpt_path: none of the {len(spoilt)} checkpoint(s) {where} is good; delete them to begin anew"
            raise TransporterError(msg)
        rank_zero_info(f"ckpt_path: going on from {found}" if found else f"ckpt_path: no checkpoint yet {where}")
        return None if found is None else str(found)
    file = None if path is None or is_url(path) else Path(path)
    trouble = damage(file) if file and file.is_file() else None
    if trouble:
        good = last_checkpoint(trainer, but=file)
        other = "no other is good" if good is None else f"the last good one is {str(good)!r}"
        msg = f"ckpt_path: {path!r} {trouble}; {other}"
        raise TransporterError(msg)
    return path


def check_command(command: str, stage: object, data: object) -> None:
    """Refuse a command that the stage has no step for, or that finds no batches.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        stage: Class of the stage.
        data: Class of the data module, or ``None``.

    Raises:
        TransporterError: Naming the command, the class, and the commands that would do.
    """
    missing = {name: _missing(stage, data, *hooks) for name, hooks in NEEDED.items()}
    if missing[command]:
        able = [f"`transporter {name}`" for name in NEEDED if not missing[name]]
        msg = f"{command}: {missing[command]}; use {' or '.join(able) or 'a stage or data module that has one'}"
        raise TransporterError(msg)


def _missing(stage: object, data: object, step: str, loader: str) -> str | None:
    """What the classes lack, in words."""
    if not _defines(stage, step):
        return f"{_name(stage)} has no {step}"
    if _defines(stage, loader) or _defines(data, loader):
        return None
    return f"{_name(stage if data is None else data)} has no {loader}"


def _name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))


def _defines(kind: object, hook: str) -> bool:
    """Whether a class overrides Lightning's empty hook; one that is no class, but a function, may return any."""
    return kind is not None and getattr(kind, hook, None) is not getattr(LightningModule, hook)


def _class_of(chosen: Any) -> object:  # noqa: ANN401  (jsonargparse's namespace)
    return None if chosen is None else pkgutil.resolve_name(chosen.class_path)


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
