"""Model folders: configs read without weights, files written aside and then moved into place."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from transporter_pl.backbones.shipped import advice
from transporter_pl.errors import TransporterError
from transporter_pl.origin import split_revision

if TYPE_CHECKING:
    from torch import Tensor

    from transporter_pl.samples import VideoSpec

# what the hub says, the special before the general, and what to do about it
FIXES: tuple[tuple[type[Exception], str], ...] = (
    (
        GatedRepoError,
        "It is gated: accept its licence at https://huggingface.co/{repo} and log in with `hf auth login`, or give a "
        "local folder",
    ),
    (
        RevisionNotFoundError,
        "The hub has {repo!r}, but not its revision {revision!r}; give a branch, tag, commit or refs/pr/N behind the @",
    ),
    (
        RepositoryNotFoundError,
        "{advice}; the hub has none of that name, or a private one: check the spelling, log in with `hf auth login`, "
        "or give a local folder",
    ),
    (
        LocalEntryNotFoundError,
        "{advice}; it is not in the hub's cache, and the hub does not give it ({reason}): download it where it does, "
        "or give a local folder",
    ),
)


def find_config(folder: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a local folder or hub repository, ``None`` if it has none of that name.

    Args:
        folder: Local folder or hub id; "org/name@revision" is a branch, tag or commit of a hub id.
        name: Of the file, relative to the folder.

    Raises:
        TransporterError: If the hub can't be reached, or the file is no JSON object.
    """
    file = find_file(folder, name)
    if file is None:
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        msg = f"path: {name} in {folder!r} is no JSON object ({error}); download the model again"
        raise TransporterError(msg) from error


def find_file(folder: str, name: str) -> Path | None:
    """Where a file of a local folder or hub repository is on disk, ``None`` if it has none of that name.

    Args:
        folder: Local folder or hub id, as ``find_config`` takes it.
        name: Of the file, relative to the folder.

    Raises:
        TransporterError: If the hub can't be reached.
    """
    if Path(folder).is_dir():
        file = Path(folder) / name
        return file if file.is_file() else None
    repo, revision = split_revision(folder)
    with loading(folder):
        try:
            return Path(hf_hub_download(repo, name, revision=revision))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) and not _any_cached(repo, revision):
                raise
            return None


def read_config(folder: str, name: str) -> dict[str, Any]:
    """A JSON file that the folder must have.

    Raises:
        TransporterError: If it has none.
    """
    config = find_config(folder, name)
    if config is None:
        msg = f"path: {folder!r} has no {name}; give a model folder in the hub's format"
        raise TransporterError(msg)
    return config


@contextmanager
def loading(folder: str) -> Iterator[None]:
    """Refuse pickled weights, and turn the hub's many errors into one that names the path and the fix.

    Raises:
        TransporterError: If a local folder's weights are pickles, or the wrapped loading fails to find or read a file.
    """
    _check_pickles(folder)
    try:
        yield
    except (OSError, HfHubHTTPError, HFValidationError, SafetensorError) as error:
        msg = f"path: can't load {folder!r}. {_fix(folder, error)}"
        raise TransporterError(msg) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        msg = f"path: the weights in {folder!r} have other shapes than its config.json says; download the model again"
        raise TransporterError(msg) from error


def load_whole(kind: Any, folder: str, subfolder: str = "", **options: Any) -> Any:  # noqa: ANN401
    """A model of transformers or diffusers, refused if weights are missing: both draw these at random, and only warn.

    Args:
        kind: Its class.
        folder: Folder or hub id.
        subfolder: Where in it the model is.
        options: Others of ``from_pretrained``.

    Raises:
        TransporterError: If it can't be read, or lacks weights.
    """
    repo, revision = split_revision(folder)
    with loading(folder):
        model, found = kind.from_pretrained(
            repo, revision=revision, subfolder=subfolder, use_safetensors=True, output_loading_info=True, **options
        )
    names = sorted(found["missing_keys"])
    if names:
        place = f"{repo}/{subfolder}" if subfolder else folder
        msg = f"path: {place!r} lacks {len(names)} of its weights, such as {names[0]}; download the model again"
        raise TransporterError(msg)
    return model


def _fix(folder: str, error: Exception) -> str:
    repo, revision = split_revision(folder)
    # libraries that load from the hub wrap its errors in their own
    kinds = [type(e) for e in (error, error.__cause__) if e is not None]
    for known, fix in FIXES:
        if any(issubclass(kind, known) for kind in kinds):
            reason = _first_line(error.__cause__ or error)
            return fix.format(repo=repo, revision=revision or "main", advice=advice(repo), reason=reason)
    there = "The folder is not whole" if Path(folder).is_dir() else advice(repo)
    return f"{there}; or give another local folder, or a hub id that this machine can reach ({_first_line(error)})"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_pickles(folder: str) -> None:
    """Refuse a local folder, or a part of a pipeline in it, with pickled weights and no safetensors beside them."""
    for pickled in [*Path(folder).glob("*pytorch_model*.bin"), *Path(folder).glob("*/*pytorch_model*.bin")]:
        if not any(pickled.parent.glob("*.safetensors")):
            msg = (
                f"path: the weights in {str(pickled)!r} are pickled, which can run code; give a folder of "
                "safetensors, as `save_pretrained` writes them"
            )
            raise TransporterError(msg)


@contextmanager
def saved_aside(path: str | Path) -> Iterator[Path]:
    """A temporary folder whose files replace those of ``path`` once the block has succeeded."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
        aside = Path(name)
        yield aside
        for file in sorted(p for p in aside.rglob("*") if p.is_file()):
            place = target / file.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)  # noqa: PTH105  (atomic on every platform)


def check_video(video: Tensor, spec: VideoSpec) -> None:
    """Refuse clips of another geometry than the adapter's; the backbones would drop frames or tokens silently.

    Raises:
        TransporterError: If the shape is not (B, T, 3, H, W) of the spec.
    """
    if video.ndim != 5 or tuple(video.shape[1:]) != (spec.frames, 3, spec.height, spec.width):
        msg = (
            f"video: shape {tuple(video.shape)}, but the adapter was loaded for {spec}, that is "
            f"(B, {spec.frames}, 3, {spec.height}, {spec.width}); resample the clips or load it for theirs"
        )
        raise TransporterError(msg)


def _any_cached(repo: str, revision: str | None) -> bool:
    """Whether the hub's cache holds files of that revision, so that one that it lacks may not exist."""
    name = revision or constants.DEFAULT_REVISION
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    known = cache / "refs" / name
    commit = known.read_text(encoding="utf-8") if known.is_file() else name
    return (cache / "snapshots" / commit).is_dir()
