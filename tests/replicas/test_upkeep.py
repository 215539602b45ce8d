"""Upkeep: what a server does by itself for its volumes, when it starts and afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME, merge_flat
from site_worlds import WORLDS, commit, found, head_files, peers

from dalsegno.actions.standby import Upkeep
from dalsegno.replicas.follow import Step
from dalsegno.replicas.release import release
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import Refused
from dalsegno.terms.events import Note
from dalsegno.volumes.state import STANDBY, ReplicaSet
from dalsegno.world.workers import Workers
from kit import REALM

SET = ReplicaSet(version=1, writers=["s1"], standbys=["s2"], readers=["ro1"])


class FewServers(Servers):
    """The realm as one server sees it."""

    def __init__(self, world: Any, here: str) -> None:
        self.realm = REALM
        self.owner = here
        self.here = here
        self.known = SET
        self._world = world

    def site(self, name: str) -> Any:
        return self._world.sites[name] if name == self.here else self._world.faulty[name]

    def replica_set(self, volume: str) -> ReplicaSet:
        return self.known

    def pause(self, seconds: float) -> None:
        pass


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Any]:
    made = WORLDS["memory"](tmp_path)
    for name in ("s1", "s2", "ro1"):
        made.add(name)
    found(made, SET)
    commit(made, "s1", {b"a": b"1" * 300})
    yield made


def keep_up(world: Any, name: str, *, steps: int, known: ReplicaSet = SET) -> tuple[list[Step], list[Note]]:
    """Look after a server's volumes until so many steps were made, or one note was told."""
    servers = FewServers(world, name)
    servers.known = known
    done: list[Step] = []
    told: list[Any] = []
    with Workers(2) as crew:
        upkeep = Upkeep(
            servers,  # type: ignore[arg-type]
            world.sites[name],
            merge=merge_flat,
            crew=crew,
            ended=lambda: len(done) >= steps or bool(told),
            report=told.append,
            stepped=lambda volume, step: done.append(step),
        )
        upkeep.run()
    return done, told


def test_standby_follows(world: Any) -> None:
    world.sites["s2"].create(
        msgspec.structs.replace(world.sites["s1"].state(VOLUME), role=STANDBY, head=b"", clones={})
    )
    done, told = keep_up(world, "s2", steps=1)
    assert done[0].news and not told
    assert head_files(world, "s2") == head_files(world, "s1")


def test_old_writer_finds_out_and_brings_what_only_it_has(world: Any) -> None:
    world.sites["s2"].create(
        msgspec.structs.replace(world.sites["s1"].state(VOLUME), role=STANDBY, head=b"", clones={})
    )
    keep_up(world, "s2", steps=1)
    commit(world, "s1", {b"a": b"1" * 300, b"mine": b"m" * 300})
    newer = msgspec.structs.replace(SET, version=2, writers=["s2"], standbys=["s1"])
    world.sites["s2"].arrange(VOLUME, newer)
    commit(world, "s2", {b"a": b"1" * 300, b"theirs": b"t" * 300})
    done, _ = keep_up(world, "s1", steps=1, known=newer)
    assert world.sites["s1"].state(VOLUME).role == STANDBY and done
    for name in ("s1", "s2"):
        assert set(head_files(world, name)) == {b"a", b"mine", b"theirs"}


def test_read_only_site_pulls_what_it_missed(world: Any) -> None:
    world.faulty["ro1"].down = True
    world.sites["ro1"].create(
        msgspec.structs.replace(world.sites["s1"].state(VOLUME), role="reader", head=b"", clones={})
    )
    head = world.sites["s1"].state(VOLUME).head
    release(
        peers(world, ["s1", "ro1"], SET),
        head,
        clone="x",
        to=["ro1"],
    )
    assert not world.sites["ro1"].state(VOLUME).head
    servers = FewServers(world, "ro1")
    with Workers(1) as crew:
        upkeep = Upkeep(
            servers,  # type: ignore[arg-type]
            world.sites["ro1"],
            merge=merge_flat,
            crew=crew,
            ended=lambda: bool(world.sites["ro1"].state(VOLUME).head),
            report=print,
        )
        upkeep.run()
    assert head_files(world, "ro1") == head_files(world, "s1")


def test_what_cannot_be_done_is_told_and_not_tried_all_the_time(world: Any) -> None:
    world.sites["s2"].create(
        msgspec.structs.replace(world.sites["s1"].state(VOLUME), role=STANDBY, head=b"", clones={})
    )
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise Refused("never")

    world.faulty["s1"].fail["watch"] = refuse
    told: list[Any] = []
    looks = []

    def ended() -> bool:
        looks.append(1)
        return bool(told) and len(looks) > 500

    servers = FewServers(world, "s2")
    with Workers(1) as crew:
        Upkeep(
            servers,  # type: ignore[arg-type]
            world.sites["s2"],
            merge=merge_flat,
            crew=crew,
            ended=ended,
            report=told.append,
        ).run()
    assert len(calls) == len(told) <= 3 and told[0].text == "never"
