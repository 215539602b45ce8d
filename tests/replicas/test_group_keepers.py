"""A Group over real Keepers: the same promises where there are packs, indexes, leases and collections."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME, ClientDied, FaultySite, empty_volume, merge_flat
from site_worlds import KeeperWorld, head_files

from dalsegno.formats.objects import KIND_DIRECTORY, KIND_REVISION
from dalsegno.pool.adopt import Standing
from dalsegno.pool.collect import collect
from dalsegno.replicas.check import check_replicas
from dalsegno.replicas.context import ReplicaContext, side_by_side
from dalsegno.replicas.group import Group
from dalsegno.replicas.peers import Peers
from dalsegno.replicas.transfer import copy
from dalsegno.replicas.writers import Writers
from dalsegno.terms.errors import DalError, Refused, Unavailable
from dalsegno.terms.events import silent
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.state import ANY
from dalsegno.world.workers import Workers
from kit import REALM

NAMES = ("s1", "s2", "s3")


class Client:
    """A client with a pool of its own, where its commits are made."""

    def __init__(self, world: "World", name: str, **how: Any) -> None:
        self.world = world
        self.name = name
        self.chance = random.Random(name)
        self.local = world.keepers.add(f"cache-{name}").site
        self.links = {each: FaultySite(world.sites[each], self.chance) for each in NAMES}
        self.local.create(empty_volume([self.local.name]))
        self.how = how
        self.group = self.new_group()

    def new_group(self) -> Group:
        clock = self.world.keepers.clock
        return Group(
            Writers(
                Peers(
                    volume=VOLUME,
                    sites=self.links,
                    context=ReplicaContext(
                        realm=REALM,
                        owner=self.name,
                        merge=merge_flat,
                        clock=clock,
                        ticks=clock,
                        pause=clock.pause,
                        randomness=self.chance.random,
                        **self.how,
                    ),
                ),
                local=self.local,
            )
        )

    def mirror(self, head: bytes) -> None:
        """See what the servers have."""
        for name in NAMES:
            if self.world.sites[name].have(VOLUME, head) == b"\1":
                copy(self.world.sites[name], self.local, VOLUME, [head])
                break
        state = self.local.state(VOLUME)
        self.local.volumes.update(state.id, lambda current: msgspec.structs.replace(current, head=head))

    def add(self, files: Mapping[bytes, bytes]) -> bytes:
        """Commit files besides those that there are; nothing is sent."""
        head = self.local.state(VOLUME).head
        old = head_files(self.world.keepers, self.local.name) if head else {}
        return self.commit({**old, **files})

    def commit(self, files: Mapping[bytes, bytes]) -> bytes:
        head = self.local.state(VOLUME).head
        clock = self.world.keepers.clock
        if head:
            clock.now_ns = max(clock.now_ns, read_revision(self.local.pool, head).created_ns + 1)
        revision = self.world.keepers.store(self.local.name, files, parents=[head] if head else [])
        state = self.local.state(VOLUME)
        self.local.volumes.update(state.id, lambda current: msgspec.structs.replace(current, head=revision))
        return revision

    def push(self) -> Any:
        pushed = self.group.push(self.local.state(VOLUME).head)
        if pushed.head != pushed.revision:
            self.mirror(pushed.head)
        return pushed


class World:
    def __init__(self, path: Path, *, rule: str = ANY) -> None:
        self.keepers = KeeperWorld(path)
        for name in NAMES:
            self.keepers.add(name)
        self.sites = {name: self.keepers.sites[name] for name in NAMES}
        for site in self.sites.values():
            site.create(empty_volume(NAMES, rule=rule))

    def head(self) -> bytes:
        (head,) = {site.state(VOLUME).head for site in self.sites.values()}
        return head

    def files(self) -> dict[bytes, bytes]:
        found = [head_files(self.keepers, name) for name in NAMES]
        assert found[0] == found[1] == found[2]
        return found[0]

    def close(self) -> None:
        for site in self.keepers.sites.values():
            site.pool.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def collect_all(site: Any) -> None:
    """Collect a server's pool as `dal gc` does, without grace."""

    def live() -> Iterator[bytes]:
        seen: dict[bytes, None] = {}

        def visit(_: int, identity: bytes) -> bool:
            return identity not in seen and seen.setdefault(identity) is None

        tops = [(KIND_REVISION, top) for top in site.volumes.revisions_kept(now_ns=site._clock())]
        tables = [(KIND_DIRECTORY, root) for root in site.volumes.tables_kept()]
        visit_reachable(site.pool, [*tops, *tables], visit)
        for revision in site.volumes.history_kept():
            if Standing(site.pool).is_whole(revision):
                visit_reachable(site.pool, [(KIND_REVISION, revision)], visit)
            seen[revision] = None
        yield from seen

    collect(site.pool, live, grace_seconds=0, now_ns=site._clock(), dry_run=False, report=silent)


def whole(client: Client) -> None:
    for link in client.links.values():
        link.down = False
    client.group = client.new_group()


def test_commits_partitions_and_clones_end_alike_everywhere(world: World) -> None:
    one, other = Client(world, "c1"), Client(world, "c2")
    chunk = random.Random(1).randbytes(100_000)
    one.add({b"a": chunk, b"clash": b"before"})
    assert one.push().acknowledged == NAMES
    one.group.freeze_and_clone("monday")
    other.mirror(world.head())
    one.links["s3"].down = other.links["s1"].down = other.links["s2"].down = True
    left = one.add({b"b": chunk[:70_000], b"clash": b"left" * 100})
    one.push()
    one.group.freeze_and_clone("tuesday")
    right = other.add({b"c": chunk[:60_000], b"clash": b"right" * 100})
    other.push()
    other.group.freeze_and_clone("tuesday")
    whole(one)
    caught = one.group.catch_up()
    assert caught.merged == (world.head(),) and len(caught.renamed) == 1
    files = world.files()
    assert {b"left" * 100, b"right" * 100} <= set(files.values()) and {b"a", b"b", b"c"} <= files.keys()
    for site in world.sites.values():
        assert is_ancestor(site.pool, left, world.head()) and is_ancestor(site.pool, right, world.head())
        assert site.state(VOLUME).common == world.head() and len(site.state(VOLUME).clones) == 3
    assert check_replicas(one.group, deep=True).differences == ()


def test_what_was_caught_up_survives_a_collection_on_every_server(world: World) -> None:
    client = Client(world, "c1")
    for number in range(5):
        client.links["s2"].down = number % 2 == 1
        client.group = client.new_group()
        client.add({f"f{number}".encode(): random.Random(number).randbytes(20_000)})
        client.push()
        if number == 2:
            client.group.freeze_and_clone("middle")
    whole(client)
    client.group.catch_up()
    for site in world.sites.values():
        collect_all(site)
    assert check_replicas(client.group, deep=True).differences == ()
    assert len(world.files()) == 5


def test_a_server_that_lost_a_pack_acknowledges_nothing_on_it_and_gets_it_again(world: World) -> None:
    """The kind: what a server says it has, over a pool that has lost what that rests on."""
    client = Client(world, "c1")
    client.add({b"a": random.Random(1).randbytes(20_000), b"b": random.Random(2).randbytes(20_000)})
    client.push()
    client.add({b"c": random.Random(3).randbytes(20_000)})
    client.push()
    pool = world.sites["s2"].pool
    (lost,) = [path for path in (pool.backend.directory / "packs").rglob("*.pack") if path.stat().st_size > 30_000]
    lost.unlink()
    pool.close()
    world.keepers.clock.pause(10)
    client.add({b"d": random.Random(4).randbytes(20_000)})
    assert client.push().acknowledged == ("s1", "s3")
    client.group.catch_up()
    assert len(world.files()) == 4
    assert check_replicas(client.group, deep=True).differences == ()


def test_side_by_side_is_the_same_as_in_turn(world: World) -> None:
    with Workers(3) as crew:
        client = Client(world, "c1", parallel=side_by_side(crew))
        client.add({b"a": random.Random(1).randbytes(3_000_000)})
        assert client.push().acknowledged == NAMES
        client.links["s2"].down = True
        client.add({b"b": random.Random(2).randbytes(3_000_000)})
        assert set(client.push().missing) == {"s2"}
        whole(client)
        assert set(client.group.catch_up().brought) == {"s2"}
        client.group.freeze_and_clone("monday")
        assert check_replicas(client.group, deep=True).differences == ()


def test_a_server_that_came_from_an_old_copy_of_its_disk_brings_no_deleted_files_back(
    world: World, tmp_path: Path
) -> None:
    client = Client(world, "c1")
    client.add({b"a": b"1" * 3000, b"secret": b"2" * 3000})
    client.push()
    client.group.catch_up()
    old = world.sites["s3"].state(VOLUME)
    for number in range(3):
        client.commit({b"a": str(number).encode() * 3000})
        client.push()
    client.group.catch_up()
    for site in (*world.sites.values(), client.local):
        collect_all(site)
    state = world.sites["s3"].state(VOLUME)
    copied = world.keepers.store("s3", {b"a": b"1" * 3000, b"secret": b"2" * 3000}, parents=[b"\7" * 32])
    world.sites["s3"].volumes.update(
        state.id, lambda current: msgspec.structs.replace(current, head=copied, common=old.common)
    )
    client.group = client.new_group()
    caught = client.group.catch_up()
    assert caught.reached == ("s1", "s2") and isinstance(caught.missing["s3"], Refused)
    assert head_files(world.keepers, "s1") == {b"a": b"2" * 3000}
    client.commit({b"a": b"9" * 3000})
    assert client.push().acknowledged == ("s1", "s2")
    with pytest.raises(Unavailable, match="no past in common"):
        client.group.remove_replica("s3")
    client.group.remove_replica("s3", force=True)
    client.group.add_replica("s3")
    assert world.files() == {b"a": b"9" * 3000}


def test_one_server_with_a_full_disk_does_not_hold_up_the_others(world: World) -> None:
    client = Client(world, "c1")
    client.add({b"a": b"1" * 3000})
    client.push()

    def full() -> None:
        raise Unavailable("s2: no space left on the disk")

    client.links["s2"].fail = {"commit": full, "upload": full, "adopt": full}
    client.add({b"b": b"2" * 3000})
    assert client.push().acknowledged == ("s1", "s3")
    assert client.group.freeze_and_clone("monday").cloned == ("s1", "s3")
    client.links["s2"].fail = {}
    client.group = client.new_group()
    client.group.catch_up()
    assert check_replicas(client.group, deep=True).differences == ()


@pytest.mark.parametrize("seed", range(12))
def test_lives_over_keepers(world: World, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    clients = [Client(world, f"c{number}") for number in range(2)]
    faults = chance.choice((0.0, 0.03, 0.1))
    for client in clients:
        for link in client.links.values():
            link._chance, link.faults, link.deaths = chance, faults, 0.005
    acknowledged = []
    for number in range(12):
        client = chance.choice(clients)
        world.keepers.clock.pause(chance.expovariate(1 / 5))
        for link in client.links.values():
            link.down = chance.random() < 0.25
        try:
            doing = chance.random()
            if doing < 0.7:
                revision = client.add({f"f{number}".encode(): chance.randbytes(chance.choice((10, 3000)))})
                client.push()
                acknowledged.append(revision)
            elif doing < 0.85:
                client.group.freeze_and_clone(f"clone{number}")
            else:
                client.group.catch_up()
        except ClientDied:
            client.group = client.new_group()
        except DalError:
            pass
        if chance.random() < 0.2:
            chance.choice(list(client.links.values())).do_late()
    for client in clients:
        for link in client.links.values():
            link.down, link.faults, link.deaths = False, 0.0, 0.0
    world.keepers.clock.pause(60)
    group = clients[0].new_group()
    assert not group.catch_up().missing
    if not world.head():
        return
    for revision in acknowledged:
        assert is_ancestor(world.sites["s1"].pool, revision, world.head())
    for site in world.sites.values():
        assert site.state(VOLUME).clones == world.sites["s1"].state(VOLUME).clones
    world.keepers.clock.pause(60)
    assert check_replicas(group, deep=True).differences == ()
