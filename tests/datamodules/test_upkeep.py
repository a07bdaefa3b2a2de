"""``transporter cache info | verify | prune``, driven as a user does."""

import json
import os
import socket
import subprocess
from dataclasses import replace

import pytest
from caches import clips_of, finish, write_cache
from test_cache import KEY, SHAPES, encoded_clips

from transporter_pl.cli import main
from transporter_pl.datamodules.cache.index import INDEX, read_index
from transporter_pl.datamodules.cache.key import read_manifest
from transporter_pl.datamodules.cache.places import Place
from transporter_pl.datamodules.cache.shards import ShardWriter, shard_name
from transporter_pl.datamodules.clips import BrokenClip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten clips in four shards, of which one lacks a clip that was broken; in the folder ``cache`` of here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    whole = encoded_clips(10)
    manifest = write_cache(tmp_path / "cache", replace(KEY, storage="bfloat16"), whole, shard_clips=3)
    writer = ShardWriter(SHAPES, "bfloat16")
    writer.add(clips_of(whole, [3, 5]))
    writer.leave_out([BrokenClip(whole.ids[4], "it is gone")])
    writer.write(tmp_path / "cache", 1)
    finish(tmp_path / "cache", manifest)
    return tmp_path / "cache"


def _said(capsys, *words):
    assert main(["cache", *words]) == 0
    return capsys.readouterr().out


def _refused(capsys, *words):
    """The one line of an error."""
    assert main(["cache", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def _names(folder):
    return sorted(file.name for file in folder.iterdir())


def _spoil(folder, number):
    """Turn a bit of the last tensor's bytes, which no header tells of."""
    file = folder / shard_name(number)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_info_says_what_made_a_cache_and_what_it_holds(folder, capsys):
    said = _said(capsys, "info", "cache")
    for row in (
        ("generator.path", "a"),
        ("vlm.path", "b"),
        ("video.frames", "5"),
        ("storage", "bfloat16"),
        ("shards", "4 of 4"),
        ("clips", "9, 1 could not be encoded"),
        ("captions", "9"),
        ("latents", "2 × 1 × 3 × 3"),
        ("tokens", "6 × 7"),
        ("tokens, changed by", f"{read_index(Place(folder)).summary.errors['tokens']:.2%}"),
    ):
        assert any([cell.strip() for cell in line.split("│")[1:-1]] == list(row) for line in said.splitlines()), row


def test_info_of_a_cache_that_is_not_finished(folder, capsys):
    (folder / INDEX).unlink()
    (folder / shard_name(3)).unlink()
    said = _said(capsys, "info", "cache")
    assert "3 of 4, not finished: run the same `transporter encode` again" in said
    assert "8, 1 could not be encoded" in said


def test_info_of_a_finished_cache_that_has_lost_a_shard(folder, capsys):
    (folder / shard_name(3)).unlink()
    said = _said(capsys, "info", "cache")
    assert "3 of 4, not finished: run the same `transporter encode` again" in said
    assert "8, 1 could not be encoded" in said


def test_verify_of_a_cache_that_is_not_finished(folder, capsys):
    (folder / INDEX).unlink()
    (folder / shard_name(3)).unlink()
    assert "path: 'cache' is not finished, 1 of 4 shards are missing, the others" in _refused(capsys, "verify", "cache")
    _spoil(folder, 2)  # which encode would take for whole
    assert "2 of 4 shards of 'cache' are missing or damaged" in _refused(capsys, "verify", "cache")


def test_verify_finds_what_is_damaged_and_what_is_missing(folder, capsys):
    assert _said(capsys, "verify", "cache").endswith("4 shards of cache: all whole\n")
    _spoil(folder, 2)
    os.truncate(folder / shard_name(3), 300)
    (folder / shard_name(0)).unlink()
    said = _refused(capsys, "verify", "cache")
    named = ", ".join(map(shard_name, (0, 2, 3)))
    assert said.startswith(f"error: path: 3 of 4 shards of 'cache' are missing or damaged: {named}; `transporter cache")


def test_verify_finds_a_shard_of_another_cache(folder, capsys):
    """It is whole in itself, but not what the index vouches for."""
    other = folder.parent / "other"
    write_cache(other, replace(KEY, storage="bfloat16"), encoded_clips(10, seed=1), shard_clips=3)
    (other / shard_name(2)).rename(folder / shard_name(2))
    assert f"1 of 4 shards of 'cache' are missing or damaged: {shard_name(2)};" in _refused(capsys, "verify", "cache")


@pytest.mark.parametrize("name", ["starts", "headers", "digests"])
def test_verify_finds_every_bit_that_has_turned_in_the_index(name, folder, capsys):
    """What the index says of shards that are whole, or what it vouches for."""
    content = (folder / INDEX).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    begin, end = header[name]["data_offsets"]
    for at in range(begin, end, 5):
        spoilt = bytearray(content)
        spoilt[8 + int.from_bytes(content[:8], "little") + at] ^= 1
        (folder / INDEX).write_bytes(spoilt)
        said = _refused(capsys, "verify", "cache")
        assert "shards of 'cache' are missing or damaged" in said or f"{INDEX} of 'cache' is damaged" in said


@pytest.mark.parametrize("dry", [True, False])
def test_prune_takes_what_killed_runs_have_left(dry, folder, capsys):
    kept = _names(folder)
    left, begun = (folder / f".part-{socket.gethostname()}-{pid}-abc" for pid in (_dead(), os.getpid()))
    for aside in (left, begun):
        aside.mkdir()
        (aside / shard_name(1)).write_bytes(b"half")
    (folder / shard_name(9)).write_bytes(b"of a larger cache")
    (folder / "notes.txt").write_text("mine")
    before = _names(folder)
    said = _said(capsys, "prune", "cache", *["--dry_run"] * dry)
    assert said.count("would delete" if dry else "deleted") == 2
    assert _names(folder) == (before if dry else sorted([*kept, "notes.txt", begun.name]))  # nobody's, and one's own


def _dead():
    """Id of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def test_prune_leaves_a_whole_cache_alone(folder, capsys):
    before = _names(folder)
    assert _said(capsys, "prune", "cache", "--damaged").endswith("nothing to delete in cache\n")
    assert _names(folder) == before


def test_prune_takes_damaged_shards_so_that_they_are_made_again(folder, capsys):
    _spoil(folder, 2)
    assert f"deleted cache/{shard_name(2)}" in _said(capsys, "prune", "cache", "--damaged")
    assert shard_name(2) not in _names(folder)
    assert INDEX not in _names(folder)
    assert read_manifest(Place(folder)) is not None


def test_prune_takes_shards_that_lack_clips_so_that_these_are_tried_again(folder, capsys):
    assert f"deleted cache/{shard_name(1)}" in _said(capsys, "prune", "cache", "--broken")
    assert [shard_name(n) in _names(folder) for n in range(4)] == [True, False, True, True]


@pytest.mark.parametrize("command", ["info", "verify", "prune"])
def test_what_is_no_cache_is_refused(command, tmp_path, capsys):
    assert "path: no latent cache in" in _refused(capsys, command, str(tmp_path))
    assert "path: no latent cache in" in _refused(capsys, command, str(tmp_path / "none"))
