"""Collecting frees what is dead, keeps what lives, and a writer that relied on the dead saves it."""

from collections.abc import Iterable
from pathlib import Path

import pytest

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
from dalsegno.pool.collect import CollectResult, collect
from dalsegno.pool.pool import Pool, PoolWriter
from dalsegno.terms.errors import Conflict
from dalsegno.terms.events import silent
from dalsegno.terms.ids import ObjectId
from dalsegno.world.clock import now_ns

HOUR_NS = 3600 * 10**9


@pytest.fixture
def pool(tmp_path: Path) -> Iterable[Pool]:
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        yield pool


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
    assert run(pool, [live], grace=3600).condemned == 0  # too young
    assert run(pool, [live], grace=3600, hours=2, dry_run=True).condemned == 1
    assert pool.read_condemned() == {}
    assert run(pool, [live], grace=3600, hours=2).condemned == 1
    assert pool.get(dead) == b"dead" * 100
    assert run(pool, [live], grace=3600, hours=2.5).deleted == 0
    result = run(pool, [live], grace=3600, hours=3.1)
    assert result.deleted == 1 and result.freed_bytes > 0
    assert not pool.has(dead) and pool.get(live) == b"live" * 100 and pool.read_condemned() == {}


def test_condemned_pack_that_is_needed_again_is_reprieved(pool: Pool) -> None:
    (chunk,) = put_chunks(pool, b"back again")
    run(pool, [], grace=3600, hours=2)
    assert run(pool, [chunk], grace=3600, hours=9).reprieved == 1
    assert run(pool, [chunk], grace=3600, hours=19).deleted == 0
    assert pool.get(chunk) == b"back again"


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
