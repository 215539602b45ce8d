"""The contract of a Site, held by a dict, by a Keeper over a pool, and by a server over HTTP."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from memory_site import MemorySite, random_bytes_of

from cli_kit import User
from dalsegno.formats import objects, pack
from dalsegno.formats.object_rows import ROW_BYTES
from dalsegno.formats.objects import Entry, Revision, references
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import Pool
from dalsegno.replicas.contract import Site
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.transfer import Spool
from dalsegno.terms.errors import AlreadyThere, Conflict, DalError, Damaged, Diverged, NotFound, Refused
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, READER, WRITER, Release, ReplicaSet, VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers
from kit import REALM, DictStore, store_model
from server_kit import start_server

KINDS = ("memory", "keeper", "http")
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "memory":
        yield MemorySite("s1", now_ns)
    elif request.param == "keeper":
        with Pool.create(folder / "pool", encryption="none", realm=REALM) as pool, Workers(2) as workers:
            yield Keeper("s1", pool, Volumes(pool), workers=workers, clock=now_ns, scratch=folder / "pool" / "uploads")
    else:
        user = User(folder / "home")
        Pool.create(user.home / "pool", encryption="none", realm=REALM).close()
        with start_server(user, tls=True) as server:
            yield server.site(server.token("administer"))


@dataclass
class Volume:
    """A volume that is new on the site, and what a client has at home."""

    site: Any
    name: str
    id: bytes
    store: DictStore = field(default_factory=DictStore)

    def revision(self, files: Mapping[bytes, bytes], *, parents: Sequence[bytes] = (), at_ns: int = 0) -> bytes:
        newest = max(
            (objects.decode_revision(self.store.get(ObjectId(each))).created_ns for each in parents), default=0
        )
        root = Entry(
            name=b"",
            kind=objects.ENTRY_DIRECTORY,
            mode=0o755,
            content_kind=objects.CONTENT_DIRECTORY,
            content=store_model(self.store, dict(files)),
        )
        revision = Revision(
            volume=self.id,
            parents=sorted(parents),
            root=root,
            links=b"",
            created_ns=at_ns or max(now_ns(), newest + 1),
            author="test",
            message="",
            entry_count=len(files),
            total_bytes=sum(map(len, files.values())),
        )
        return bytes(self.store.put(objects.KIND_REVISION, objects.encode(revision)))

    def below(self, identity: bytes) -> list[bytes]:
        """Return an object and all that it names, what is named first; parents of revisions are not."""
        kind, payload = self.store.objects[identity]
        found: list[bytes] = []
        for _, each in references(kind, payload):
            if self.store.objects.get(each, (0,))[0] != objects.KIND_REVISION:
                found += self.below(each)
        return [*dict.fromkeys(found), identity]

    def pack(self, ids: Sequence[bytes], *, forge: Mapping[bytes, bytes] = {}) -> tuple[bytes, bytes]:
        """Return the id and the bytes of a pack of these objects."""
        spool = Spool()
        header = new_header(REALM, kind=pack.PACK_POOL, sealed=True)
        with PackWriter(spool.write, realm=REALM, header=header) as writer:
            for identity in ids:
                kind, payload = self.store.objects[identity]
                writer.put(kind, identity, forge.get(identity, payload))
            writer.finish()
        return header[0].pack_id, spool.read_at(0, spool.size_bytes)

    def send(self, ids: Sequence[bytes]) -> bytes:
        upload, data = self.pack(ids)
        assert self.site.upload(self.name, upload, 0, [data]) == len(data)
        self.site.adopt(self.name, [upload])
        return upload

    def put(self, files: Mapping[bytes, bytes], *, parents: Sequence[bytes] = ()) -> bytes:
        """Have a revision on the site, under no name."""
        revision = self.revision(files, parents=parents)
        self.send(self.below(revision))
        return revision

    def commit(self, files: Mapping[bytes, bytes]) -> bytes:
        head = self.state().head
        revision = self.put(files, parents=[head] if head else [])
        assert self.site.advance(self.name, revision).head == revision
        return revision

    def state(self) -> VolumeState:
        state: VolumeState = self.site.state(self.name)
        return state


@pytest.fixture
def volume(site: Any) -> Volume:
    number = next(_numbers)
    made = Volume(site, f"volume {number}", number.to_bytes(16, "big"))
    site.create(new_state(made))
    return made


def new_state(volume: Volume, **fields: Any) -> VolumeState:
    state = VolumeState(
        id=volume.id,
        name=volume.name,
        kind=NATIVE,
        source=b"",
        created_ns=5,
        role=WRITER,
        replicas=ReplicaSet(version=1, writers=["s1"]),
    )
    return msgspec.structs.replace(state, **fields)


FILES = {b"small": b"a few bytes", b"large": random_bytes_of(1, 300_000), b"other": random_bytes_of(2, 5_000)}


def test_a_site_is_one(site: Any, volume: Volume) -> None:
    typed: Site = site
    assert typed.name == "s1"
    assert volume.name in [state.name for state in typed.states()]


def test_create_again_is_no_error_and_a_taken_name_is(site: Any, volume: Volume) -> None:
    assert site.create(new_state(volume)).id == volume.id
    with pytest.raises(AlreadyThere):
        site.create(new_state(volume, id=b"x" * 16))
    state = volume.state()
    assert (state.id, state.kind, state.role, state.head) == (volume.id, NATIVE, WRITER, b"")


def test_no_such_volume_is_not_found_by_any_call(site: Any) -> None:
    revision, upload = bytes(32), bytes(16)
    clone = Clone(revision=revision, created_ns=1)
    for call in (
        lambda: site.state("nobody"),
        lambda: site.block("nobody", ObjectId(revision)),
        lambda: list(site.missing("nobody", [revision], [])),
        lambda: site.have("nobody", revision),
        lambda: site.upload("nobody", upload, 0, [b"x"]),
        lambda: site.adopt("nobody", [upload]),
        lambda: site.commit("nobody", revision, b"", []),
        lambda: site.advance("nobody", revision),
        lambda: site.agree("nobody", revision),
        lambda: site.freeze("nobody", owner="me"),
        lambda: site.thaw("nobody", owner="me"),
        lambda: site.clone("nobody", "daily", clone),
        lambda: site.unclone("nobody", "daily", clone),
        lambda: site.arrange("nobody", ReplicaSet(version=2, writers=["s1"])),
        lambda: site.watch("nobody", b"", seconds=0.01),
    ):
        with pytest.raises(NotFound):
            call()
    site.remove("nobody")


def test_an_upload_goes_on_where_it_stopped(site: Any, volume: Volume) -> None:
    revision = volume.revision(FILES)
    upload, data = volume.pack(volume.below(revision))
    assert site.upload_size(volume.name, upload) == 0
    third = len(data) // 3
    assert site.upload(volume.name, upload, 0, [data[:100], data[100:third]]) == third
    assert site.upload_size(volume.name, upload) == third
    # From further back than it came, as after a lost answer; from a generator, as over a network.
    assert site.upload(volume.name, upload, third - 50, (data[i : i + 999] for i in range(third - 50, len(data), 999)))
    assert site.upload_size(volume.name, upload) == len(data)
    site.adopt(volume.name, [upload])
    site.adopt(volume.name, [upload])
    assert set(site.have(volume.name, b"".join(volume.below(revision)))) == {1}
    assert site.advance(volume.name, revision).head == revision


def test_an_upload_begins_at_most_at_its_end(site: Any, volume: Volume) -> None:
    if isinstance(site, MemorySite):
        pytest.skip("asserts")
    with pytest.raises(Conflict):
        site.upload(volume.name, b"u" * 16, 5, [b"x"])
    assert site.upload_size(volume.name, b"u" * 16) == 0


def test_an_incomplete_upload_is_refused_and_nothing_of_it_counts(site: Any, volume: Volume) -> None:
    revision = volume.revision({**FILES, b"incomplete": random_bytes_of(3, 200_000)})
    ids = volume.below(revision)
    upload, data = volume.pack(ids[1:])
    site.upload(volume.name, upload, 0, [data])
    with pytest.raises(NotFound):
        site.adopt(volume.name, [upload])
    with pytest.raises(NotFound):
        site.advance(volume.name, revision)
    assert volume.state().head == b""
    assert site.have(volume.name, revision) == b"\0"
    volume.send(ids[:1])
    site.adopt(volume.name, [upload])
    assert site.advance(volume.name, revision).head == revision


def test_a_forged_object_is_damaged_and_not_kept(site: Any, volume: Volume) -> None:
    revision = volume.revision({b"file": random_bytes_of(volume.id[-1], 50_000)})
    ids = volume.below(revision)
    upload, data = volume.pack(ids, forge={ids[0]: b"something else"})
    site.upload(volume.name, upload, 0, [data])
    with pytest.raises(Damaged):
        site.adopt(volume.name, [upload])
    assert set(site.have(volume.name, b"".join(ids))) == {0}
    with pytest.raises((NotFound, Damaged)):
        site.commit(volume.name, revision, b"", [])
    assert volume.state().head == b""


def test_a_flipped_bit_anywhere_is_found(site: Any, volume: Volume) -> None:
    if isinstance(site, MemorySite):
        pytest.skip("reads packs as everybody does")
    revision = volume.revision({b"bits": random_bytes_of(volume.id[-1], 3_000)})
    ids = volume.below(revision)
    for place in range(0, 100, 7):
        upload, data = volume.pack(ids)
        at = len(data) * place // 100
        with pytest.raises((Damaged, NotFound, DalError)):
            site.commit(volume.name, revision, upload, [data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]])
    assert volume.state().head == b""


def test_a_head_moves_forward_only(site: Any, volume: Volume) -> None:
    first = volume.commit({b"a": b"1"})
    second = volume.commit({b"a": b"2"})
    assert site.advance(volume.name, first).head == second
    assert site.advance(volume.name, second).head == second
    aside = volume.put({b"a": b"3"}, parents=[first])
    with pytest.raises(Diverged):
        site.advance(volume.name, aside)
    merged = volume.put({b"a": b"4"}, parents=[second, aside])
    assert site.advance(volume.name, merged).head == merged
    assert site.advance(volume.name, aside).head == merged


def test_a_revision_nobody_sent_is_not_found(site: Any, volume: Volume) -> None:
    with pytest.raises(NotFound):
        site.advance(volume.name, b"?" * 32)
    with pytest.raises(NotFound):
        site.clone(volume.name, "daily", Clone(revision=b"?" * 32, created_ns=1))


@pytest.mark.parametrize("streams", [False, True])
def test_a_commit_is_one_call_and_may_come_twice(site: Any, volume: Volume, streams: bool) -> None:
    revision = volume.revision({**FILES, b"commit": random_bytes_of(9, 400_000)})
    upload, data = volume.pack(volume.below(revision))
    for _ in range(2):
        pieces = (data[i : i + 100_000] for i in range(0, len(data), 100_000)) if streams else [data]
        state = site.commit(volume.name, revision, upload, pieces, common=revision)
        assert (state.head, state.common) == (revision, revision)
    assert site.commit(volume.name, revision, b"", []).head == revision


def test_missing_and_objects_carry_a_volume_elsewhere(site: Any, volume: Volume) -> None:
    first = volume.commit(FILES)
    second = volume.commit({**FILES, b"new": random_bytes_of(4, 70_000)})
    all_rows = rows_of(site, volume, [second], [])
    assert {identity for identity, _, _ in all_rows} == {*volume.below(second), first}  # an older one without its tree
    new = rows_of(site, volume, [second], [first])
    assert {identity for identity, _, _ in new} == {*volume.below(second)} - {*volume.below(first)}
    for identity, kind, length in all_rows:
        held_kind, payload = volume.store.objects[identity]
        assert (kind, length) == (held_kind, len(payload))
    spool = Spool()
    for piece in site.objects(volume.name, b"".join(identity for identity, _, _ in new)):
        spool.write(piece)
    reader = PackReader(spool, REALM)
    assert {row.tobytes() for row in reader.objects()[0]} == {identity for identity, _, _ in new}
    for identity, _, _ in new:
        assert reader.get_kind(identity) == volume.store.objects[identity]


def rows_of(site: Any, volume: Volume, targets: list[bytes], bases: list[bytes]) -> list[tuple[bytes, int, int]]:
    data = b"".join(site.missing(volume.name, targets, bases))
    assert len(data) % ROW_BYTES == 0
    rows = []
    for start in range(0, len(data), ROW_BYTES):
        word = int.from_bytes(data[start + 32 : start + 36], "little")
        rows.append((data[start : start + 32], word >> 28, word & ((1 << 28) - 1)))
    return rows


def test_objects_and_blocks_that_are_not_there_are_not_found(site: Any, volume: Volume) -> None:
    with pytest.raises(NotFound):
        list(site.objects(volume.name, b"?" * 32))
    with pytest.raises(NotFound):
        list(site.missing(volume.name, [b"?" * 32], []))
    with pytest.raises(NotFound):
        site.block(volume.name, ObjectId(b"?" * 32))


def test_a_block_has_the_object_asked_for(site: Any, volume: Volume) -> None:
    revision = volume.commit(FILES)
    for identity in volume.below(revision):
        records = {record[1]: (record[0], record[2]) for record in site.block(volume.name, ObjectId(identity))}
        assert records[identity] == volume.store.objects[identity]
        for beside, (kind, payload) in records.items():
            assert REALM.identify(kind, payload) == beside


def test_while_frozen_only_the_owner_commits(site: Any, volume: Volume) -> None:
    volume.commit({b"a": b"1"})
    assert site.freeze(volume.name, owner="me").lease.owner == "me"
    assert site.freeze(volume.name, owner="me").lease.owner == "me"
    with pytest.raises(Conflict):
        site.freeze(volume.name, owner="you")
    new = volume.put({b"a": b"2"}, parents=[volume.state().head])
    with pytest.raises(Conflict):
        site.advance(volume.name, new)
    with pytest.raises(Conflict):
        site.advance(volume.name, new, owner="you")
    site.thaw(volume.name, owner="you")
    assert volume.state().lease is not None
    assert site.advance(volume.name, new, owner="me").head == new
    site.thaw(volume.name, owner="me")
    site.thaw(volume.name, owner="me")
    assert volume.state().lease is None
    volume.commit({b"a": b"3"})


def test_clones_are_told_apart_by_revision_and_time(site: Any, volume: Volume) -> None:
    first, second = volume.commit({b"a": b"1"}), volume.commit({b"a": b"2"})
    daily = Clone(revision=first, created_ns=10 * SECOND_NS)
    for _ in range(2):
        assert site.clone(volume.name, "daily", daily).clones == {"daily": daily}
    for other in (Clone(revision=second, created_ns=10 * SECOND_NS), Clone(revision=first, created_ns=11)):
        with pytest.raises(AlreadyThere):
            site.clone(volume.name, "daily", other)
    assert site.clone(volume.name, "daily", msgspec.structs.replace(daily, held=True)).clones["daily"].held
    assert site.clone(volume.name, "daily", daily).clones["daily"].held


def test_a_clone_that_was_removed_does_not_come_back(site: Any, volume: Volume) -> None:
    first = volume.commit({b"a": b"1"})
    old, new = Clone(revision=first, created_ns=1), Clone(revision=first, created_ns=2)
    site.clone(volume.name, "daily", old)
    for _ in range(2):
        state = site.unclone(volume.name, "daily", old)
        assert (state.clones, state.uncloned) == ({}, {"daily": [old]})
    assert site.clone(volume.name, "daily", old).clones == {}
    assert site.clone(volume.name, "daily", new).clones == {"daily": new}
    assert site.unclone(volume.name, "daily", old).clones == {"daily": new}
    site.agree(volume.name, first, uncloned={"daily": [old]})
    state = volume.state()
    assert (state.uncloned, state.common) == ({}, first)
    site.unclone(volume.name, "daily", new, here_only=True)
    state = volume.state()
    assert (state.clones, state.uncloned) == ({}, {})


def test_agreed_is_only_what_lies_behind_the_head(site: Any, volume: Volume) -> None:
    first, second = volume.commit({b"a": b"1"}), volume.commit({b"a": b"2"})
    site.agree(volume.name, second)
    site.agree(volume.name, first)
    assert volume.state().common == second
    site.agree(volume.name, b"")
    assert volume.state().common == second
    if isinstance(site, MemorySite):
        return
    ahead = volume.put({b"a": b"3"}, parents=[second])
    with pytest.raises(DalError):
        site.agree(volume.name, ahead)
    assert volume.state().common == second


def test_the_larger_replica_set_counts(site: Any, volume: Volume) -> None:
    third = ReplicaSet(version=3, writers=["s2"], readers=["s1"], clones={"s1": "daily-*@last7"})
    state = site.arrange(volume.name, third)
    assert (state.replicas, state.role) == (third, READER)
    state = site.arrange(volume.name, ReplicaSet(version=2, writers=["s1"]))
    assert (state.replicas, state.role) == (third, READER)
    revision = volume.put({b"a": b"1"})
    with pytest.raises(Refused):
        site.advance(volume.name, revision)


def test_a_reader_shows_what_was_released_and_nothing_older(site: Any, volume: Volume) -> None:
    if isinstance(site, MemorySite):
        pytest.skip("shows no releases")
    site.arrange(volume.name, ReplicaSet(version=2, writers=["s2"], readers=["s1"]))
    first = volume.put({b"a": b"1"})
    second = volume.put({b"a": b"2"}, parents=[first])
    one = Release(number=1, revision=first, clone="monday", released_ns=1)
    two = Release(number=2, revision=second, clone="tuesday", released_ns=2)
    assert site.switch(volume.name, two).head == second
    state = site.switch(volume.name, one)
    assert (state.head, state.released) == (second, two)
    with pytest.raises(NotFound):
        site.switch(volume.name, Release(number=3, revision=b"?" * 32, clone="x", released_ns=3))
    three = Release(number=3, revision=first, clone="monday", released_ns=3)
    assert site.switch(volume.name, three).head == first


def test_watch_answers_at_once_when_the_head_is_another(site: Any, volume: Volume) -> None:
    revision = volume.commit({b"a": b"1"})
    assert site.watch(volume.name, b"", seconds=300).head == revision
    assert site.watch(volume.name, revision, seconds=0).head == revision
    assert site.watch(volume.name, revision, seconds=0.05, follower="s9").head == revision


def test_watch_wakes_up_with_a_new_head(site: Any, volume: Volume) -> None:
    if isinstance(site, MemorySite):
        pytest.skip("does not wait")
    revision = volume.commit({b"a": b"1"})
    new = volume.put({b"a": b"2"}, parents=[revision])
    seen: list[bytes] = []
    watcher = threading.Thread(target=lambda: seen.append(site.watch(volume.name, revision, seconds=250).head))
    watcher.start()
    site.advance(volume.name, new)
    watcher.join()
    assert seen == [new]


def test_a_removed_volume_is_gone_and_may_be_removed_again(site: Any, volume: Volume) -> None:
    volume.commit({b"a": b"1"})
    site.remove(volume.name)
    site.remove(volume.name)
    with pytest.raises(NotFound):
        volume.state()
    assert site.create(new_state(volume)).head == b""


def test_several_threads_share_a_site(site: Any, volume: Volume) -> None:
    revision = volume.commit({**FILES, b"threads": random_bytes_of(5, 3_000_000)})
    ids = b"".join(volume.below(revision))
    whole: list[int] = []

    def read() -> None:
        pieces = site.objects(volume.name, ids)  # held open while others ask
        next(iter(pieces))
        for _ in range(5):
            assert site.state(volume.name).head == revision
        whole.append(sum(map(len, pieces)))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(whole) == 6
