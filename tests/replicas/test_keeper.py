"""A Keeper keeps what it acknowledged and takes nothing that is not whole: killed, full, raced by collections."""

import errno
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dalsegno.actions import keep
from dalsegno.actions.session import House
from dalsegno.formats import objects
from dalsegno.formats.object_rows import ROW_BYTES
from dalsegno.formats.objects import KIND_REVISION, Entry, Revision
from dalsegno.pool.adopt import ADOPTED_BYTES_MAX, UPLOADS, Standing
from dalsegno.pool.check import check_pool
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_verify import verify
from dalsegno.pool.pool import Pool
from dalsegno.replicas.contract import BATCH_IDS_MAX
from dalsegno.replicas.keeper import FOLLOWERS_MAX, Keeper
from dalsegno.replicas.transfer import Spool, copy, fetch, send
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    Damaged,
    Full,
    Moved,
    NotFound,
    Refused,
    TooNew,
    Unavailable,
)
from dalsegno.terms.events import silent
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.closure import visit_reachable
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, READER, STANDBY, WRITER, Release, ReplicaSet, VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world import files
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers
from kit import REALM, pack_path, store_model

SEED = 20261121
VOLUME = "home"
VOLUME_ID = bytes(range(16))
HOUR_NS = 3600 * SECOND_NS
BOTH = ReplicaSet(version=1, writers=["a", "b"])


def open_keeper(path: Path, workers: Workers, name: str = "") -> Keeper:
    pool = Pool.open(path)
    return Keeper(name or path.name, pool, Volumes(pool), workers=workers, clock=now_ns, scratch=path / UPLOADS)


@pytest.fixture
def crew() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture
def pair(tmp_path: Path, crew: Workers) -> Iterator[tuple[Keeper, Keeper]]:
    """Two servers with one empty volume."""
    keepers = []
    for name in ("a", "b"):
        Pool.create(tmp_path / name, encryption="none", realm=REALM).close()
        keepers.append(open_keeper(tmp_path / name, crew))
        keepers[-1].create(new_state())
    yield keepers[0], keepers[1]
    for keeper in keepers:
        keeper.pool.close()


def new_state(**fields: Any) -> VolumeState:
    state = VolumeState(id=VOLUME_ID, name=VOLUME, kind=NATIVE, source=b"", created_ns=5, replicas=BOTH)
    return msgspec.structs.replace(state, **fields)


def commit(keeper: Keeper, model: Mapping[bytes, Any], *parents: bytes, **fields: Any) -> bytes:
    """Put a revision into a server's own pool and advance to it."""
    identity = put(keeper, model, *parents, **fields)
    keeper.advance(VOLUME, identity)
    return identity


def put(keeper: Keeper, model: Mapping[bytes, Any], *parents: bytes, at_ns: int = 0, **fields: Any) -> bytes:
    head = keeper.state(VOLUME).head
    parents = parents or ((head,) if head else ())
    with keeper.pool.writer() as writer:
        root = Entry(
            name=b"",
            kind=objects.ENTRY_DIRECTORY,
            mode=0o755,
            content_kind=objects.CONTENT_DIRECTORY,
            content=store_model(writer, dict(model)),
        )
        revision = Revision(
            volume=VOLUME_ID,
            parents=list(parents),
            root=root,
            links=b"",
            created_ns=at_ns or now_ns(),
            author="test",
            message="",
            entry_count=1,
            total_bytes=1,
        )
        revision = msgspec.structs.replace(revision, **fields)
        return bytes(writer.put(KIND_REVISION, objects.encode(revision)))


def files_of(chance: random.Random, count: int) -> dict[bytes, Any]:
    return {
        b"%03d" % n: {b"f%d" % m: chance.randbytes(chance.choice([20, 300, 3000])) for m in range(3)}
        for n in range(count)
    }


def assert_whole(keeper: Keeper, revision: bytes) -> int:
    """Read everything of a revision; return how many objects it has."""
    keeper.pool.refresh()
    seen = set()

    def visit(kind: int, identity: bytes) -> bool:
        if identity in seen:
            return False
        seen.add(identity)
        assert REALM.identify(kind, keeper.pool.get(identity)) == identity  # type: ignore[arg-type]
        return True

    visit_reachable(keeper.pool, [(KIND_REVISION, revision)], visit)
    assert Standing(keeper.pool).is_whole(revision)
    return len(seen)


def assert_good(keeper: Keeper) -> None:
    assert [finding for finding in check_pool(keeper.pool, silent) if finding.severity == "error"] == []


def rows_of(keeper: Keeper, targets: list[bytes], bases: list[bytes]) -> list[tuple[bytes, int, int]]:
    data = b"".join(keeper.missing(VOLUME, targets, bases))
    values = [int.from_bytes(data[at + 32 : at + ROW_BYTES], "little") for at in range(0, len(data), ROW_BYTES)]
    return [
        (data[at : at + 32], value >> 28, value & (1 << 28) - 1)
        for at, value in zip(range(0, len(data), ROW_BYTES), values, strict=True)
    ]


def spool_of(keeper: Keeper, *ids: bytes) -> Spool:
    return fetch(keeper, VOLUME, b"".join(ids))


def gc(keeper: Keeper, crew: Workers, *, grace: int = 3600, hours: float = 0) -> None:
    """Collect as another process does, as if so many hours had passed."""
    with Pool.open(keeper.pool.backend.directory) as pool:
        house = House(pool=pool, volumes=Volumes(pool), cache_dir=pool.backend.directory, report=silent, workers=crew)
        before = os.environ.get("DAL_NOW")
        os.environ["DAL_NOW"] = str(now_ns() + int(hours * HOUR_NS))
        try:
            keep.gc(house, grace_seconds=grace)
        finally:
            del os.environ["DAL_NOW"]
            if before is not None:
                os.environ["DAL_NOW"] = before


# Copies


def test_a_copy_is_whole_and_the_next_brings_only_what_changed(pair: tuple[Keeper, Keeper]) -> None:
    a, b = pair
    chance = random.Random(SEED)
    model = files_of(chance, 200)
    first = commit(a, model)
    full = copy(a, b, VOLUME, [first])
    b.advance(VOLUME, first)
    assert assert_whole(b, first) == full.objects > 500
    model[b"000"][b"new"] = b"x" * 1000
    middle = commit(a, model)
    model[b"100"][b"f1"] = b"y" * 1000
    last = commit(a, model)
    increment = copy(a, b, VOLUME, [last], [first])
    b.advance(VOLUME, last)
    assert increment.objects < 20 < assert_whole(b, last)
    assert not Standing(b.pool).is_whole(middle)  # it is only known by name
    assert b.have(VOLUME, middle + last + first) == b"\0\1\1"
    assert copy(a, b, VOLUME, [last], []).objects <= 1
    assert_good(b)


def test_rows_come_as_the_objects_are_stored_with_kind_and_length(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    one = commit(a, files_of(random.Random(1), 60))
    two = commit(a, files_of(random.Random(2), 60))
    rows = rows_of(a, [one, two], [])
    assert len({identity for identity, _, _ in rows}) == len(rows)
    for identity, kind, length in rows:
        found, payload = a.pool.get_kind(identity)
        assert (found, len(payload)) == (kind, length)
    ages = {pack: pack_path(a.pool, pack).stat().st_mtime_ns for pack in a.pool.list_packs()}
    places = [a.pool.index.lookup(identity) for identity, _, _ in rows]
    keys = [(ages[at.pack_id], at.pack_id, at.block_index, at.offset) for at in places if at is not None]
    assert keys == sorted(keys) and len(keys) == len(rows)
    newer = rows_of(a, [two], [one])
    assert {identity for identity, _, _ in newer} < {identity for identity, _, _ in rows}


def test_revisions_between_come_without_their_trees(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    line = [commit(a, {b"f": b"%d" % number * 200}) for number in range(6)]
    side = put(a, {b"side": b"s" * 500}, line[2])
    merged = put(a, {b"f": b"merged" * 100}, line[5], side)
    revisions = {identity for identity, kind, _ in rows_of(a, [merged], [line[1]]) if kind == KIND_REVISION}
    assert revisions == {merged, side, *line[2:]}
    everything = {identity for identity, kind, _ in rows_of(a, [merged], []) if kind == KIND_REVISION}
    assert everything == {merged, side, *line}
    assert {i for i, kind, _ in rows_of(a, [merged], [line[5], side]) if kind == KIND_REVISION} == {merged}
    assert rows_of(a, [merged], [merged]) == [] and rows_of(a, [], [merged]) == []
    unknown = rows_of(a, [merged], [bytes(32)])
    assert {identity for identity, _, _ in unknown} >= {merged, *line}
    with pytest.raises(NotFound):
        a.missing(VOLUME, [bytes(32)], [])


def test_a_base_whose_tree_is_gone_makes_the_answer_longer_not_wrong(
    pair: tuple[Keeper, Keeper], crew: Workers
) -> None:
    a, b = pair
    a.arrange(VOLUME, ReplicaSet(version=2, writers=["a"]))
    first = commit(a, files_of(random.Random(3), 40))
    last = commit(a, files_of(random.Random(4), 40))
    a.agree(VOLUME, last)
    gc(a, crew, grace=0)
    a.pool.refresh()
    assert not Standing(a.pool).is_whole(first)
    copy(a, b, VOLUME, [last], [first])
    b.advance(VOLUME, last)
    assert_whole(b, last)


@pytest.mark.parametrize("encryption", ["none", "keyfile"])
def test_packs_for_others_hold_exactly_what_was_asked_sealed_as_the_pool(
    tmp_path: Path, crew: Workers, encryption: str
) -> None:
    pool = Pool.create(tmp_path / "a", encryption=encryption, key_path=tmp_path / "key", realm=REALM)
    a = Keeper("a", pool, Volumes(pool), workers=crew, clock=now_ns, scratch=tmp_path / "a" / UPLOADS)
    a.create(new_state())
    chance = random.Random(SEED)
    commit(a, files_of(chance, 50))
    ids = [identity for identity, _, _ in rows_of(a, [a.state(VOLUME).head], [])]
    for count in (1, 7, len(ids)):
        wanted = chance.sample(ids, count)
        data = b"".join(a.objects(VOLUME, b"".join(wanted + wanted)))
        path = tmp_path / "pack"
        path.write_bytes(data)
        with PackReader.open(path, REALM) as reader:
            assert {row.tobytes() for row in reader.objects()[0]} == set(wanted)
            assert list(verify(reader)) == []
            assert bool(reader.header.seal) == (encryption != "none")
    stream = a.objects(VOLUME, b"".join(ids))
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a client that goes away
    assert list(a.objects(VOLUME, b"")) != []
    with pytest.raises(NotFound):
        a.objects(VOLUME, bytes(32))
    for bad in (b"x", bytes(32 * (BATCH_IDS_MAX + 1))):
        with pytest.raises(BadInput):
            a.objects(VOLUME, bad)
        with pytest.raises(BadInput):
            a.have(VOLUME, bad)
    pool.close()


def test_a_block_brings_neighbours_but_not_without_end(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    chance = random.Random(SEED)
    commit(a, {b"%d" % n: chance.randbytes(300_000) for n in range(30)})
    for identity, kind, _ in rows_of(a, [a.state(VOLUME).head], []):
        found = a.block(VOLUME, identity)  # type: ignore[arg-type]
        assert found[0][:2] == (kind, identity)
        assert all(REALM.identify(each, payload) == name for each, name, payload in found)
        assert len(found) >= 1 and sum(len(payload) for _, _, payload in found) <= 2 * 2**20 + 300_000
    with pytest.raises(NotFound):
        a.block(VOLUME, bytes(32))  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        a.block(VOLUME, b"short")  # type: ignore[arg-type]


# Uploads


def upload_of(a: Keeper, *revisions: bytes) -> Spool:
    head = revisions or (a.state(VOLUME).head,)
    return spool_of(a, *(identity for identity, _, _ in rows_of(a, list(head), [])))


def test_an_upload_takes_repeated_and_overlapping_pieces(pair: tuple[Keeper, Keeper]) -> None:
    a, b = pair
    head = commit(a, files_of(random.Random(5), 20))
    spool = upload_of(a)
    data, pack_id = spool.read_at(0, spool.size_bytes), spool.pack_id()
    assert b.upload_size(VOLUME, pack_id) == 0
    assert b.upload(VOLUME, pack_id, 0, [data[:100], data[100:300]]) == 300
    assert b.upload(VOLUME, pack_id, 200, [data[200:250]]) == 300
    assert b.upload(VOLUME, pack_id, 0, []) == 300
    for offset in (301, -1, 10**12):
        with pytest.raises(Conflict):
            b.upload(VOLUME, pack_id, offset, [b"x"])
    assert b.upload_size(VOLUME, pack_id) == 300
    assert b.upload(VOLUME, pack_id, 250, [data[250:]]) == len(data) == b.upload_size(VOLUME, pack_id)
    b.adopt(VOLUME, [pack_id])
    b.adopt(VOLUME, [pack_id])
    b.advance(VOLUME, head)
    assert_whole(b, head)
    for bad in (b"", b"../../etc/passwd", bytes(15), bytes(17)):
        if len(bad) != 16:
            with pytest.raises(BadInput):
                b.upload(VOLUME, bad, 0, [b"x"])
            with pytest.raises(BadInput):
                b.adopt(VOLUME, [bad])
    with pytest.raises(NotFound):
        b.adopt(VOLUME, [bytes(16)])
    with pytest.raises(BadInput):
        b.adopt(VOLUME, [n.to_bytes(16, "big") for n in range(300)])


def test_an_upload_without_end_is_refused(pair: tuple[Keeper, Keeper], monkeypatch: pytest.MonkeyPatch) -> None:
    _, b = pair
    monkeypatch.setattr("dalsegno.replicas.keeper.ADOPTED_BYTES_MAX", 5_000_000)
    assert ADOPTED_BYTES_MAX > 5_000_000

    def without_end() -> Iterator[bytes]:
        while True:
            yield bytes(1_000_000)

    with pytest.raises(Refused, match="send less"):
        b.upload(VOLUME, bytes(16), 0, without_end())
    assert b.upload_size(VOLUME, bytes(16)) <= 5_000_000


def test_pieces_that_come_after_the_pack_was_adopted_do_not_reach_it(pair: tuple[Keeper, Keeper]) -> None:
    a, b = pair
    head = commit(a, files_of(random.Random(6), 20))
    spool = upload_of(a)
    data, pack_id = spool.read_at(0, spool.size_bytes), spool.pack_id()
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield data[:10]
        begun.set()
        go_on.wait(60)
        yield b"LATE" * 100

    def late() -> None:
        with pytest.raises(Conflict):
            b.upload(VOLUME, pack_id, 0, pieces())
        ended.set()

    thread = threading.Thread(target=late)
    thread.start()
    assert begun.wait(60)
    b.upload(VOLUME, pack_id, 0, [data])  # the same again, over another connection
    b.adopt(VOLUME, [pack_id])
    go_on.set()
    thread.join()
    assert ended.is_set()
    assert pack_path(b.pool, pack_id).read_bytes() == data
    b.advance(VOLUME, head)
    assert_good(b)


def test_one_upload_adopted_by_many_at_once_is_there_once(pair: tuple[Keeper, Keeper]) -> None:
    a, b = pair
    head = commit(a, files_of(random.Random(7), 60))
    spool = upload_of(a)
    other = spool_of(a, *(identity for identity, _, _ in rows_of(a, [head], [])))
    ids = [send(b, VOLUME, each) for each in (spool, other)]
    errors: list[BaseException] = []

    def work() -> None:
        try:
            b.adopt(VOLUME, ids)
            b.advance(VOLUME, head)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_whole(b, head)
    assert_good(b)
    assert list((b.pool.backend.directory / UPLOADS).rglob("*.partial")) == []


def test_a_flipped_bit_is_damaged_and_the_upload_begins_anew(pair: tuple[Keeper, Keeper]) -> None:
    a, b = pair
    chance = random.Random(SEED)
    head = commit(a, files_of(chance, 10))
    spool = upload_of(a)
    data, pack_id = spool.read_at(0, spool.size_bytes), spool.pack_id()
    for _ in range(60):
        harmed = bytearray(data)
        harmed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        b.upload(VOLUME, pack_id, 0, [bytes(harmed)])
        with pytest.raises((Damaged, TooNew)):
            b.adopt(VOLUME, [pack_id])
        assert b.upload_size(VOLUME, pack_id) == 0 and b.pool.list_packs() == set()
    with pytest.raises(NotFound):
        b.advance(VOLUME, head)
    b.commit(VOLUME, head, pack_id, [data[:1000], data[1000:]])
    assert_whole(b, head)


def test_uploads_left_behind_are_swept_after_a_day(pair: tuple[Keeper, Keeper], crew: Workers) -> None:
    a, b = pair
    commit(a, files_of(random.Random(8), 10))
    spool = upload_of(a)
    pack_id = spool.pack_id()
    b.upload(VOLUME, pack_id, 0, spool.pieces())
    gc(b, crew, hours=23)
    assert b.upload_size(VOLUME, pack_id) == spool.size_bytes
    gc(b, crew, hours=25)
    assert b.upload_size(VOLUME, pack_id) == 0
    assert b.upload(VOLUME, pack_id, 0, spool.pieces()) == spool.size_bytes


# Faults: what a replica does when it takes a state, killed and full at every step


def take_state(path: Path, packs: list[bytes], head: bytes) -> None:
    """Upload, adopt and advance, in the process that is killed."""
    with Workers(1) as workers:
        keeper = open_keeper(path, workers, "b")
        ids = []
        for data in packs:
            pack_id = pack_id_of(data)
            keeper.upload(VOLUME, pack_id, 0, [data[:500], data[500:]])
            ids.append(pack_id)
        keeper.adopt(VOLUME, ids)
        keeper.advance(VOLUME, head)
        keeper.pool.close()


def pack_id_of(data: bytes) -> bytes:
    spool = Spool()
    spool.write(data)
    return spool.pack_id()


def in_child(action: Callable[[], None], fault: str) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            files._steps_taken = 0
            os.environ["DAL_FAULT"] = fault
            action()
            code = 0
        except Full:
            code = 10
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("action", ["kill", "full"])
@pytest.mark.parametrize("parts", [1, 2])
def test_stopped_at_every_step_it_takes_the_state_when_asked_again(tmp_path: Path, action: str, parts: int) -> None:
    chance = random.Random(SEED)
    with Workers(1) as workers:
        for name in ("a", "b"):
            Pool.create(tmp_path / name, encryption="none", realm=REALM).close()
            keeper = open_keeper(tmp_path / name, workers)
            keeper.create(new_state())
            keeper.pool.close()
        a = open_keeper(tmp_path / "a", workers)
        first = commit(a, files_of(chance, 3))
        rows = [identity for identity, _, _ in rows_of(a, [first], [])]
        chance.shuffle(rows)  # so that packs need each other
        spools = [spool_of(a, *rows[number::parts]) for number in range(parts)]
        packs = [spool.read_at(0, spool.size_bytes) for spool in spools]
        a.pool.close()
    step, code = 0, -1
    while code:
        step += 1
        copied = tmp_path / f"copy{step}"
        shutil.copytree(tmp_path / "b", copied)
        code = in_child(lambda copied=copied: take_state(copied, packs, first), f"{action}:{step}")  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL if action == "kill" else 10), step
        with Workers(1) as workers:
            keeper = open_keeper(copied, workers, "b")
            assert keeper.state(VOLUME).head in (b"", first)
            if keeper.state(VOLUME).head:
                assert_whole(keeper, first)
            # Whatever stands has all that it names.
            for identity in rows:
                if keeper.have(VOLUME, identity) == b"\1":
                    kind, payload = keeper.pool.get_kind(identity)
                    for _, below in objects.references(kind, payload):
                        assert keeper.have(VOLUME, below) == b"\1", step
            assert_good(keeper)
            keeper.pool.close()
        take_again(copied, packs, first)
        shutil.rmtree(copied)
    assert step > 12


def take_again(path: Path, packs: list[bytes], head: bytes) -> None:
    """Do what a client does who got no answer."""
    with Workers(1) as workers:
        keeper = open_keeper(path, workers, "b")
        ids = [pack_id_of(data) for data in packs]
        for pack_id, data in zip(ids, packs, strict=True):
            there = keeper.upload_size(VOLUME, pack_id)
            keeper.upload(VOLUME, pack_id, there, [data[there:]])
        keeper.adopt(VOLUME, ids)
        keeper.advance(VOLUME, head)
        assert_whole(keeper, head)
        assert_good(keeper)
        keeper.pool.close()


@pytest.mark.parametrize("grace", [0, 3600])
@pytest.mark.parametrize("when", ["uploaded", "data adopted", "adopted"])
def test_a_collection_at_any_time_is_told_and_the_next_try_succeeds(
    pair: tuple[Keeper, Keeper], crew: Workers, grace: int, when: str
) -> None:
    a, b = pair
    chance = random.Random(SEED)
    head = commit(a, files_of(chance, 30))
    rows = rows_of(a, [head], [])
    data = send(b, VOLUME, spool_of(a, *(i for i, kind, _ in rows if kind == objects.KIND_CHUNK)))
    metadata = send(b, VOLUME, spool_of(a, *(i for i, kind, _ in rows if kind != objects.KIND_CHUNK)))
    if when == "uploaded":
        gc(b, crew, grace=grace, hours=2)
    b.adopt(VOLUME, [data])
    if when == "data adopted":
        gc(b, crew, grace=grace, hours=2)
    try:
        b.adopt(VOLUME, [metadata])
        if when == "adopted":
            gc(b, crew, grace=grace, hours=2)
        b.advance(VOLUME, head)
    except (NotFound, Conflict):
        assert grace == 0 and b.state(VOLUME).head == b""
    gc(b, crew, grace=grace, hours=9)
    copy(a, b, VOLUME, [head])
    b.advance(VOLUME, head)
    gc(b, crew, grace=0)
    b.pool.refresh()
    assert_whole(b, head)
    assert_good(b)


@pytest.mark.parametrize("seed", range(5))
def test_collections_beside_transfers_take_nothing_that_was_acknowledged(
    pair: tuple[Keeper, Keeper], crew: Workers, seed: int
) -> None:
    """States come and go on one replica while it is collected again and again with a short grace."""
    a, b = pair
    chance = random.Random(seed)
    print(f"seed {seed}")
    hours = 0.0
    clones: dict[str, Clone] = {}
    model = files_of(chance, 8)
    for turn in range(25):
        model[b"%03d" % chance.randrange(8)] = {
            b"f%d" % chance.randrange(4): chance.randbytes(chance.choice([30, 500]))
        }
        if chance.random() < 0.2:
            model = files_of(random.Random(chance.randrange(3)), 8)  # an old state comes back
        head = commit(a, model)
        rows = rows_of(a, [head], [b.state(VOLUME).head] if chance.random() < 0.7 else [])
        have = b.have(VOLUME, b"".join(identity for identity, _, _ in rows))
        wanted = [row for row, there in zip(rows, have, strict=True) if not there]
        parts = [
            [i for i, k, _ in wanted if k == objects.KIND_CHUNK],
            [i for i, k, _ in wanted if k != objects.KIND_CHUNK],
        ]
        try:
            for part in parts:
                for _ in range(chance.randrange(3)):
                    hours += chance.choice([0.1, 0.6, 1.1, 3])
                    gc(b, crew, hours=hours)
                if part:
                    b.adopt(VOLUME, [send(b, VOLUME, spool_of(a, *part))])
            if chance.random() < 0.3:
                continue  # the client dies
            for _ in range(chance.randrange(3)):
                hours += chance.choice([0.1, 0.6, 1.1, 3])
                gc(b, crew, hours=hours)
            b.advance(VOLUME, head)
        except (NotFound, Conflict):
            copy(a, b, VOLUME, [head])
            b.advance(VOLUME, head)
        b.agree(VOLUME, head)
        if chance.random() < 0.4:
            clones[f"c{turn}"] = clone = Clone(revision=head, created_ns=turn + 1)
            b.clone(VOLUME, f"c{turn}", clone)
        if clones and chance.random() < 0.4:
            name = chance.choice(sorted(clones))
            b.unclone(VOLUME, name, clones.pop(name))
        for revision in {b.state(VOLUME).head, *(clone.revision for clone in clones.values())}:
            assert_whole(b, revision)
    gc(b, crew, hours=hours + 99)
    gc(b, crew, hours=hours + 999)
    b.pool.refresh()
    for revision in {b.state(VOLUME).head, *(clone.revision for clone in clones.values())}:
        assert_whole(b, revision)
    assert_good(b)


# Heads


def test_a_head_is_not_moved_to_what_is_wrong(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    first = commit(a, {b"f": b"1"})
    time_ns = objects.decode_revision(a.pool.get(first)).created_ns  # type: ignore[arg-type]
    for wrong in (
        put(a, {b"f": b"2"}, volume=bytes(16)),
        put(a, {b"f": b"2"}, at_ns=time_ns),
        put(a, {b"f": b"2"}, at_ns=time_ns - 10),
    ):
        with pytest.raises(Refused):
            a.advance(VOLUME, wrong)
    with pytest.raises(Refused, match="no revision"):
        a.advance(VOLUME, objects.decode_revision(a.pool.get(first)).root.content)  # type: ignore[arg-type]
    for nothing in (b"", b"short", bytes(32)):
        with pytest.raises((NotFound, BadInput)):
            a.advance(VOLUME, nothing)
    assert a.state(VOLUME).head == first


def test_a_quota_binds_commits_but_keeps_no_replicas_apart(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    state = a.state(VOLUME)
    a.volumes.update(state.id, lambda s: msgspec.structs.replace(s, settings={"quota_bytes": 1000}))
    first = commit(a, {b"f": b"1"}, total_bytes=1000)
    with pytest.raises(Full, match="quota"):
        a.advance(VOLUME, put(a, {b"f": b"2"}, total_bytes=1001))
    side = put(a, {b"g": b"2"}, total_bytes=900)
    last = commit(a, {b"f": b"1", b"g": b"2"}, first, side, total_bytes=1900)
    assert a.state(VOLUME).head == last


def test_a_volume_that_moved_says_where(pair: tuple[Keeper, Keeper], crew: Workers) -> None:
    a, b = pair
    head = commit(a, {b"f": b"1"})
    new = ReplicaSet(version=2, writers=["b"], moved_to="b")
    with pytest.raises(Conflict, match="not frozen"):
        a.arrange(VOLUME, new)
    a.freeze(VOLUME, owner="mover")
    state = a.arrange(VOLUME, new)
    assert state.lease is None and state.role == ""
    assert a.arrange(VOLUME, new) == state
    for call in (
        lambda: a.advance(VOLUME, head),
        lambda: a.commit(VOLUME, head, b"", []),
        lambda: a.freeze(VOLUME, owner="x"),
        lambda: a.clone(VOLUME, "c", Clone(revision=head, created_ns=1)),
    ):
        with pytest.raises(Moved) as caught:
            call()
        assert caught.value.server == "b"
    copy(a, b, VOLUME, [head])  # it still gives away what it has
    gc(a, crew, grace=0)
    assert a.pool.list_packs() == set()


def test_roles_say_who_moves_a_head(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    first = commit(a, {b"f": b"1"})
    second = put(a, {b"f": b"2"})
    for version, fields, role in (
        (2, {"writers": ["b"], "readers": ["a"]}, READER),
        (3, {"writers": ["b"]}, ""),
    ):
        assert a.arrange(VOLUME, ReplicaSet(version=version, **fields)).role == role  # type: ignore[arg-type]
        with pytest.raises(Refused):
            a.advance(VOLUME, second)
        with pytest.raises(Refused):
            a.commit(VOLUME, second, b"", [])
        assert a.state(VOLUME).head == first
    assert a.arrange(VOLUME, ReplicaSet(version=4, writers=["b"], standbys=["a"])).role == STANDBY
    assert a.advance(VOLUME, second).head == second
    assert a.arrange(VOLUME, ReplicaSet(version=2, writers=["a"])).role == STANDBY


def test_a_reader_shows_releases_backwards_too_and_late_ones_never(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    first = commit(a, {b"f": b"1"})
    second = commit(a, {b"f": b"2"})
    bare = put(a, {b"f": b"3"})
    a.arrange(VOLUME, ReplicaSet(version=2, writers=["b"], readers=["a"]))
    releases = [
        Release(number=number, revision=revision, clone="c", released_ns=number)
        for number, revision in ((1, second), (2, first), (2, max(first, second)), (2, min(first, second)), (1, bare))
    ]
    for release in releases:
        a.switch(VOLUME, release)
    assert a.state(VOLUME).head == max(first, second)
    with pytest.raises(NotFound):
        a.switch(VOLUME, Release(number=9, revision=bytes(32), clone="c", released_ns=9))
    assert a.state(VOLUME).released.number == 2  # type: ignore[union-attr]


# What collecting keeps


def test_all_since_what_the_writers_agreed_on_stays_whole(pair: tuple[Keeper, Keeper], crew: Workers) -> None:
    a, _ = pair
    line = [commit(a, {b"f": b"%d" % number * 300, b"n%d" % number: b"x" * 200}) for number in range(8)]
    a.agree(VOLUME, line[2])
    a.agree(VOLUME, line[1])  # late
    assert a.state(VOLUME).common == line[2]
    gc(a, crew, grace=0)
    a.pool.refresh()
    for revision in line[2:]:
        assert_whole(a, revision)
    assert not a.pool.has(line[1]) and not a.pool.has(line[0])  # type: ignore[arg-type]
    a.agree(VOLUME, line[6])
    gc(a, crew, grace=0)
    a.pool.refresh()
    assert not Standing(a.pool).is_whole(line[3])
    assert_whole(a, line[6])
    with pytest.raises(Refused):
        a.agree(VOLUME, put(a, {b"f": b"never"}))


def test_revisions_that_came_without_trees_are_kept_as_they_came(pair: tuple[Keeper, Keeper], crew: Workers) -> None:
    a, b = pair
    line = [commit(a, {b"f": b"%d" % number * 300}) for number in range(5)]
    copy(a, b, VOLUME, [line[0]])
    b.advance(VOLUME, line[0])
    b.agree(VOLUME, line[0])
    copy(a, b, VOLUME, [line[4]], [line[0]])
    b.advance(VOLUME, line[4])
    for grace, hours in ((3600, 2), (3600, 9), (0, 0)):
        gc(b, crew, grace=grace, hours=hours)
    b.pool.refresh()
    for number, revision in enumerate(line):
        assert b.pool.has(revision)  # type: ignore[arg-type]
        assert Standing(b.pool).is_whole(revision) == (number in (0, 4))
    b.advance(VOLUME, line[2])  # behind the head, though not whole
    assert b.state(VOLUME).head == line[4]
    with pytest.raises(NotFound):
        b.clone(VOLUME, "c", Clone(revision=line[2], created_ns=1))


def test_what_a_follower_has_stays_whole_for_it(pair: tuple[Keeper, Keeper], crew: Workers) -> None:
    a, _ = pair
    first = commit(a, files_of(random.Random(9), 10))
    assert a.watch(VOLUME, first, seconds=0, follower="standby").head == first
    last = commit(a, files_of(random.Random(10), 10))
    a.agree(VOLUME, last)
    gc(a, crew, grace=0)
    a.pool.refresh()
    assert_whole(a, first)
    assert a.followers(VOLUME)["standby"][0] == first
    gc(a, crew, grace=0, hours=8 * 24)
    a.pool.refresh()
    assert not Standing(a.pool).is_whole(first)


def test_of_too_many_followers_those_unheard_longest_go(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    first = commit(a, {b"f": b"1"})
    a.watch(VOLUME, first, seconds=0, follower="gone")
    for number in range(FOLLOWERS_MAX - 1):
        a.watch(VOLUME, b"", seconds=0, follower=f"number {number}")
    pins = list((a.pool.backend.directory / "refs" / "pins").iterdir())
    assert "gone" in a.followers(VOLUME) and len(pins) == 1
    a.watch(VOLUME, first, seconds=0, follower="standby")
    assert a.followers(VOLUME).keys() >= {"standby", "number 0"} and "gone" not in a.followers(VOLUME)
    assert len(a.followers(VOLUME)) == FOLLOWERS_MAX
    assert list((a.pool.backend.directory / "refs" / "pins").iterdir()) not in ([], pins)


def test_bases_that_are_many_cost_one_walk_and_the_newest_behind_counts(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    line = [commit(a, {b"f%d" % number: b"x" for number in range(count)}) for count in range(1, 6)]
    whole, step = (b"".join(a.missing(VOLUME, [line[4]], bases)) for bases in ([], line[:4]))
    assert len(step) == len(b"".join(a.missing(VOLUME, [line[4]], [line[3]]))) < len(whole)


def test_a_watch_sees_what_another_process_did(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    first = commit(a, {b"f": b"1"})
    second = put(a, {b"f": b"2"})
    child = os.fork()
    if child == 0:
        with Pool.open(a.pool.backend.directory) as pool:
            volumes = Volumes(pool)
            volumes.update(VOLUME_ID, lambda state: msgspec.structs.replace(state, head=second))
        os._exit(0)
    assert a.watch(VOLUME, first, seconds=60).head == second
    assert os.waitpid(child, 0)[1] == 0
    assert a.watch(VOLUME, second, seconds=0).head == second


# Names


def test_names_that_lead_elsewhere_are_not_found_or_refused(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    for name in ("", "..", "../b", "a/b", "/etc/passwd", "home\0", "names/x", "home/", "-rf", "x" * 5000):
        with pytest.raises(NotFound):
            a.state(name)
        with pytest.raises(NotFound):
            a.have(name, b"")
        with pytest.raises(BadInput):
            a.create(new_state(name=name, id=bytes(16)))
        with pytest.raises((NotFound, BadInput)):
            a.clone(VOLUME, name, Clone(revision=bytes(32), created_ns=1))
        a.remove(name)
    for bad in (new_state(id=b"short"), new_state(kind="odd"), new_state(source=b"/home"), new_state(kind="tracked")):
        with pytest.raises(BadInput):
            a.create(msgspec.structs.replace(bad, name="other"))
    with pytest.raises(AlreadyThere):
        a.create(new_state(name="other"))
    with pytest.raises(AlreadyThere):
        a.create(new_state(id=bytes(16)))
    for seconds in (0, -1, 10**9):
        with pytest.raises(BadInput):
            a.freeze(VOLUME, owner="x", seconds=seconds)
    with pytest.raises(BadInput):
        a.freeze(VOLUME, owner="")


def test_a_volume_made_again_is_the_same_and_takes_a_newer_set(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    commit(a, {b"f": b"1"})
    state = a.state(VOLUME)
    assert state.role == WRITER and a.create(new_state()) == state
    newer = new_state(replicas=ReplicaSet(version=3, writers=["b"], standbys=["a"]))
    assert a.create(newer).role == STANDBY and a.state(VOLUME).head == state.head
    a.upload(VOLUME, bytes(16), 0, [b"half"])
    a.remove(VOLUME)
    a.remove(VOLUME)
    assert list((a.pool.backend.directory / UPLOADS).rglob("*.partial")) == []
    assert a.create(newer).head == b""


def test_a_merge_is_not_taken_without_what_it_merged(pair: tuple[Keeper, Keeper], crew: Workers) -> None:
    """Collected between two calls, one side's revisions would be nowhere, and who has only them a stranger."""
    a, b = pair
    model: dict[bytes, Any] = {b"f": b"1"}
    first = commit(a, model)
    copy(a, b, VOLUME, [first])
    b.advance(VOLUME, first)
    mine = commit(b, {**model, b"mine": b"m"})
    theirs = commit(a, {**model, b"theirs": b"t"})
    copy(b, a, VOLUME, [mine], [first])
    merged = put(a, {**model, b"mine": b"m", b"theirs": b"t"}, *sorted([mine, theirs]))
    copy(a, b, VOLUME, [theirs], [first])
    gc(b, crew, grace=0)
    with spool_of(a, *(row[0] for row in rows_of(a, [merged], [mine]) if row[0] != theirs)) as spool:
        for _ in range(2):
            with pytest.raises(NotFound, match="send it again"):
                b.commit(VOLUME, merged, spool.pack_id(), spool.pieces())
            assert b.state(VOLUME).head == mine
        copy(a, b, VOLUME, [theirs], [first])
        assert b.commit(VOLUME, merged, spool.pack_id(), spool.pieces()).head == merged
    assert_whole(b, merged)
    assert_good(b)


def test_times_are_later_than_parents_whatever_the_clock_says(pair: tuple[Keeper, Keeper]) -> None:
    a, _ = pair
    ahead = commit(a, {b"f": b"1"}, at_ns=now_ns() + 10**13)
    state = a.state(VOLUME)
    old = objects.decode_revision(a.pool.get(ahead))  # type: ignore[arg-type]
    with a.pool.writer() as writer:
        revision = msgspec.structs.replace(old, parents=[ahead], created_ns=now_ns())
        state, identity = a.volumes.commit_revision(writer, state, revision)
    new = objects.decode_revision(a.pool.get(identity))  # type: ignore[arg-type]
    assert new.created_ns == old.created_ns + 1
    assert a.advance(VOLUME, identity).head == identity == state.head


def test_have_tells_what_the_definition_tells(pair: tuple[Keeper, Keeper]) -> None:
    a, b = pair
    chance = random.Random(SEED)
    head = commit(a, files_of(chance, 100))
    rows = rows_of(a, [head], [])
    chunks = [identity for identity, kind, _ in rows if kind == objects.KIND_CHUNK]
    some = chance.sample(chunks, len(chunks) // 2)
    b.adopt(VOLUME, [send(b, VOLUME, spool_of(a, *some))])
    ids = [identity for identity, _, _ in rows]
    chance.shuffle(ids)
    answer = np.frombuffer(b.have(VOLUME, b"".join(ids + ids)), np.uint8).tolist()
    assert answer == [int(identity in set(some)) for identity in ids] * 2
    assert b.have(VOLUME, b"") == b""


def test_a_collection_by_another_process_makes_nobody_store_things_again(
    pair: tuple[Keeper, Keeper], crew: Workers
) -> None:
    """What was moved to a new pack is looked for there before it is taken out of the old one."""
    a, b = pair
    chance = random.Random(SEED)
    model = files_of(chance, 100)
    first = commit(a, model)
    copy(a, b, VOLUME, [first])
    b.advance(VOLUME, first)
    b.agree(VOLUME, first)
    last = commit(a, {**model, **{b"%03d" % n: {b"new": b"%d" % n * 200} for n in range(60)}})
    copy(a, b, VOLUME, [last], [first])
    b.advance(VOLUME, last)
    b.agree(VOLUME, last)
    objects_before = b.pool.index.object_count
    gc(b, crew, hours=2)  # most of the first pack is dead: the rest of it was written again
    assert b.pool.read_condemned()
    stored = b.pool.index.object_count
    assert stored == objects_before  # it does not know yet
    packs = len(b.pool.list_packs())
    b.clone(VOLUME, "c", Clone(revision=last, created_ns=1))
    side = {**model, **{b"%03d" % n: {b"new": b"%d" % n * 200} for n in range(60)}, b"one": b"more" * 100}
    newest = commit(a, side)
    rows = [identity for identity, _, _ in rows_of(a, [newest], [last])]
    upload = send(b, VOLUME, spool_of(a, *rows))
    b.adopt(VOLUME, [upload])
    b.advance(VOLUME, newest)
    assert len(b.pool.list_packs()) == packs + 1
    assert_whole(b, newest)


@pytest.mark.parametrize("what", ["advance", "clone"])
def test_what_is_there_and_was_not_synced_is_synced_before_it_is_acknowledged_again(
    pair: tuple[Keeper, Keeper], what: str
) -> None:
    """The kind of fault: what one finds is taken for durable, and who made it could not sync it."""
    keeper = pair[0]
    revision = put(keeper, {b"a": b"1"})
    steps: list[str] = []

    def act() -> None:
        if what == "advance":
            keeper.advance(VOLUME, revision)
        else:
            keeper.clone(VOLUME, "one", Clone(revision=revision, created_ns=5))

    if what == "clone":
        keeper.advance(VOLUME, revision)

    def fail_behind_rename(step: str, writes: bool) -> None:
        if step == "fsync-directory" and steps[-1:] == ["rename"]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        steps.append(step)

    try:
        files.rehearse(fail_behind_rename)
        with pytest.raises(Unavailable):
            act()
        assert keeper.volumes.get(VOLUME).head == revision
        with pytest.raises(Unavailable):  # what is told to others is durable
            keeper.state(VOLUME)
        files.rehearse(lambda step, writes: steps.append(step))
        steps.clear()
        act()
    finally:
        files.rehearse(None)
    assert "fsync-directory" in steps
