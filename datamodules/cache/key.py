"""What made a latent cache, as ``cache.json`` says it: a cache that other settings made is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from transporter_pl.datamodules.cache.places import Place
from transporter_pl.errors import TransporterError
from transporter_pl.files import ASIDE, replace_file
from transporter_pl.loading import BackboneSpec
from transporter_pl.precision import Storage
from transporter_pl.samples import Shapes, VideoSpec
from transporter_pl.settings import dotted
from transporter_pl.video import READING

MANIFEST = "cache.json"
FORMAT = 2  # 1 kept its progress in index.json


@dataclass(frozen=True)
class CacheKey:
    """Everything that changes what a cache holds.

    Attributes:
        generator: The generator, with its revision (in its path) and its dtype.
        vlm: The VLM, likewise.
        video: Geometry of the clips.
        clips: Fingerprint of the clips.
        storage: Type in which numbers are stored.
        uncaptioned: What clips without a caption have got; empty where all have one.
        generator_weights: Fingerprint of the generator's weights, as a folder may be trained anew.
        vlm_weights: The same of the VLM's.
        reading: Version of the rule by which frames are chosen, scaled and cropped.
    """

    generator: BackboneSpec
    vlm: BackboneSpec
    video: VideoSpec
    clips: str
    storage: Storage = "bfloat16"
    uncaptioned: str = ""
    generator_weights: str = ""
    vlm_weights: str = ""
    reading: int = READING


@dataclass(frozen=True)
class Manifest:
    """What ``cache.json`` says, from the beginning on.

    Attributes:
        key: What makes the cache.
        shapes: Shapes of one clip's encodings.
        clips: Clips of the source, broken ones included.
        shard_clips: Clips of the source that a shard is made of; the last one may have fewer.
    """

    key: CacheKey
    shapes: Shapes
    clips: int
    shard_clips: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.clips // self.shard_clips)

    def rows(self, shard: int) -> range:
        """The source's clips that a shard is made of."""
        return range(shard * self.shard_clips, min(self.clips, (shard + 1) * self.shard_clips))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``cache.json``."""
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1)
    replace_file(folder / MANIFEST, lambda aside: aside.write_text(text + "\n", encoding="utf-8"))


def read_manifest(place: Place) -> Manifest | None:
    """What ``cache.json`` says; ``None`` if there is none.

    Raises:
        TransporterError: If it can't be read, or an older version wrote it.
    """
    text = place.text(MANIFEST)
    if text is None:
        if place.text("index.json") is not None:
            msg = f"cache: an older version wrote {str(place)!r}; delete it and encode again, or choose another folder"
            raise TransporterError(msg)
        return None
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            msg = f"cache: {str(place)!r} has format {found['format']}, and this version reads {FORMAT}; "
            raise TransporterError(msg + "install a newer one")
        key, shapes = found["key"], {name: tuple(sizes) for name, sizes in found["shapes"].items()}
        backbones = {name: BackboneSpec(**key[name]) for name in ("generator", "vlm")}
        made = CacheKey(**{**key, **backbones, "video": VideoSpec(**key["video"])})
        return Manifest(made, Shapes(**shapes), int(found["clips"]), int(found["shard_clips"]))
    except TransporterError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"cache: {MANIFEST} in {str(place)!r} can't be read ({error!r}); delete the cache and encode again"
        raise TransporterError(msg) from error


def check_key(folder: Path, key: CacheKey) -> Manifest | None:
    """Refuse to continue a cache that other settings made; fields that ``key`` leaves empty are not compared.

    Returns:
        What the cache in the folder says, ``None`` if there is none.

    Raises:
        TransporterError: If a field differs (named), or the folder is something else than a cache.
    """
    manifest = read_manifest(Place(folder))
    if manifest is None:
        # what a run that was killed at its very beginning has left is nobody's
        others = [file for file in folder.iterdir() if not file.name.startswith(ASIDE)] if folder.is_dir() else []
        if folder.is_file() or others:
            msg = f"out: {str(folder)!r} is not empty and no latent cache; choose another folder"
            raise TransporterError(msg)
        return None
    differing = first_difference(manifest.key, key)
    if differing is not None and not any(folder.glob("shard-*")):  # nothing is encoded that could be lost or mixed
        return None
    if differing is not None:
        field, was, value = differing
        msg = f"out: the cache in {str(folder)!r} was made with {field} = {was!r}, not {value!r}; "
        if field == "clips":  # a fingerprint
            msg += "annotations, captions, windows, limit or files have changed; "
        raise TransporterError(msg + "choose another folder, or delete this one")
    return manifest


def first_difference(one: CacheKey, other: CacheKey) -> tuple[str, object, object] | None:
    """The first field that differs, by its dotted name, with both values; what ``other`` leaves empty is alike."""
    was, now = dotted(asdict(one)), dotted(asdict(other))
    return next(((field, was[field], value) for field, value in now.items() if value not in ("", was[field])), None)
