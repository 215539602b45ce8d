"""What a check of replicas finds, and that it changes nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME, merge_flat
from site_worlds import WORLDS, KeeperWorld, clone, commit, found

from dalsegno.replicas.check import AWAY, CLONE, FROZEN, HEAD, OBJECT, REPLICAS, Checked, check_replicas
from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.group import Group
from dalsegno.replicas.peers import Peers
from dalsegno.replicas.transfer import copy
from dalsegno.replicas.writers import Writers
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import ReplicaSet
from kit import REALM

NAMES = ["s1", "s2", "s3"]
FILES = {b"a": b"1" * 3000, b"b": b"2" * 3000}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    world = WORLDS[request.param](tmp_path)
    for name in NAMES:
        world.add(name)
    found(world, ReplicaSet(version=1, writers=NAMES))
    yield world


def group_of(world: Any) -> Group:
    return Group(
        Writers(
            Peers(
                volume=VOLUME,
                sites=world.faulty,
                context=ReplicaContext(
                    realm=REALM,
                    owner="check",
                    merge=merge_flat,
                    clock=world.clock,
                    ticks=world.clock,
                    pause=world.clock.pause,
                ),
            )
        )
    )


def check(world: Any, *, deep: bool = False) -> Checked:
    before = {name: site.state(VOLUME) for name, site in world.sites.items()}
    checked = check_replicas(group_of(world), deep=deep)
    assert {name: site.state(VOLUME) for name, site in world.sites.items()} == before
    return checked


def told(world: Any, *, deep: bool = False) -> list[tuple[str, str, str]]:
    return [(each.server, each.about, each.text) for each in check(world, deep=deep).differences]


def test_replicas_that_are_alike_differ_in_nothing(world: Any) -> None:
    commit(world, NAMES, FILES)
    clone(world, NAMES, "monday")
    commit(world, NAMES, {b"a": b"3" * 3000})
    assert told(world) == []
    checked = check(world, deep=True)
    assert checked.differences == () and checked.objects >= 3 * 6 and checked.payload_bytes > 3 * 9000


def test_who_is_behind_and_who_diverged_is_told(world: Any) -> None:
    commit(world, NAMES, FILES)
    old = world.sites["s3"].state(VOLUME).head
    new = commit(world, ["s1", "s2"], {b"a": b"3" * 3000})
    assert told(world) == [("s3", HEAD, f"is at {hex_short(old)} and is behind {hex_short(new)}")]
    other = commit(world, "s3", {b"a": b"4" * 3000})
    assert told(world) == [
        ("s1", HEAD, f"is at {hex_short(new)} and diverged from {hex_short(other)}"),
        ("s2", HEAD, f"is at {hex_short(new)} and diverged from {hex_short(other)}"),
        ("s3", HEAD, f"is at {hex_short(other)} and diverged from {hex_short(new)}"),
    ]


def test_clones_that_differ_silently_elsewhere_are_told(world: Any) -> None:
    """Replicas' clones differ where a conflict flag was cleared, and nothing says so (facts of Coda)."""
    commit(world, NAMES, FILES)
    made = clone(world, ["s1", "s2"], "monday")
    world.sites["s3"].clone(VOLUME, "monday", msgspec.structs.replace(made, created_ns=made.created_ns + 1))
    world.sites["s1"].clone(VOLUME, "tuesday", made)
    found = told(world)
    assert {(server, about) for server, about, _ in found} == {("s2", CLONE), ("s3", CLONE)}
    assert any(server == "s3" and "elsewhere" in text for server, _, text in found)
    assert sum("lacks @tuesday" in text for _, _, text in found) == 2
    group_of(world).catch_up()
    assert told(world) == []


def test_an_uncloned_clone_that_is_still_there_is_told(world: Any) -> None:
    commit(world, NAMES, FILES)
    made = clone(world, NAMES, "monday")
    world.sites["s1"].unclone(VOLUME, "monday", made)
    assert [(server, about) for server, about, _ in told(world)] == [("s2", CLONE), ("s3", CLONE)]


def test_a_server_without_answer_and_one_without_the_volume_are_told(world: Any) -> None:
    commit(world, NAMES, FILES)
    world.faulty["s2"].down = True
    assert [each.about for each in check_replicas(group_of(world)).differences] == [AWAY]
    world.faulty["s2"].down = False
    world.sites["s3"].remove(VOLUME)
    differences = check_replicas(group_of(world)).differences
    assert [(each.server, each.about) for each in differences] == [("s3", AWAY)]
    assert "no such volume" in differences[0].text


def test_an_older_replica_set_and_a_lease_are_told(world: Any) -> None:
    commit(world, NAMES, FILES)
    world.sites["s1"].arrange(VOLUME, ReplicaSet(version=2, writers=NAMES, rule="majority"))
    world.sites["s2"].freeze(VOLUME, owner="backup on host7")
    found = told(world)
    assert {(server, about) for server, about, _ in found} == {("s2", REPLICAS), ("s3", REPLICAS), ("s2", FROZEN)}
    assert any("backup on host7" in text for _, _, text in found)


def test_a_server_that_keeps_some_clones_lacks_none_of_the_others(world: Any) -> None:
    commit(world, NAMES, FILES)
    clone(world, ["s1", "s2"], "monday")
    clone(world, NAMES, "daily-1")
    replicas = ReplicaSet(version=2, writers=NAMES, clones={"s3": "daily-*@last7"})
    for site in world.sites.values():
        site.arrange(VOLUME, replicas)
    assert told(world, deep=True) == []


def test_an_object_that_is_gone_from_one_server_is_told(tmp_path: Path) -> None:
    world = WORLDS["memory"](tmp_path)
    for name in NAMES:
        world.add(name)
    found(world, ReplicaSet(version=1, writers=NAMES))
    commit(world, NAMES, FILES)
    store = world.sites["s2"].store
    lost = next(identity for identity, (kind, _) in store.objects.items() if kind == 1)
    del store.objects[lost]
    assert told(world) == []
    found_deep = told(world, deep=True)
    assert {(server, about) for server, about, _ in found_deep} == {("s2", OBJECT)}
    assert any(hex_short(lost) in text for _, _, text in found_deep)


def test_damage_on_one_servers_disk_is_told(tmp_path: Path) -> None:
    world = KeeperWorld(tmp_path)
    for name in NAMES:
        world.add(name)
    found(world, ReplicaSet(version=1, writers=NAMES))
    commit(world, "s1", FILES)
    head = world.sites["s1"].state(VOLUME).head
    for name in ("s2", "s3"):
        copy(world.sites["s1"], world.sites[name], VOLUME, [head])
        world.sites[name].advance(VOLUME, head)
    assert told(world, deep=True) == []
    pack = max((tmp_path / "s2" / "packs").rglob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 3] ^= 1
    pack.write_bytes(data)
    assert told(world) == []
    found_deep = told(world, deep=True)
    assert found_deep and {(server, about) for server, about, _ in found_deep} == {("s2", OBJECT)}


def test_a_clone_of_what_is_not_whole_is_told(tmp_path: Path) -> None:
    world = WORLDS["memory"](tmp_path)
    for name in NAMES:
        world.add(name)
    found(world, ReplicaSet(version=1, writers=NAMES))
    commit(world, NAMES, FILES)
    bad = Clone(revision=b"\x07" * 32, created_ns=1)
    for site in world.sites.values():
        site.volumes[VOLUME] = msgspec.structs.replace(site.state(VOLUME), clones={"monday": bad})
    assert {(server, about) for server, about, _ in told(world, deep=True)} == {(name, OBJECT) for name in NAMES}
