"""Latent caches as ``transporter encode`` writes them, of encodings that a test makes up."""

import torch

from transporter_pl.datamodules.cache.index import index_of, write_index
from transporter_pl.datamodules.cache.key import Manifest, write_manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.shards import TENSORS, EncodedClips, ShardWriter
from transporter_pl.samples import Encoded, Shapes


def joined(batches):
    """Batches of ``Encoded`` as one."""
    ids, captions = (tuple(text for b in batches for text in getattr(b, field)) for field in ("ids", "captions"))
    return Encoded(ids, captions, **{name: torch.cat([getattr(b, name) for b in batches]) for name in TENSORS})


def clips_of(encoded, rows):
    """Some clips with one caption each."""
    tensors = {name: getattr(encoded, name)[rows] for name in TENSORS}
    return EncodedClips(tuple(encoded.ids[r] for r in rows), tuple((encoded.captions[r],) for r in rows), **tensors)


def write_cache(folder, key, encoded, shard_clips=64, finished=True):
    """A cache of these clips, with one caption each."""
    shapes = Shapes(*(tuple(getattr(encoded, name).shape[1:]) for name in ("latents", "condition", "tokens")))
    manifest = Manifest(key, shapes, len(encoded.ids), shard_clips)
    write_manifest(folder, manifest)
    for number in range(manifest.shards):
        writer = ShardWriter(shapes, key.storage)
        writer.add(clips_of(encoded, list(manifest.rows(number))))
        writer.write(folder, number)
    if finished:
        finish(folder, manifest)
    return manifest


def finish(folder, manifest):
    """Write the index of a cache whose shards are there; returns what it holds, and the broken clips."""
    index, broken = index_of(Place(folder), manifest)
    write_index(folder, index)
    return index.summary, broken
