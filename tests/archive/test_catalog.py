"""The catalog keeps one contract on SQLite and on PostgreSQL."""

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from dalsegno.archive.catalog import Catalog
from dalsegno.archive.chains import find_chain
from dalsegno.archive.tables import METADATA
from dalsegno.backup.records import (
    BAD,
    GOOD,
    JOB_DONE,
    MEDIUM_LOST,
    MISSING,
    SPOOL_TARGET,
    Copy,
    Drill,
    DumpEntry,
    Earlier,
    Job,
    Medium,
    usable_copies,
)
from dalsegno.terms.errors import BadInput, Damaged, Full, NotFound, TooNew, Unavailable

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/catalog.sqlite"
        return
    server = request.getfixturevalue("postgres_url")
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    yield server


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog.open(url) as opened:
        yield opened


def dump(
    number: int, *, level: int = 0, base: int | None = None, at: int | None = None, **changes: object
) -> DumpEntry:
    entry = DumpEntry(
        dump_id=number.to_bytes(16, "big"),
        volume_id=b"volume of tests!",
        volume_name="home",
        level=level,
        revision=number.to_bytes(32, "big"),
        base_dump=b"" if base is None else base.to_bytes(16, "big"),
        base_revisions=() if base is None else (base.to_bytes(32, "big"),),
        cloned_at_ns=number if at is None else at,
        taken_at_ns=number if at is None else at,
        received_at_ns=number + 1,
        size_bytes=100 + number,
        digest=number.to_bytes(32, "big"),
        set_name="homes",
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


def copy(number: int, **changes: object) -> Copy:
    made = Copy(
        dump_id=number.to_bytes(16, "big"),
        target="disks",
        medium="disk-1",
        place=f"dumps/{number}.dump",
        size_bytes=100 + number,
        written_at_ns=5,
        checked_at_ns=6,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def numbers(chain: list[DumpEntry]) -> list[int]:
    return [int.from_bytes(entry.dump_id, "big") for entry in chain]


def put(catalog: Catalog, *entries: DumpEntry) -> None:
    for entry in entries:
        catalog.put_dump(entry, copies=[copy(int.from_bytes(entry.dump_id, "big"))])


def test_what_is_put_is_read_back_and_again_changes_nothing(catalog: Catalog) -> None:
    entry = dump(1, host="höst", raw_bytes=1 << 60, verdict=GOOD, base=7)
    earlier = (Earlier(revision=b"r" * 32, clone_name="jan", cloned_at_ns=0),)
    for _ in range(2):
        catalog.put_dump(entry, earlier=earlier, copies=[copy(1), copy(1, target="s3", place="x")])
    assert catalog.get_dump(entry.dump_id) == entry
    assert catalog.earlier(entry.dump_id) == list(earlier)
    assert [each.target for each in catalog.copies(entry.dump_id)] == ["disks", "s3"]
    assert catalog.counts() == {"dumps": 1, "copies": 2, "media": 0, "runs": 0, "jobs": 0, "drills": 0}
    assert catalog.get_dump(b"x" * 16) is None
    assert catalog.find_dumps("00" * 15) == [entry] and catalog.find_dumps("zz") == []
    catalog.set_verdict(entry.dump_id, BAD, at_ns=9)
    assert catalog.get_dump(entry.dump_id) == replace(entry, verdict=BAD, verified_at_ns=9)
    catalog.remove_dump(entry.dump_id)
    assert catalog.counts()["dumps"] == catalog.counts()["copies"] == 0


def test_dumps_are_listed_by_volume_set_and_time(catalog: Catalog) -> None:
    other = dump(4, volume_id=b"another volume..", volume_name="mail", set_name="mails")
    put(catalog, dump(3), dump(1), dump(2), other)
    assert numbers(catalog.dumps("home")) == [1, 2, 3]
    assert numbers(catalog.dumps(b"another volume..")) == [4]
    assert numbers(catalog.dumps(set_name="homes", since_ns=2, until_ns=2)) == [2]
    put(catalog, dump(5, volume_name="renamed"))
    assert catalog.volumes() == [(b"another volume..", "mail"), (b"volume of tests!", "renamed")]


def test_copies_and_media_follow_the_files(catalog: Catalog) -> None:
    put(catalog, dump(1), dump(2))
    catalog.put_copy(copy(1, verdict=MISSING))
    assert catalog.copies_of([b"\0" * 15 + b"\1", b"\0" * 15 + b"\2"]).keys() == {
        b"\0" * 15 + b"\1",
        b"\0" * 15 + b"\2",
    }
    assert [each.verdict for each in catalog.copies_on("disk-1")] == [MISSING, GOOD]
    catalog.remove_copy(copy(1))
    assert [each.dump_id for each in catalog.copies_on("disk-1")] == [b"\0" * 15 + b"\2"]
    medium = Medium(label="disk-1", target="disks", kind="directory", id=b"i" * 16, capacity_bytes=10)
    catalog.put_medium(medium)
    catalog.put_medium(replace(medium, state=MEDIUM_LOST))
    assert catalog.media("disks") == [replace(medium, state=MEDIUM_LOST)] and catalog.media("x") == []
    assert catalog.get_medium("disk-1") == replace(medium, state=MEDIUM_LOST) and catalog.get_medium("x") is None


def test_the_journal_tells_what_was_begun_and_not_ended(catalog: Catalog) -> None:
    run = catalog.begin_run(started_ns=1)
    job = Job(run_id=run.id, set_name="homes", volume_name="home", step="clone", data={"a": [1, "é"]}, updated_ns=2)
    catalog.put_job(job)
    catalog.put_job(replace(job, step="dump", updated_ns=3))
    catalog.put_job(replace(job, volume_name="mail", state=JOB_DONE))
    assert catalog.open_jobs() == [replace(job, step="dump", updated_ns=3)]
    assert len(catalog.jobs(run.id)) == 2
    second = catalog.begin_run(started_ns=4)
    catalog.end_run(run.id, ended_ns=9, report={"volumes": 1})
    assert [each.id for each in catalog.runs()] == [second.id, run.id]
    assert catalog.runs()[1].report == {"volumes": 1} and catalog.runs(count_max=1)[0].ended_ns == 0


def test_the_newest_drill_of_a_volume_is_found(catalog: Catalog) -> None:
    drill = Drill(
        volume_id=b"v" * 16,
        volume_name="home",
        dump_id=b"d" * 16,
        kind="sample",
        started_ns=1,
        ended_ns=2,
        file_count=3,
        total_bytes=4,
        verdict=GOOD,
        media=("disk-1",),
    )
    for ended in (5, 9, 7):
        catalog.put_drill(replace(drill, ended_ns=ended, findings=(str(ended),)))
    assert catalog.last_drill("home") == replace(drill, ended_ns=9, findings=("9",))
    assert catalog.last_drill(b"v" * 16) is not None and catalog.last_drill("mail") is None
    assert [each.ended_ns for each in catalog.drills()] == [9, 7, 5]


def test_chain_follows_bases_to_the_full_dump(catalog: Catalog) -> None:
    put(catalog, dump(10), dump(20, level=1, base=10), dump(30, level=2, base=20), dump(40, level=1, base=10), dump(50))
    for at, chain in [(9, []), (10, [10]), (29, [10, 20]), (35, [10, 20, 30]), (49, [10, 40]), (99, [50])]:
        assert numbers(find_chain(catalog, "home", at)) == chain, at
        assert numbers(find_chain(catalog, b"volume of tests!", at)) == chain, at
    assert find_chain(catalog, "mail", 99) == []


def test_chain_avoids_what_cannot_be_read(catalog: Catalog) -> None:
    put(catalog, dump(10), dump(11, at=10, revision=dump(10).revision), dump(20, level=1, base=10), dump(30))
    catalog.put_copy(copy(30, verdict=BAD))
    assert numbers(find_chain(catalog, "home", 99)) == [10, 20]
    catalog.put_copy(copy(10, verdict=MISSING))
    assert numbers(find_chain(catalog, "home", 99)) == [11, 20]  # another dump of the same state
    catalog.remove_copy(copy(20))
    assert numbers(find_chain(catalog, "home", 99)) == [11]  # an older state
    assert numbers(find_chain(catalog, "home", 99, only_with_copies=False)) == [30]
    catalog.remove_copy(copy(11))
    assert find_chain(catalog, "home", 99) == []


def test_chain_may_start_from_an_earlier_clone_of_a_dump(catalog: Catalog) -> None:
    first = dump(10).revision
    whole = dump(12)
    catalog.put_dump(whole, earlier=[Earlier(revision=first, clone_name="a", cloned_at_ns=10)], copies=[copy(12)])
    put(catalog, dump(20, level=1, base=10))
    assert numbers(find_chain(catalog, "home", 20)) == [12, 20]


def test_many_states_of_one_instant_do_not_hide_the_readable_one(catalog: Catalog) -> None:
    put(catalog, dump(1, at=5))
    for number in range(2, 60):
        catalog.put_dump(dump(number, at=5))
    assert numbers(find_chain(catalog, "home", 5)) == [1]


def test_bases_in_a_ring_end() -> None:
    with Catalog.open(f"sqlite:////tmp/dal-ring-{os.getpid()}.sqlite") as catalog:
        try:
            put(catalog, dump(1, level=1, base=2, at=5), dump(2, level=1, base=1, at=5))
            assert find_chain(catalog, "home", 9) == []
        finally:
            for end in ("", "-wal", "-shm"):
                Path(f"/tmp/dal-ring-{os.getpid()}.sqlite{end}").unlink(missing_ok=True)


def test_a_rebuild_replaces_dumps_and_keeps_runs(catalog: Catalog) -> None:
    put(catalog, dump(1), dump(2))
    catalog.begin_run(started_ns=1)
    catalog.replace_all([(dump(3), (), (copy(3),))], [Medium(label="disk-1", target="disks", kind="directory")])
    counts = catalog.counts()
    assert (counts["dumps"], counts["copies"], counts["media"], counts["runs"]) == (1, 1, 1, 1)


def test_what_was_committed_is_there_after_opening_again(catalog: Catalog, url: str) -> None:
    put(catalog, dump(1))
    catalog.close()
    with Catalog.open(url, create=False) as again:
        assert numbers(again.dumps()) == [1]


def test_threads_and_connections_write_side_by_side(catalog: Catalog, url: str) -> None:
    run = catalog.begin_run(started_ns=1)
    failed = []

    def write(first: int, own: Catalog) -> None:
        try:
            for number in range(first, first + 20):
                own.put_dump(dump(number), copies=[copy(number)])
                own.put_job(
                    Job(run_id=run.id, set_name="s", volume_name=f"v{first}", step=str(number), updated_ns=number)
                )
        except Exception as error:
            failed.append(error)

    with Catalog.open(url) as second:
        threads = [threading.Thread(target=write, args=(n * 100, second if n % 2 else catalog)) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == [] and len(catalog.dumps()) == 80 and len(catalog.open_jobs()) == 4


def test_a_copy_needs_all_slices_or_k_shares() -> None:
    slices = [copy(1, part=part, parts=3, needed=3) for part in range(3)]
    shares = [copy(1, target="sh", part=part, parts=5, needed=3) for part in range(5)]
    assert len(usable_copies([*slices, *shares])) == 2
    assert usable_copies(slices[:2]) == []
    assert len(usable_copies([replace(shares[0], verdict=BAD), *shares[1:4]])[0]) == 3
    assert usable_copies([replace(shares[0], verdict=BAD), *shares[1:3]]) == []
    assert len(usable_copies([copy(1, target=SPOOL_TARGET)])) == 1


KILLED = """
import sys
from dalsegno.archive.catalog import Catalog
sys.path.insert(0, sys.argv[2])
from test_catalog import copy, dump
with Catalog.open(sys.argv[1]) as catalog:
    print("open", flush=True)
    for number in range(1, 10):
        catalog.put_dump(dump(number), copies=[copy(number)])
"""


@pytest.mark.parametrize("step", [2, 3, 5])
def test_killed_before_a_commit_leaves_what_was_committed(catalog: Catalog, url: str, step: int) -> None:
    folder = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2] / 'src'}:{folder}", "DAL_FAULT": f"kill:{step}"}
    done = subprocess.run([sys.executable, "-c", KILLED, url, folder], env=env, capture_output=True)
    assert done.returncode == -9 and done.stdout == b"open\n", done.stderr
    assert numbers(catalog.dumps()) == list(range(1, step))
    assert catalog.counts()["copies"] == step - 1


def test_a_full_disk_is_told_and_nothing_half_is_kept(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_FAULT", "full:0")
    with pytest.raises(Full, match="free some space"):
        catalog.put_dump(dump(1))
    monkeypatch.delenv("DAL_FAULT")
    assert catalog.dumps() == []
    put(catalog, dump(1))
    assert numbers(catalog.dumps()) == [1]


def test_a_newer_catalog_is_refused(catalog: Catalog, url: str) -> None:
    with catalog._write() as connection:
        connection.exec_driver_sql("UPDATE catalog SET version = 99")
    with pytest.raises(TooNew, match="version 99"):
        Catalog.open(url)


def test_urls_and_files_that_are_no_catalog_are_told(tmp_path: Path) -> None:
    for bad in ("nothing", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "sqlite:///catalog.sqlite"):
        with pytest.raises(BadInput, match=r"expected sqlite|name a file"):
            Catalog.open(bad)
    with pytest.raises(NotFound, match="rebuild"):
        Catalog.open(f"sqlite:///{tmp_path}/none.sqlite", create=False)
    (tmp_path / "torn.sqlite").write_bytes(b"this is no database, and long enough to tell" * 100)
    with pytest.raises(Damaged, match="rebuild"):
        Catalog.open(f"sqlite:///{tmp_path}/torn.sqlite")
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE x (y)")
    with pytest.raises(NotFound, match="rebuild"):
        Catalog.open(f"sqlite:///{tmp_path}/other.sqlite", create=False)
    with pytest.raises(Unavailable):
        Catalog.open("postgresql://nobody@/none?host=/nonexistent")


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_tables_are_those_that_version_1_has(dialect: Dialect) -> None:
    """Kind: a column changes with a field of the program, and no older catalog has it."""
    statements = []
    for table in METADATA.sorted_tables:
        statements += [CreateTable(table), *(CreateIndex(index) for index in sorted(table.indexes, key=str))]
    text = "".join(f"{str(each.compile(dialect=dialect)).strip()};\n" for each in statements)
    assert re.sub(r"[ \t]+\n", "\n", text) == (GOLDEN / f"catalog-v1.{dialect.name}.sql").read_text()
