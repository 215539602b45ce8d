"""Servers that have lost something get it back from the others, whole, now, and nothing else crosses."""

import random
from pathlib import Path
from typing import Any

import pytest
from site_worlds import VOLUME, KeeperWorld, clone, commit, found, head_files
from test_check import group_of, told

from dalsegno.replicas.repair import repair_replicas
from dalsegno.replicas.transfer import copy
from dalsegno.volumes.state import ReplicaSet

NAMES = ["s1", "s2", "s3"]
FILES = {b"a": b"first", b"b": random.Random(1).randbytes(400_000), b"c": random.Random(2).randbytes(300_000)}


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """Three pools that have two states of a volume, the older as a clone."""
    world = KeeperWorld(tmp_path)
    for name in NAMES:
        world.add(name)
    found(world, ReplicaSet(version=1, writers=NAMES))
    for files in (FILES, {**FILES, b"a": b"second", b"d": b"more"}):
        commit(world, "s1", files)
        head = world.sites["s1"].state(VOLUME).head
        for name in ("s2", "s3"):
            copy(world.sites["s1"], world.sites[name], VOLUME, [head])
            world.sites[name].advance(VOLUME, head)
        if b"d" not in files:
            clone(world, NAMES, "monday")
    assert told(world, deep=True) == []
    return world


def lose(world: Any, *lost: Path) -> None:
    for path in lost:
        path.unlink()
    world.clock.pause(60)  # else a server need not have seen it


def packs(path: Path) -> list[Path]:
    return sorted((path / "packs").rglob("*.pack"), key=lambda each: each.stat().st_size)


def test_what_is_whole_is_left_alone(world: Any) -> None:
    repaired = repair_replicas(group_of(world))
    assert repaired.brought == {} and repaired.failed == {} and repaired.servers == ("s1", "s2", "s3")


@pytest.mark.parametrize("number", [0, -1])
def test_a_pack_that_is_gone_is_brought_back(world: Any, tmp_path: Path, number: int) -> None:
    """The kind: what is lost is healed only when something else happens to come."""
    lose(world, packs(tmp_path / "s2")[number])
    assert {server for server, _, _ in told(world, deep=True)} == {"s2"}
    repaired = repair_replicas(group_of(world))
    assert list(repaired.brought) == ["s2"] and repaired.failed == {}
    assert told(world, deep=True) == [] and head_files(world, "s2")[b"b"] == FILES[b"b"]
    assert repair_replicas(group_of(world)).brought == {}


def test_bytes_that_rotted_are_brought_back_once_somebody_has_read_them(world: Any, tmp_path: Path) -> None:
    pack = packs(tmp_path / "s3")[-1]
    data = bytearray(pack.read_bytes())
    data[len(data) // 3] ^= 1
    pack.write_bytes(data)
    assert {server for server, _, _ in told(world, deep=True)} == {"s3"}
    repaired = repair_replicas(group_of(world))
    assert list(repaired.brought) == ["s3"] and repaired.failed == {}
    assert told(world, deep=True) == []


def test_two_that_lost_different_things_help_each_other_and_what_nobody_has_is_said(world: Any, tmp_path: Path) -> None:
    world.faulty["s1"].down = True
    lose(world, packs(tmp_path / "s2")[0], packs(tmp_path / "s3")[-1])
    repaired = repair_replicas(group_of(world))
    assert set(repaired.brought) == {"s2", "s3"} and set(repaired.failed) == {"s1"}
    lose(world, *(packs(tmp_path / name)[-1] for name in ("s2", "s3")))
    repaired = repair_replicas(group_of(world))
    assert set(repaired.failed) == {"s1", "s2", "s3"} and repaired.brought == {}
    world.faulty["s1"].down = False
    assert repair_replicas(group_of(world)).failed == {}
    assert told(world, deep=True) == []
