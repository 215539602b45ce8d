"""One replicated volume through the servers that answer: commits, catching up, clones, and who dies in between."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_site import (
    VOLUME,
    ClientDied,
    Clock,
    FaultySite,
    MemorySite,
    empty_volume,
    files_of,
    merge_flat,
    put_revision,
)

from dalsegno.formats import objects
from dalsegno.replicas.clones import UNCLONED_KEPT_MAX
from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.contract import LEASE_SECONDS
from dalsegno.replicas.group import Group
from dalsegno.replicas.peers import Peers
from dalsegno.replicas.writers import Writers
from dalsegno.terms.errors import AlreadyThere, Conflict, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import ANY, MAJORITY, WRITER, ReplicaSet
from kit import REALM

NAMES = ("s1", "s2", "s3")


class Client:
    """A client: its own commits, its network to each server, and its Group."""

    def __init__(
        self, name: str, servers: Mapping[str, MemorySite], clock: Clock, replicas: ReplicaSet | None = None
    ) -> None:
        self.name = name
        self.chance = random.Random(name)
        self.local = MemorySite(f"cache of {name}", clock)
        self.links = {each: FaultySite(site, self.chance) for each, site in servers.items()}
        self.clock = clock
        self.replicas = replicas
        self.notes: list[Any] = []
        self.local.create(empty_volume(list(servers)))
        self.group = self.new_group()

    def new_group(self) -> Group:
        return Group(
            Writers(
                Peers(
                    volume=VOLUME,
                    sites=self.links,
                    context=ReplicaContext(
                        realm=REALM,
                        owner=self.name,
                        merge=merge_flat,
                        clock=self.clock,
                        ticks=self.clock,
                        pause=self.clock.pause,
                        randomness=self.chance.random,
                        report=self.notes.append,
                    ),
                    replicas=self.replicas,
                ),
                local=self.local,
            )
        )

    def mirror(self, head: bytes) -> None:
        """See what the servers have: the objects too, for a dict cannot ask elsewhere."""
        for link in self.links.values():
            if not link.down:
                self.local.store.objects.update(link.site.store.objects)
        state = self.local.state(VOLUME)
        self.local.volumes[VOLUME] = msgspec.structs.replace(state, head=head)

    def commit(self, files: Mapping[bytes, bytes]) -> bytes:
        """Make a revision on top of this client's head, sent nowhere yet."""
        head = self.local.state(VOLUME).head
        now = self.clock()
        parents = [head] if head else []
        for parent in parents:
            now = max(now, objects.decode_revision(self.local.store.get(ObjectId(parent))).created_ns + 1)
        revision = put_revision(self.local, files, parents=parents, created_ns=now)
        self.local.volumes[VOLUME] = msgspec.structs.replace(self.local.state(VOLUME), head=revision)
        return revision

    def add(self, **files: bytes) -> bytes:
        """Commit files besides those that there are."""
        head = self.local.state(VOLUME).head
        old = files_of(self.local.store, head) if head else {}
        return self.commit({**old, **{name.encode(): data for name, data in files.items()}})

    def push(self) -> Any:
        pushed = self.group.push(self.local.state(VOLUME).head)
        self.mirror(pushed.head)
        return pushed


class Cell:
    """Servers with a volume on each, and a clock."""

    def __init__(self, names: Sequence[str] = NAMES, *, rule: str = ANY, skews: Sequence[float] = ()) -> None:
        self.clock = Clock()
        hours = [*skews, *([0.0] * len(names))]
        self.servers = {
            name: MemorySite(name, self.clock.skewed(skew)) for name, skew in zip(names, hours, strict=False)
        }
        for site in self.servers.values():
            site.create(empty_volume(names, rule=rule))

    def client(self, name: str, replicas: ReplicaSet | None = None) -> Client:
        return Client(name, self.servers, self.clock, replicas)

    def heads(self) -> set[bytes]:
        return {site.state(VOLUME).head for site in self.servers.values()}

    def head(self) -> bytes:
        (head,) = self.heads()
        return head

    def files(self) -> dict[bytes, bytes]:
        head = self.head()
        found = [files_of(site.store, head) for site in self.servers.values()]
        assert all(site.is_whole(objects.KIND_REVISION, head) for site in self.servers.values())
        assert all(files == found[0] for files in found)
        return found[0]

    def clones(self) -> dict[str, Clone]:
        found = [site.state(VOLUME).clones for site in self.servers.values()]
        assert all(clones == found[0] for clones in found), found
        for site in self.servers.values():
            for clone in found[0].values():
                assert site.is_whole(objects.KIND_REVISION, clone.revision)
        return found[0]


@pytest.fixture
def cell() -> Cell:
    return Cell()


def calls(cell: Cell) -> dict[str, list[str]]:
    found = {name: list(site.calls) for name, site in cell.servers.items()}
    for site in cell.servers.values():
        site.calls.clear()
    return found


# Commits


def test_a_commit_goes_to_every_writer(cell: Cell) -> None:
    client = cell.client("c1")
    revision = client.add(a=b"one")
    pushed = client.push()
    assert pushed.acknowledged == NAMES and not pushed.missing and pushed.head == revision
    assert cell.head() == revision and cell.files() == {b"a": b"one"}


def test_a_small_commit_is_one_call_for_each_writer(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    calls(cell)
    client.add(b=bytes(1000))
    client.push()
    assert all(made == ["upload", "adopt", "advance", "agree"] for made in calls(cell).values())  # what `commit` does
    assert all(site.state(VOLUME).common for site in cell.servers.values())


def test_a_commit_goes_on_while_a_server_is_away_which_is_caught_up_by_who_comes_next(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s3"].down = True
    client.add(b=b"two")
    pushed = client.push()
    assert pushed.acknowledged == ("s1", "s2") and set(pushed.missing) == {"s3"}
    other = cell.client("c2")
    caught = other.group.catch_up()
    assert set(caught.brought) == {"s3"} and not caught.missing and not caught.merged
    assert cell.files() == {b"a": b"one", b"b": b"two"}


def test_a_server_that_is_away_is_not_asked_at_every_commit(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    asked = []
    client.links["s3"].down = True
    client.add(b=b"two")
    client.push()
    client.links["s3"].down = False
    client.links["s3"].fail = {"commit": lambda: asked.append("commit"), "state": lambda: asked.append("state")}
    client.add(c=b"three")
    pushed = client.push()
    assert not asked and set(pushed.missing) == {"s3"}
    client.clock.pause(60)
    client.add(d=b"four")
    client.links["s3"].fail = {}
    assert client.push().acknowledged == NAMES, "what little it lacked went along"
    assert len(cell.files()) == 4


def test_a_server_that_lacks_much_does_not_hold_up_a_commit(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s3"].down = True
    for number in range(5):
        client.add(**{f"big{number}": random.Random(number).randbytes(8 << 20)})
        client.push()
    client.links["s3"].down = False
    client.clock.pause(60)
    client.add(b=b"two")
    pushed = client.push()
    assert pushed.acknowledged == ("s1", "s2") and pushed.behind == ("s3",)
    assert client.group.catch_up().brought["s3"].bytes_crossed > 40 << 20
    assert len(cell.files()) == 7


def test_catching_up_sends_only_what_is_lacking(cell: Cell) -> None:
    client = cell.client("c1")
    client.commit({b"big": random.Random(1).randbytes(300_000), b"small": b"1" * 200})
    client.push()
    client.links["s3"].down = True
    client.add(more=random.Random(2).randbytes(20_000))
    client.push()
    client.links["s3"].down = False
    brought = client.group.catch_up().brought["s3"]
    assert brought.objects == 3 and 20_000 < brought.bytes_crossed < 25_000


def test_with_a_majority_rule_a_minority_acknowledges_nothing() -> None:
    cell = Cell(rule=MAJORITY)
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s2"].down = client.links["s3"].down = True
    revision = client.add(b=b"two")
    with pytest.raises(Unavailable, match="1 of 3 writers"):
        client.push()
    client.links["s2"].down = False
    assert client.push().acknowledged == ("s1", "s2")
    client.links["s3"].down = False
    client.group.catch_up()
    assert cell.head() == revision


def test_who_is_away_is_asked_once_more_before_a_commit_is_given_up_and_not_for_ever() -> None:
    cell = Cell(rule=MAJORITY)
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    asked: list[str] = []
    for name in ("s2", "s3"):
        client.links[name].fail = {
            "commit": lambda: _unavailable(),
            "state": lambda: asked.append("state") or _unavailable(),
        }
    client.add(b=b"two")
    for _ in range(2):
        with pytest.raises(Unavailable, match="1 of 3 writers"):
            client.push()
    assert 2 <= len(asked) <= 8
    client.links["s2"].fail = client.links["s3"].fail = {}
    assert client.push().acknowledged == NAMES, "asked at once, however short ago it was away"


def test_a_retry_after_a_lost_answer_makes_one_commit(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    revision = client.add(b=b"two")

    class Lost:
        def __init__(self, link: FaultySite) -> None:
            self.link = link

        def __call__(self) -> None:
            self.link.fail = {}
            spool = client.group._pusher.increment(revision, cell.servers["s1"].state(VOLUME).head)
            assert spool is not None
            self.link.site.commit(VOLUME, revision, spool.pack_id(), spool.pieces())
            raise Unavailable("answer lost")

    for name in NAMES:
        client.links[name].fail = {"commit": Lost(client.links[name])}
    pushed = client.push()
    assert pushed.acknowledged == NAMES
    assert cell.head() == revision and not pushed.merged


def test_two_clients_that_commit_at_once_end_with_both(cell: Cell) -> None:
    one, other = cell.client("c1"), cell.client("c2")
    one.add(a=b"one")
    one.push()
    other.mirror(cell.head())
    first, second = one.add(b=b"two"), other.add(c=b"three")
    one.push()
    pushed = other.push()
    assert pushed.merged and pushed.acknowledged == NAMES and pushed.head != second
    assert cell.files() == {b"a": b"one", b"b": b"two", b"c": b"three"}
    for revision in (first, second):
        assert is_ancestor(cell.servers["s1"].store, revision, cell.head())


def test_a_partition_that_heals_ends_at_one_id_whoever_merges(cell: Cell) -> None:
    ids = set()
    for resolver in ("c1", "c2", "c3"):
        cell = Cell()
        one, other = cell.client("c1"), cell.client("c2")
        one.add(a=b"one", clash=b"before")
        one.push()
        other.mirror(cell.head())
        one.links["s3"].down = other.links["s1"].down = other.links["s2"].down = True
        one.add(b=b"two", clash=b"left")
        other.add(c=b"three", clash=b"right")
        assert one.push().acknowledged == ("s1", "s2")
        assert other.push().acknowledged == ("s3",)
        third = cell.client(resolver)
        caught = third.group.catch_up()
        assert caught.merged == (cell.head(),)
        ids.add(cell.head())
        files = cell.files()
        assert {b"left", b"right"} <= set(files.values()) and {b"a", b"b", b"c", b"clash"} <= files.keys()
        assert all(site.state(VOLUME).common == cell.head() for site in cell.servers.values())
    assert len(ids) == 1


def test_three_servers_each_with_its_own_commit_come_to_one_head(cell: Cell) -> None:
    first = cell.client("c0")
    first.add(a=b"one")
    first.push()
    for number, name in enumerate(NAMES):
        client = cell.client(f"c{number}")
        client.mirror(cell.servers[name].state(VOLUME).head)
        for each in NAMES:
            client.links[each].down = each != name
        client.add(**{f"of{name}": name.encode()})
        client.push()
    assert len(cell.heads()) == 3
    cell.client("c9").group.catch_up()
    assert cell.files() == {b"a": b"one", b"ofs1": b"s1", b"ofs2": b"s2", b"ofs3": b"s3"}


def test_a_commit_that_was_never_acknowledged_is_merged_at_the_next_push(cell: Cell) -> None:
    one, other = cell.client("c1"), cell.client("c2")
    one.add(a=b"one")
    one.push()
    other.mirror(cell.head())
    for link in other.links.values():
        link.down = True
    other.add(offline=b"written on a train")
    with pytest.raises(Unavailable):
        other.push()
    one.add(b=b"two")
    one.push()
    for link in other.links.values():
        link.down = False
    other.add(later=b"x")
    other.push()
    assert cell.files().keys() == {b"a", b"b", b"offline", b"later"}


def test_one_server_that_fails_does_not_hold_up_the_others(cell: Cell) -> None:
    """Released or caught up with one site down, elsewhere: the others are stranded (facts of AFS)."""
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s2"].down = client.links["s3"].down = True
    revision = client.add(b=b"two")
    client.push()
    client.links["s2"].down = client.links["s3"].down = False

    def full() -> None:
        raise Unavailable("s2: no space")

    client.links["s2"].fail = {"upload": full, "commit": full, "advance": full}
    caught = client.group.catch_up()
    assert set(caught.missing) == {"s2"} and caught.reached == ("s1", "s3")
    assert cell.servers["s3"].state(VOLUME).head == revision
    client.links["s2"].fail = {}
    client.group.catch_up()
    assert cell.head() == revision


def test_a_server_that_lost_its_disk_is_filled_again(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.group.freeze_and_clone("monday")
    client.add(b=b"two")
    client.push()
    cell.servers["s2"].volumes.clear()
    cell.servers["s2"].store.objects.clear()
    caught = client.group.catch_up()
    assert set(caught.brought) == {"s2"}
    assert cell.files().keys() == {b"a", b"b"} and cell.clones().keys() == {"monday"}


def test_a_server_whose_volume_of_that_name_is_another_one_is_left_alone(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    other = msgspec.structs.replace(empty_volume(NAMES), id=bytes(16), replicas=None)
    cell.servers["s3"].volumes[VOLUME] = other
    client.add(b=b"two")
    client.group.writers.last = None
    pushed = client.push()
    assert isinstance(pushed.missing["s3"], Refused)
    assert cell.servers["s3"].state(VOLUME) == other


def test_a_history_of_thousands_is_read_at_once_and_not_step_by_step(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s3"].down = True
    for number in range(200):
        client.commit({b"a": str(number).encode()})
        client.push()
    other = cell.client("c2")
    calls(cell)
    other.group.catch_up()
    made = calls(cell)
    assert sum(each.count("block") for each in made.values()) < 60
    assert cell.files() == {b"a": b"199"}


# Replica sets


def test_a_server_with_an_older_replica_set_is_told_the_newest(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    newer = ReplicaSet(version=7, writers=["s1", "s2"], rule=MAJORITY)
    cell.servers["s2"].arrange(VOLUME, newer)
    polled = client.group.poll()
    assert polled.replicas == newer and set(polled.states) == {"s1", "s2"}
    assert cell.servers["s1"].state(VOLUME).replicas == newer
    client.add(b=b"two")
    assert client.push().acknowledged == ("s1", "s2")


def test_the_first_push_after_all_servers_were_away_succeeds(cell: Cell) -> None:
    client, other = cell.client("c1"), cell.client("c2")
    client.add(a=b"one")
    client.push()
    other.mirror(cell.head())
    other.add(b=b"two")
    other.push()
    for link in client.links.values():
        link.fail = {"state": _unavailable}
    client.add(c=b"three")
    with pytest.raises(Unavailable):
        client.push()
    for link in client.links.values():
        link.fail = {}
    assert client.push().acknowledged == NAMES
    assert cell.files().keys() == {b"a", b"b", b"c"}


def test_a_commit_that_meets_a_newer_replica_set_goes_to_its_writers(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    newer = ReplicaSet(version=2, writers=["s2", "s3"], standbys=["s1"], rule=MAJORITY)
    for site in cell.servers.values():
        site.arrange(VOLUME, newer)
    client.links["s3"].down = True
    client.add(b=b"two")
    with pytest.raises(Unavailable, match="1 of 2 writers"):
        client.push()
    client.links["s3"].down = False
    assert client.push().acknowledged == ("s2", "s3"), "a standby's answer does not count"


def test_a_server_that_is_no_writer_any_more_acknowledges_nothing(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    newer = ReplicaSet(version=2, writers=["s2", "s3"])
    for site in cell.servers.values():
        site.arrange(VOLUME, newer)
    client.links["s2"].down = client.links["s3"].down = True
    client.add(b=b"two")
    with pytest.raises((Unavailable, Refused)):
        client.push()


def test_a_client_that_knows_only_old_writers_asks_who_they_are_now() -> None:
    cell = Cell(("s1", "s2", "s3", "s4"))
    client = cell.client("c1", replicas=ReplicaSet(version=1, writers=["s1"]))
    newer = ReplicaSet(version=2, writers=["s3", "s4"])
    for name in ("s3", "s4"):
        cell.servers[name].arrange(VOLUME, newer)
    client.links["s1"].down = True
    polled = client.group.poll()
    assert polled.replicas == newer and set(polled.states) == {"s3", "s4"}


def test_a_new_replica_gets_history_and_clones_before_it_takes_commits() -> None:
    cell = Cell(("s1", "s2"))
    client = cell.client("c1")
    for number in range(3):
        client.add(**{f"f{number}": bytes(1000 + number)})
        client.push()
        client.group.freeze_and_clone(f"daily-{number}")
    site = cell.servers["s3"] = MemorySite("s3", cell.clock)
    client.links["s3"] = FaultySite(site)
    client.group = client.new_group()
    caught = client.group.add_replica("s3")
    assert caught.replicas.version == 3 and caught.replicas.writers == ["s1", "s2", "s3"]
    assert caught.replicas.standbys == []
    assert site.state(VOLUME).role == WRITER
    assert cell.clones().keys() == {"daily-0", "daily-1", "daily-2"} and len(cell.files()) == 3
    arranged = [place for place, call in enumerate(site.calls) if call == "arrange"]
    assert arranged[-1] > max(place for place, call in enumerate(site.calls) if call in ("adopt", "clone"))


def test_a_new_replica_that_is_cut_off_half_way_takes_no_commits_and_is_finished_later() -> None:
    cell = Cell(("s1", "s2"))
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.group.freeze_and_clone("monday")
    client.add(a=b"two")
    client.push()
    site = cell.servers["s3"] = MemorySite("s3", cell.clock)
    link = client.links["s3"] = FaultySite(site)
    client.group = client.new_group()

    def die() -> None:
        raise ClientDied

    for call in ("create", "upload", "adopt", "advance", "clone", "arrange"):
        link.fail = {call: die}
        with pytest.raises(ClientDied):
            client.group.add_replica("s3")
        assert "s3" not in cell.servers["s1"].state(VOLUME).replicas.writers or call == "arrange"
        client.group = client.new_group()
    link.fail = {}
    client.new_group().add_replica("s3")
    assert cell.files() == {b"a": b"two"} and cell.clones().keys() == {"monday"}


def test_a_replica_that_keeps_some_clones_gets_only_those_and_lets_older_ones_go() -> None:
    cell = Cell(("s1", "s2"))
    client = cell.client("c1")
    for number in range(4):
        client.add(**{f"f{number}": bytes(1000 + number)})
        client.push()
        client.group.freeze_and_clone(f"daily-{number}")
    client.group.freeze_and_clone("yearly")
    site = MemorySite("s3", cell.clock)
    client.links["s3"] = FaultySite(site)
    client.group = client.new_group()
    client.group.add_replica("s3", clones="daily-*@last2")
    assert site.state(VOLUME).clones.keys() == {"daily-2", "daily-3"}
    assert not site.is_whole(objects.KIND_REVISION, cell.servers["s1"].state(VOLUME).clones["daily-0"].revision)
    client.add(more=b"x")
    client.push()
    cloned = client.group.freeze_and_clone("daily-4")
    assert cloned.cloned == ("s1", "s2", "s3")
    client.group.catch_up()
    assert site.state(VOLUME).clones.keys() == {"daily-3", "daily-4"}
    assert len(cell.clones()) == 6 and not cell.servers["s1"].state(VOLUME).uncloned


def test_a_replica_is_removed_after_what_only_it_had_went_to_the_others(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s1"].down = client.links["s2"].down = True
    client.add(only=b"on s3")
    client.push()
    client.links["s1"].down = client.links["s2"].down = False
    assert not client.group.remove_replica("s3")
    assert not cell.servers.pop("s3").volumes
    assert cell.files().keys() == {b"a", b"only"}
    assert cell.servers["s1"].state(VOLUME).replicas.writers == ["s1", "s2"]
    client.add(b=b"two")
    assert client.push().acknowledged == ("s1", "s2")


def test_a_replica_that_does_not_answer_is_removed_only_by_force(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s3"].down = True
    with pytest.raises(Unavailable, match="would be lost"):
        client.group.remove_replica("s3")
    assert set(client.group.remove_replica("s3", force=True)) == {"s3"}
    assert client.group.poll().replicas.writers == ["s1", "s2"]


def test_the_last_writer_is_not_removed() -> None:
    cell = Cell(("s1",))
    with pytest.raises(Refused, match="only writer"):
        cell.client("c1").group.remove_replica("s1")


def test_a_volume_is_made_on_all_its_servers_or_enough_of_them() -> None:
    cell = Cell()
    for site in cell.servers.values():
        site.volumes.clear()
    client = cell.client("c1")
    client.links["s2"].down = True
    assert set(client.group.create(empty_volume(NAMES, rule=MAJORITY))) == {"s2"}
    client.add(a=b"one")
    client.push()
    client.links["s2"].down = False
    client.group.catch_up()
    assert cell.files() == {b"a": b"one"}


# Freeze and clone


def test_a_clone_is_of_one_revision_on_every_writer(cell: Cell) -> None:
    client = cell.client("c1")
    revision = client.add(a=b"one")
    client.push()
    cloned = client.group.freeze_and_clone("monday", 17)
    assert (
        cloned.cloned == NAMES
        and cloned.clone == Clone(revision=revision, created_ns=17, automatic=False, entry_count=0, total_bytes=0)
        and not cloned.missing
    )
    assert cell.clones() == {"monday": cloned.clone}
    assert all(site.state(VOLUME).lease is None for site in cell.servers.values())


def test_a_clone_of_a_volume_that_was_behind_is_of_the_newest_head(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s3"].down = True
    revision = client.add(b=b"two")
    client.push()
    client.links["s3"].down = False
    cloned = client.group.freeze_and_clone("monday")
    assert cloned.clone.revision == revision and cell.clones().keys() == {"monday"}


def test_commits_between_the_look_and_the_freeze_are_in_the_clone_on_all(cell: Cell) -> None:
    client, other = cell.client("c1"), cell.client("c2")
    client.add(a=b"one")
    client.push()
    other.mirror(cell.head())
    other.links["s2"].down = other.links["s3"].down = True
    written = []

    def commit() -> None:
        if not written:
            written.append(other.add(b=b"two"))
            other.push()

    client.links["s1"].fail = {"freeze": commit}
    cloned = client.group.freeze_and_clone("monday")
    assert cloned.clone.revision == written[0] and cell.clones()["monday"] == cloned.clone
    assert all(site.state(VOLUME).lease is None for site in cell.servers.values())


def test_nothing_is_cloned_when_fewer_answer_than_the_rule_asks_for() -> None:
    cell = Cell(rule=MAJORITY)
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s2"].down = client.links["s3"].down = True
    with pytest.raises(Unavailable, match="1 of 3 writers answer"):
        client.group.freeze_and_clone("monday")
    for name in ("s2", "s3"):
        client.links[name].down = False
        client.links[name].fail = {"clone": lambda: _unavailable()}
    with pytest.raises(Unavailable, match="nothing was cloned"):
        client.group.freeze_and_clone("monday")
    client.links["s2"].fail = client.links["s3"].fail = {}
    client.group.catch_up()
    assert not cell.clones() and all(site.state(VOLUME).lease is None for site in cell.servers.values())


def _unavailable() -> None:
    raise Unavailable("no answer")


def test_a_server_that_was_away_gets_the_clone_later(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s2"].down = True
    cloned = client.group.freeze_and_clone("monday")
    assert cloned.cloned == ("s1", "s3") and set(cloned.missing) == {"s2"} and cloned.rule == ANY
    client.links["s2"].down = False
    client.group.catch_up()
    assert cell.clones() == {"monday": cloned.clone}


def test_a_volume_frozen_by_somebody_else_is_waited_for_and_then_named(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    for site in cell.servers.values():
        site.freeze(VOLUME, owner="backup on host7", seconds=30)
    with pytest.raises(Conflict, match="backup on host7"):
        client.group.freeze_and_clone("monday")
    assert not cell.clones()
    assert all(site.state(VOLUME).lease.owner == "backup on host7" for site in cell.servers.values())
    cell.clock.pause(31)
    assert client.group.freeze_and_clone("monday").cloned == NAMES


def test_a_killed_client_leaves_the_volume_locked_for_half_a_minute_at_most(cell: Cell) -> None:
    """A lock without owner or expiry stays until a person finds it (facts of Coda and AFS)."""
    client, other = cell.client("c1"), cell.client("c2")
    client.add(a=b"one")
    client.push()
    other.mirror(cell.head())

    def die() -> None:
        raise ClientDied

    for link in client.links.values():
        link.fail = {"clone": die, "thaw": die}
    with pytest.raises(ClientDied):
        client.group.freeze_and_clone("monday")
    assert all(site.state(VOLUME).lease is not None for site in cell.servers.values())
    for site in cell.servers.values():
        lease = site.state(VOLUME).lease
        assert lease.owner == "c1" and lease.until_ns <= cell.clock() + LEASE_SECONDS * SECOND_NS
    before = cell.clock()
    other.add(b=b"two")
    assert other.push().acknowledged == NAMES, "a commit waits until the lease ends"
    assert cell.clock() - before <= (LEASE_SECONDS + 1) * SECOND_NS
    assert other.group.freeze_and_clone("tuesday").cloned == NAMES


def test_one_server_that_stays_frozen_does_not_hold_up_the_others(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.links["s2"].down = client.links["s3"].down = True
    revision = client.add(b=b"two")
    client.push()
    client.links["s2"].down = client.links["s3"].down = False

    def frozen() -> None:
        raise Conflict("s2: frozen by somebody who renews his lease")

    client.links["s2"].fail = {"advance": frozen, "commit": frozen}
    caught = client.new_group().catch_up()
    assert set(caught.missing) == {"s2"} and caught.reached == ("s1", "s3")
    assert cell.servers["s3"].state(VOLUME).head == revision


def test_the_volume_thaws_after_every_error(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    for call in ("freeze", "clone", "state"):
        for name in NAMES:
            client.links[name].fail = {call: _unavailable}
            try:
                client.group.freeze_and_clone(f"{call}-{name}")
            except DalError:
                pass
            client.links[name].fail = {}
            assert all(site.state(VOLUME).lease is None for site in cell.servers.values())
    client.group.catch_up()
    cell.clones()


def test_clocks_hours_apart_disturb_neither_leases_nor_clones() -> None:
    cell = Cell(skews=(-5, 0, 7))
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    cloned = client.group.freeze_and_clone("monday")
    assert cell.clones() == {"monday": cloned.clone}
    client.add(b=b"two")
    client.push()
    cell.clock.now_ns -= 10 * 3600 * SECOND_NS
    client.add(c=b"three")
    client.push()
    assert len(cell.files()) == 3


def test_a_clone_name_that_is_taken_is_refused_before_anything_is_frozen(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.group.freeze_and_clone("monday")
    calls(cell)
    with pytest.raises(AlreadyThere, match="home@monday"):
        client.group.freeze_and_clone("monday")
    assert not any("freeze" in made for made in calls(cell).values())
    first = client.group.freeze_and_clone(None, 5_000_000_000)
    assert first.name == "1970-01-01T000005Z"
    assert client.group.freeze_and_clone(None, 5_000_000_001).name == "1970-01-01T000005Z-2"


def test_an_empty_volume_is_not_cloned(cell: Cell) -> None:
    with pytest.raises(Refused, match="empty"):
        cell.client("c1").group.freeze_and_clone("monday")


# Clones that differ


def test_an_uncloned_clone_does_not_come_back_with_a_server_that_was_away(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.group.freeze_and_clone("monday")
    client.links["s3"].down = True
    clone, missing = client.group.unclone("monday")
    assert set(missing) == {"s3"} and clone.revision == cell.head()
    client.links["s3"].down = False
    cell.client("c2").group.catch_up()
    assert not cell.clones()


def test_a_clone_renewed_under_its_name_is_the_new_one_everywhere(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    client.group.freeze_and_clone("backup")
    client.links["s3"].down = True
    client.group.unclone("backup")
    renewed = client.group.freeze_and_clone("backup")  # of the same revision
    client.links["s3"].down = False
    client.group.catch_up()
    assert cell.clones() == {"backup": renewed.clone}


def test_a_name_that_means_two_revisions_keeps_both_and_says_so(cell: Cell) -> None:
    one, other = cell.client("c1"), cell.client("c2")
    one.add(a=b"one")
    one.push()
    other.mirror(cell.head())
    one.links["s3"].down = other.links["s1"].down = other.links["s2"].down = True
    one.add(b=b"two")
    one.push()
    left = one.group.freeze_and_clone("monday", 100)
    other.add(c=b"three")
    other.push()
    right = other.group.freeze_and_clone("monday", 200)
    one.links["s3"].down = False
    caught = one.group.catch_up()
    renamed = f"monday-{right.clone.revision.hex()[:8]}"
    assert cell.clones() == {"monday": left.clone, renamed: right.clone}
    assert caught.renamed == (("monday", renamed, right.clone),)
    assert any("means two states" in getattr(note, "text", "") for note in one.notes)
    again = other.group
    for link in other.links.values():
        link.down = False
    assert not again.catch_up().renamed and len(cell.clones()) == 2


def test_one_name_cloned_twice_of_one_revision_is_one_clone(cell: Cell) -> None:
    client = cell.client("c1")
    revision = client.add(a=b"one")
    client.push()
    cell.servers["s1"].clone(VOLUME, "monday", Clone(revision=revision, created_ns=5, held=False))
    cell.servers["s2"].clone(VOLUME, "monday", Clone(revision=revision, created_ns=9, held=True))
    client.group.catch_up()
    assert cell.clones() == {"monday": Clone(revision=revision, created_ns=5, held=True)}


def test_removed_clones_are_not_remembered_without_bound(cell: Cell) -> None:
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    for number in range(UNCLONED_KEPT_MAX + 20):
        client.group.freeze_and_clone("backup", number)
        client.group.unclone("backup")
    client.group.catch_up()
    for site in cell.servers.values():
        assert sum(map(len, site.state(VOLUME).uncloned.values())) == UNCLONED_KEPT_MAX


def test_a_held_clone_is_not_uncloned(cell: Cell) -> None:
    client = cell.client("c1")
    revision = client.add(a=b"one")
    client.push()
    cell.servers["s2"].clone(VOLUME, "monday", Clone(revision=revision, created_ns=9, held=True))
    with pytest.raises(Refused, match="held"):
        client.group.unclone("monday")
    with pytest.raises(NotFound):
        client.group.unclone("tuesday")


# By chance


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_after_healing_one_catch_up_by_anyone_ends_with_all_acknowledged_commits_everywhere(seed: int) -> None:
    live(seed)


@pytest.mark.parametrize("seed", range(40))
def test_known_lives(seed: int) -> None:
    live(seed)


def live(seed: int) -> None:
    """Some clients write, clone and unclone over a bad network, die and come again; then all is calm."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    names = NAMES[: chance.choice((2, 3, 3))]
    rule = chance.choice((ANY, MAJORITY))
    cell = Cell(names, rule=rule, skews=[chance.uniform(-9, 9) for _ in names])
    clients = [cell.client(f"c{number}") for number in range(chance.randint(1, 3))]
    faults = chance.choice((0.0, 0.02, 0.1))
    for client in clients:
        for link in client.links.values():
            link._chance = chance
            link.faults = faults
            link.deaths = chance.choice((0.0, 0.01))
    acknowledged: dict[bytes, tuple[bytes, bytes]] = {}
    made: dict[str, bytes] = {}
    for number in range(chance.randint(1, 25)):
        client = chance.choice(clients)
        cell.clock.pause(chance.expovariate(1 / 5))
        for link in client.links.values():
            link.down = chance.random() < 0.2
        try:
            _live_a_step(client, number, chance, acknowledged, made)
        except ClientDied:
            client.group = client.new_group()
        except DalError:
            pass
        if chance.random() < 0.2:
            chance.choice(list(client.links.values())).do_late()
    for client in clients:
        for link in client.links.values():
            link.down, link.faults, link.deaths = False, 0.0, 0.0
            link.do_late()
    cell.clock.pause(60)
    caught = chance.choice(clients).new_group().catch_up()
    assert not caught.missing
    store = cell.servers["s1"].store
    head = cell.head()
    files = cell.files() if head else {}
    for revision, (name, data) in acknowledged.items():
        assert is_ancestor(store, revision, head)
        assert not name.startswith(b"f") or files[name] == data
    clones = cell.clones()
    for name, revision in made.items():
        assert any(clone.revision == revision for each, clone in clones.items() if each.startswith(name)), name
    assert all(
        site.state(VOLUME).lease is None or site.state(VOLUME).lease.until_ns < site.clock()
        for site in cell.servers.values()
    )
    again = clients[0].new_group().catch_up()
    assert again.head == head and not again.brought and again.rounds == 1


def _live_a_step(
    client: Client,
    number: int,
    chance: random.Random,
    acknowledged: dict[bytes, tuple[bytes, bytes]],
    made: dict[str, bytes],
) -> None:
    doing = chance.random()
    if doing < 0.6:
        data = f"{client.name} wrote {number}".encode() + bytes(chance.choice((0, 500)))
        name = chance.choice(("a", "b", f"f{number}"))
        revision = client.add(**{name: data})
        client.push()
        acknowledged[revision] = name.encode(), data
    elif doing < 0.75:
        name = chance.choice(("monday", f"clone{number}"))
        cloned = client.group.freeze_and_clone(name)
        if name.startswith("clone"):
            made[name] = cloned.clone.revision
    elif doing < 0.85:
        client.group.unclone("monday")
    else:
        client.mirror(client.group.catch_up().head)


def test_a_standby_is_taken_out_and_its_copy_removed(cell: Cell) -> None:
    """The kind: what one command adds no command takes away."""
    client = cell.client("c1")
    client.add(a=b"one")
    client.push()
    caught = client.group.catch_up()
    replicas = msgspec.structs.replace(caught.replicas, version=2, writers=["s1", "s2"], standbys=["s3"])
    client.group.set_replica_set(replicas)
    client.links["s3"].down = True
    with pytest.raises(Unavailable, match="--force"):
        client.group.remove_replica("s3")
    client.links["s3"].down = False
    assert not client.group.remove_replica("s3")
    polled = client.group.poll()
    assert (polled.replicas.writers, polled.replicas.standbys) == (["s1", "s2"], [])
    assert not cell.servers["s3"].volumes
    with pytest.raises(NotFound, match="neither writer nor standby"):
        client.group.remove_replica("s3")
