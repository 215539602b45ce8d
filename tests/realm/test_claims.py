"""Two standbys that were promoted at once: the servers settle by themselves which of them writes."""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from realm_world import RealmWorld

from dalsegno.actions import standby
from dalsegno.actions.follow import promote_standby
from dalsegno.actions.standby import Upkeep
from dalsegno.replicas.replica_sets import settle_claims
from dalsegno.replicas.servers import Servers
from dalsegno.volumes.resolve import merge_heads
from dalsegno.volumes.state import STANDBY, WRITER, ReplicaSet
from dalsegno.world.workers import Workers
from kit import REALM

SET = ReplicaSet(version=2, writers=["s1"], standbys=["s2", "s3"])
SETTLED = SET.version + 2
"""The version after two claims of one version."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealmWorld]:
    """A volume that s1 writes, and s2 and s3 follow."""
    monkeypatch.setattr(standby, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(standby, "WATCH_SECONDS", 0.01)
    made = RealmWorld(tmp_path, ["s1", "s2", "s3"])
    try:
        made.create("s1", "s2", "s3")
        made.write("c1", a="first")
        with made.client() as house:
            house.realm_volumes.group("home").set_replica_set(SET)
        yield made
    finally:
        made.close()


def servers_of(world: RealmWorld, here: str) -> Servers:
    return Servers(
        world.desk,
        REALM,
        connect=lambda server: world.sites[server.name],
        owner=here,
        here=here,
        local=world.keepers[here],
    )


def keep_up(world: RealmWorld, name: str) -> None:
    """Let a server look after its volume, until it has followed once or is the writer that all agree on."""
    followed: list[object] = []
    looks: list[int] = []

    def ended() -> bool:
        looks.append(1)
        assert len(looks) < 2000, f"{name} waits for ever"
        state = world.keepers[name].state("home")
        agreed = state.replicas is not None and state.replicas.version == SETTLED
        return bool(followed) or (agreed and state.role == WRITER)

    with Workers(1) as crew, servers_of(world, name) as servers:
        Upkeep(
            servers,
            world.keepers[name],
            merge=merge_heads,
            crew=crew,
            ended=ended,
            report=print,
            stepped=lambda volume, step: followed.append(step),
        ).run()


def sets(world: RealmWorld) -> list[ReplicaSet | None]:
    return [keeper.state("home").replicas for keeper in world.keepers.values()]


@pytest.mark.parametrize("first", ["s2", "s3"])
def test_of_two_that_were_promoted_at_once_one_stays_the_writer(world: RealmWorld, first: str) -> None:
    world.desk.down = True
    names = {"s2", "s3"}
    for name in names:
        world.down("s1", *(names - {name}))
        with servers_of(world, name) as servers:
            promote_standby(servers, "home", merge=merge_heads, name=name)
        assert world.keepers[name].state("home").role == WRITER
    versions = {replicas.version for replicas in sets(world) if replicas is not None}
    assert versions == {2, 3}
    # Both take commits.
    for name, client in (("s2", "c2"), ("s3", "c3")):
        world.down(*({"s1", "s2", "s3"} - {name}))
        world.write(client, a="first", **{f"to-{name}": name})
    # Everybody is back.
    world.down()
    world.desk.down = False
    for name in (first, *(names - {first}), "s1", first):
        keep_up(world, name)
    (agreed,) = {msgspec.json.encode(replicas) for replicas in sets(world)}
    replicas = msgspec.json.decode(agreed, type=ReplicaSet)
    assert replicas.version == SETTLED and len(replicas.writers) == 1
    roles = [keeper.state("home").role for keeper in world.keepers.values()]
    assert sorted(roles) == [STANDBY, STANDBY, WRITER]
    for name in ("s1", *names):
        keep_up(world, name)
    assert len(world.heads()) == 1
    assert {world.read("c4", f"home:/to-{name}") for name in names} == names
    # The directory hears of it with the next change.
    with servers_of(world, "s1") as servers:
        promote_standby(servers, "home", merge=merge_heads, name="s1")
    placed = world.directory.view(now_ns=1).placed("home")
    assert placed is not None and placed.replicas.version == SETTLED + 1 and placed.replicas.writers == ["s1"]


def test_whoever_sees_the_same_claims_says_the_same() -> None:
    claims = [
        SET,
        msgspec.structs.replace(SET, version=3, writers=["s2"], standbys=["s1", "s3"]),
        msgspec.structs.replace(SET, version=3, writers=["s3"], standbys=["s1", "s2"]),
    ]
    said = {msgspec.json.encode(settle_claims(each)) for each in permutations(claims)}
    (only,) = [msgspec.json.decode(each, type=ReplicaSet) for each in said]
    assert only.version == 4 and only.writers in (["s2"], ["s3"])
    assert settle_claims([*claims, only]) == only
    assert settle_claims([]) is None


def test_sets_that_say_the_same_are_no_claims() -> None:
    newest = ReplicaSet(version=5, writers=["s2"], clones={"s1": "a", "s2": "b"})
    same = [
        newest,
        msgspec.structs.replace(newest, clones={"s2": "b", "s1": "a"}),
        msgspec.structs.replace(newest, moved_to="s2"),
        SET,
    ]
    assert all(settle_claims(each) == newest for each in permutations(same))
