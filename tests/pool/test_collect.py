"""Collecting frees what is dead, keeps what lives, and a writer that relied on the dead saves it."""

import contextlib
import os
import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from dalsegno.backends.contract import Backend
from dalsegno.backends.reserve import RESERVE_NAME, release_reserve
from dalsegno.formats import objects
from dalsegno.formats.objects import (
    CONTENT_CHUNK,
    CONTENT_DIRECTORY,
    ENTRY_DIRECTORY,
    ENTRY_FILE,
    KIND_CHUNK,
    KIND_DIRECTORY,
    DirectoryLeaf,
    Entry,
)
from dalsegno.pool.adopt import UPLOADS
from dalsegno.pool.collect import CollectResult, collect
from dalsegno.pool.damage import PackDamage
from dalsegno.pool.pool import Pool, PoolWriter
from dalsegno.terms.errors import Conflict
from dalsegno.terms.events import silent
from dalsegno.terms.ids import ObjectId
from dalsegno.world.clock import now_ns

HOUR_NS = 3600 * 10**9


@pytest.fixture
def pool(place: Backend) -> Iterable[Pool]:
    with Pool.create(place, encryption="none") as pool:
        yield pool


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4000k", "tmpfs", place], check=False).returncode:
        pytest.skip("A SMALL DISK IS NOT TESTED: no tmpfs can be mounted")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with open(disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass


def run(pool: Pool, live: Iterable[bytes], *, hours: float = 0, grace: int = 0, dry_run: bool = False) -> CollectResult:
    at_ns = now_ns() + int(hours * HOUR_NS)
    return collect(pool, lambda: live, grace_seconds=grace, now_ns=at_ns, dry_run=dry_run, report=silent)


def put_chunks(pool: Pool, *payloads: bytes) -> list[ObjectId]:
    with pool.writer() as writer:
        return [writer.put(KIND_CHUNK, payload) for payload in payloads]


def put_tree(writer: PoolWriter, text: bytes) -> tuple[ObjectId, ObjectId, ObjectId]:
    chunk = writer.put(KIND_CHUNK, text)
    file = Entry(name=b"f", kind=ENTRY_FILE, content_kind=CONTENT_CHUNK, content=chunk)
    inner = writer.put(KIND_DIRECTORY, objects.encode(DirectoryLeaf([file])))
    entry = Entry(name=b"d", kind=ENTRY_DIRECTORY, content_kind=CONTENT_DIRECTORY, content=inner)
    return writer.put(KIND_DIRECTORY, objects.encode(DirectoryLeaf([entry]))), inner, chunk


def test_two_phases_with_grace(pool: Pool) -> None:
    (dead,) = put_chunks(pool, b"dead" * 100)
    (live,) = put_chunks(pool, b"live" * 100)
    with pool.writer():
        result = run(pool, [live], grace=3600)
    assert result.condemned == 0  # too young while somebody writes
    assert [size for _, size in result.releases] == [426], "but it is said when it goes"
    assert run(pool, [live], grace=3600, hours=2, dry_run=True).condemned == 1
    assert pool.read_condemned() == {}
    assert run(pool, [live], grace=3600, hours=2).condemned == 1
    assert pool.get(dead) == b"dead" * 100
    assert run(pool, [live], grace=3600, hours=2.5).deleted == 0
    result = run(pool, [live], grace=3600, hours=3.1)
    assert result.deleted == 1 and result.freed_bytes > 0
    assert not pool.has(dead) and pool.get(live) == b"live" * 100 and pool.read_condemned() == {}


def test_what_is_dead_waits_once_when_nobody_writes(pool: Pool) -> None:
    """The kind: room that comes back only at the second or third try, without a word about when."""
    put_chunks(pool, b"dead" * 100)
    result = run(pool, [], grace=3600)
    assert result.condemned == 1 and result.deleted == 0
    ((free_at_ns, size),) = result.releases
    assert size == result.condemned_bytes
    then = collect(pool, list, grace_seconds=3600, now_ns=free_at_ns, dry_run=False, report=silent)
    assert then.freed_bytes == size


def test_a_pool_that_serves_uploads_lets_young_packs_be(pool: Pool) -> None:
    pool.backend.scratch(UPLOADS).mkdir(parents=True)
    put_chunks(pool, b"adopted, not yet named in a ref")
    assert run(pool, [], grace=3600).condemned == 0


def halves(pool: Pool, count: int) -> list[ObjectId]:
    """Make `count` packs, each half dead, and return what lives."""
    live = []
    for number in range(count):
        payloads = [random.Random(2 * number + part).randbytes(200_000) for part in (0, 1)]
        live.append(put_chunks(pool, *payloads)[0])
    return live


def test_what_is_wholly_dead_goes_first_and_makes_the_room_to_write_others_again(disk: Path) -> None:
    """The kind: what makes room needs room first."""
    with Pool.create(disk / "pool", encryption="none") as pool:
        live = halves(pool, 3)
        put_chunks(pool, random.Random(9).randbytes(300_000))
        fill(disk)
        assert os.statvfs(disk).f_bavail == 0
        result = run(pool, live)
        assert (result.deleted, result.rewritten, result.left) == (4, 3, 0)
        assert [len(pool.get(identity)) for identity in live] == [200_000] * 3
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize > 800_000
        assert (pool.backend.directory / RESERVE_NAME).exists()


def test_half_dead_packs_wait_for_room_and_are_told(disk: Path) -> None:
    with Pool.create(disk / "pool", encryption="none") as pool:
        live = halves(pool, 2)
        release_reserve(pool.backend.directory)
        fill(disk)
        result = run(pool, live)
        assert (result.deleted, result.left, result.out_of_room) == (0, 2, True)
        (disk / "ballast").unlink()
        assert run(pool, live).rewritten == 2


def test_out_of_time_a_collection_goes_on_in_the_next_run(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind: work that is begun anew each night and never ends."""
    monkeypatch.setattr("dalsegno.pool.collect.PACK_BYTES_TARGET", 300_000)  # packs that are written together
    live = halves(pool, 3)
    for left in (2, 1, 0):
        result = collect(
            pool, lambda: live, grace_seconds=0, now_ns=now_ns(), dry_run=False, report=silent, more=lambda: False
        )
        assert (result.rewritten, result.left, result.out_of_room) == (1, left, False)
    assert [len(pool.get(identity)) for identity in live] == [200_000] * 3


def test_condemned_pack_that_is_needed_again_is_reprieved(pool: Pool) -> None:
    (chunk,) = put_chunks(pool, b"back again")
    run(pool, [], grace=3600, hours=2)
    assert run(pool, [chunk], grace=3600, hours=9).reprieved == 1
    assert run(pool, [chunk], grace=3600, hours=19).deleted == 0
    assert pool.get(chunk) == b"back again"


@pytest.mark.parametrize("condemned", [True, False])
def test_a_damaged_pack_stays_while_what_it_lost_is_needed_and_nowhere_else(pool: Pool, condemned: bool) -> None:
    """The kind: a copy that can be read is given up for one that cannot, or the last trace of something goes."""
    lost, good = put_chunks(pool, b"lost" * 100, b"good" * 100)
    (pack_id,) = pool.list_packs()
    if condemned:
        run(pool, [], grace=3600, hours=2)
    pool.losses.set(pack_id, PackDamage(blocks=frozenset((0,))))
    result = run(pool, [lost, good], grace=3600, hours=9)
    assert (result.deleted, result.rewritten) == (0, 0) and pool.list_packs() == {pack_id}
    with pool.writer() as writer:
        writer.put(KIND_CHUNK, b"lost" * 100)
        writer.put(KIND_CHUNK, b"good" * 100)
        assert writer.objects_added == 2
    run(pool, [lost, good])
    assert pack_id not in pool.list_packs() and pool.get(lost) == b"lost" * 100
    assert not pool.losses.notes and list(pool.backend.list("damaged/")) == []


def test_partly_live_pack_is_written_again(pool: Pool) -> None:
    ids = put_chunks(pool, *(b"%d" % number * 1000 for number in range(20)))
    result = run(pool, ids[:3])
    assert result.rewritten == 1 and result.deleted == 1
    assert [pool.get(identity) for identity in ids[:3]] == [b"%d" % number * 1000 for number in range(3)]
    assert not any(pool.has(identity) for identity in ids[3:])
    assert run(pool, ids[:3]).condemned == 0


def test_without_grace_nobody_may_write(pool: Pool) -> None:
    with pool.writer(), pytest.raises(Conflict):
        run(pool, [])


def test_writer_stores_again_what_was_condemned_under_it(pool: Pool) -> None:
    (chunk,) = put_chunks(pool, b"shared")
    with pool.writer() as writer:
        writer.put(KIND_CHUNK, b"shared")
        assert writer.objects_added == 0
        run(pool, [], grace=3600, hours=2)
        writer.flush()
        writer.commit_guard()
        assert writer.objects_added == 1
    assert run(pool, [chunk], grace=3600, hours=9).deleted == 1
    assert pool.get(chunk) == b"shared"


def test_new_writer_does_not_rely_on_condemned_packs(pool: Pool) -> None:
    put_chunks(pool, b"shared")
    run(pool, [], grace=3600, hours=2)
    with pool.writer() as writer:
        writer.put(KIND_CHUNK, b"shared")
        assert writer.objects_added == 1


def test_writer_slower_than_the_grace_is_told(pool: Pool) -> None:
    (chunk,) = put_chunks(pool, b"shared")
    with pool.writer() as writer:
        assert writer.has(chunk)
        run(pool, [], grace=3600, hours=2)
        run(pool, [], grace=3600, hours=4)
        with pytest.raises(Conflict, match="run again"):
            writer.commit_guard()


def test_relying_on_a_root_saves_all_below_it(pool: Pool) -> None:
    with pool.writer() as writer:
        root, inner, chunk = put_tree(writer, b"text")
    with pool.writer() as writer:
        assert writer.has(root)
        run(pool, [], grace=3600, hours=2)
        writer.commit_guard()
        assert writer.objects_added == 3
    run(pool, [root, inner, chunk], grace=3600, hours=9)
    assert pool.get(chunk) == b"text" and pool.get(inner) and pool.get(root)


def test_dead_directory_in_a_kept_pack_is_not_relied_on(pool: Pool) -> None:
    put_chunks(pool, b"text")  # the chunk lies apart from the directories
    with pool.writer() as writer:
        root, inner, chunk = put_tree(writer, b"text")
        big = writer.put(KIND_CHUNK, b"big" * 10_000)
    with pool.writer() as early:
        assert early.has(root)
        assert run(pool, [big], grace=3600, hours=2).dead_objects == 2
        early.commit_guard()
        assert early.objects_added == 3
    with pool.writer() as late:
        assert not late.has(inner) or late.objects_added == 0
    assert run(pool, [big, root, inner, chunk], grace=3600, hours=4).deleted == 1
    assert pool.get(root) and pool.get(inner) and pool.get(chunk) == b"text"


def test_dead_directory_is_not_there_for_a_later_writer(pool: Pool) -> None:
    put_chunks(pool, b"text")
    with pool.writer() as writer:
        root, _, chunk = put_tree(writer, b"text")
        big = writer.put(KIND_CHUNK, b"big" * 10_000)
    run(pool, [big])
    assert pool.has(root) and not pool.has(chunk)
    with pool.writer() as writer:
        assert not writer.has(root)
        assert put_tree(writer, b"text")[0] == root
        assert writer.objects_added == 3 and writer.has(root)
        writer.flush()
        assert writer.has(root)
        writer.commit_guard()
        assert writer.objects_added == 3
    assert pool.get(chunk) == b"text"
