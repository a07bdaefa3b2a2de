"""What comes with the package: small trained checkpoints, found by name, and the configurations of published models."""

from __future__ import annotations

from pathlib import Path

from transporter_pl.errors import TransporterError, did_you_mean

CHECKPOINTS = Path(__file__).parent / "checkpoints"
NATIVE = {"microsoft/Phi-4-multimodal-instruct": "@refs/pr/70"}  # where the main branch holds another layout
PUBLISHED = Path(__file__).parent / "published"


def resolve(path: str | Path) -> str:
    """A local folder for the name of a shipped checkpoint; any other path or hub id as it is.

    Raises:
        TransporterError: If a path that is written like a folder (``./x``, ``/x``, ``~/x``), or nearly like the name of
            a shipped one, does not exist; the hub isn't asked for these.
    """
    shipped = CHECKPOINTS / str(path)
    if str(path) in shipped_names():
        return str(shipped)
    local = Path(path).expanduser()
    near = "/" not in str(path) and did_you_mean(str(path), shipped_names())
    if (near or str(path).startswith((".", "/", "~"))) and not local.is_dir():
        msg = f"path: no folder {str(path)!r}. {advice(path)}, or give a local folder or hub id"
        raise TransporterError(msg)
    return str(local) if local.is_dir() else str(path)


def configuration(path: str | Path) -> str:
    """Where a model's configuration is: of a published hub id in the package, otherwise where ``resolve`` says.

    So shapes and sizes of the published models are known before anything is downloaded.

    Raises:
        TransporterError: As ``resolve``.
    """
    found, name = resolve(path), str(path).partition("@")[0]
    if Path(found).is_dir() or name not in published_names() or found != name + NATIVE.get(name, ""):
        return found
    return str(PUBLISHED / name.replace("/", "--"))


def published_names() -> list[str]:
    """Hub ids whose configuration is in the package."""
    return sorted(p.name.replace("--", "/") for p in PUBLISHED.iterdir() if p.is_dir()) if PUBLISHED.is_dir() else []


def advice(path: str | Path) -> str:
    """What to give instead of a path that is not there: the shipped names, and the nearest of them."""
    names = shipped_names()
    return f"{did_you_mean(Path(path).name, names)} Shipped: {', '.join(names) or 'none'}".lstrip()


def shipped_names() -> list[str]:
    """Names of the checkpoints in the package."""
    return sorted(p.name for p in CHECKPOINTS.iterdir() if p.is_dir()) if CHECKPOINTS.is_dir() else []
