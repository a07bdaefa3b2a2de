"""Checkpoint files: written whole or not at all, read without unpickling anything, found again after a crash."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError

from transporter_pl.errors import TransporterError
from transporter_pl.files import abandoned, delete, replace_file

Pathlike = str | Path
GO_ON = "go on with the same command, and --ckpt_path last for a fit"
SUFFIX = ModelCheckpoint.FILE_EXTENSION


class CheckpointFiles(TorchCheckpointIO):
    """Writes beside the old file and renames, as a full disk must not cost the last good checkpoint.

    Lightning's own writes to the system's folder for temporary files and moves: across disks, that is a copy that may
    stop half-way. Paths on other file systems, such as a bucket's, are left to it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Pathlike, storage_options: object = None) -> None:
        """Write a checkpoint.

        Raises:
            TransporterError: If it can't be written; nothing is left of it then.
        """
        with writing("checkpoint", path):
            if is_url(path):
                super().save_checkpoint(checkpoint, path, storage_options)
            else:
                replace_file(Path(path), lambda aside: _save(checkpoint, aside))

    def load_checkpoint(self, path: Pathlike, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint of tensors and plain data, whatever else was asked for.

        Raises:
            TransporterError: If it is damaged, or holds anything else.
        """
        with reading(path):
            return super().load_checkpoint(path, *args, **{**kwargs, "weights_only": True})


def _save(checkpoint: dict[str, Any], file: Path) -> None:
    # through a Python file, whose errors are Python's
    with file.open("wb") as opened:
        torch.save(checkpoint, opened)


@contextmanager
def writing(field: str, path: Pathlike) -> Iterator[None]:
    """Say in one line why a checkpoint or an export could not be written.

    Raises:
        TransporterError: Naming the field, the path, the reason and the fix.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        msg = f"{field}: can't write {str(path)!r} ({reason}); what was there is untouched; make room, or choose a "
        raise TransporterError(msg + f"folder that can be written, then {GO_ON}") from error


def is_url(path: Pathlike) -> bool:
    """Whether a path is one of another file system, such as ``s3://…``."""
    return "://" in str(path)


@contextmanager
def reading(path: Pathlike) -> Iterator[None]:
    """Look at a checkpoint's checksums before it is read, and say in one line why it can't be.

    Raises:
        TransporterError: Naming the field, the path, the reason and the fix.
    """
    try:
        if not is_url(path):
            _check_sums(path)
        yield
    except Exception as error:  # bits that have flipped make zipfile and torch raise anything
        raise TransporterError(unreadable(path, _in_words(error))) from error


def unreadable(path: Pathlike, trouble: str) -> str:
    """What to say of a checkpoint that can't be read."""
    return f"ckpt_path: {str(path)!r} {trouble}; give another checkpoint, or --ckpt_path last"


def damage(file: Pathlike) -> str | None:
    """What keeps a file from being resumed from, in words; ``None`` where nothing does."""
    try:
        _check_sums(file)
        state = torch.load(file, "cpu", weights_only=True, mmap=True)
    except Exception as error:  # as above
        return _in_words(error)
    known = isinstance(state, dict) and {"state_dict", "global_step"} <= state.keys()
    return None if known else "is no training checkpoint"


def _check_sums(file: Pathlike) -> None:
    """Read a file through: it may be of the right length and still lack what was never written."""
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None:
            msg = "wrong checksum"
            raise zipfile.BadZipFile(msg)


def _in_words(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return "holds more than tensors and plain data, and nothing else is unpickled"
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return f"can't be read ({error.strerror or error})"
    return "is cut short or damaged"


def last_checkpoint(trainer: L.Trainer, but: Path | None = None) -> Path | None:
    """The newest checkpoint of a run that can be resumed from; of newer ones that can't be, a warning tells.

    Args:
        trainer: Says where the run's checkpoints lie.
        but: One that is known to be damaged.
    """
    found = {file.resolve() for file in run_checkpoints(trainer)} - {but and but.resolve()}
    for file in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True):
        trouble = damage(file)
        if trouble is None:
            return file
        rank_zero_warn(f"ckpt_path: {str(file)!r} {trouble}; the one before it is looked for")
    return None


def run_checkpoints(trainer: L.Trainer) -> list[Path]:
    """Checkpoints of all versions of a run: Lightning begins a new ``version_N`` with every start."""
    return [file for folder in _folders(trainer) for file in folder.glob(f"*{SUFFIX}") if file.is_file()]


def delete_halves(trainer: L.Trainer) -> None:
    """Delete the checkpoints that killed processes of a run were writing, and nothing else."""
    for path in (path for folder in _folders(trainer) for path in abandoned(folder)):
        if any(path.glob(f"*{SUFFIX}")):
            delete(path)


def _folders(trainer: L.Trainer) -> set[Path]:
    root = Path(trainer.default_root_dir)
    logs = {root / "lightning_logs", *(Path(log.save_dir or root) / str(log.name) for log in trainer.loggers)}
    own = {Path(c.dirpath) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath}
    versions = (folder for log in logs for folder in log.glob("*/checkpoints"))
    return {root, root / "checkpoints", *own, *versions}  # SLURM's own lie in the root
