"""The catalog: which dumps there are, at which level, from what, and where their copies are (docs/formats/catalog.md).

SQLite for one server, PostgreSQL for a site. It is never trusted over the files: it can be made again from them, and
`dal catalog check` compares. Rows follow files: a file is durable before its row is written, and removed before it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Self

from sqlalchemy import Column, Connection, Table, delete, func, insert, inspect, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from dalsegno.archive.tables import (
    COPIES,
    DRILLS,
    DUMPS,
    EARLIER,
    JOBS,
    MEDIA,
    METADATA,
    REVISION_BYTES,
    RUNS,
    STATE,
    dump_of,
    of_volume,
    row_of,
    row_of_dump,
    to_json,
    value_of,
)
from dalsegno.backup.records import (
    JOB_OPEN,
    Copy,
    Drill,
    DumpEntry,
    Earlier,
    Job,
    Medium,
    Run,
)
from dalsegno.terms.errors import Conflict, NotFound, TooNew
from dalsegno.world.database import Database

VERSION: Final = 1
BUSY_SECONDS_MAX: Final = 60
REMEDY: Final = "`dal catalog rebuild` makes it from the dumps, once what is damaged is moved away"
PARAMETERS_MAX: Final = 500
"""How many values go into one IN list."""


class Catalog:
    """An open catalog; used in a `with` block. Threads may share it. Every method that writes is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Self:
        """Open the catalog at `sqlite:////PATH` or `postgresql://...`; NotFound when it is not there and not wanted.

        BadInput: the url, or its driver is not installed. Unavailable: the server does not answer. Damaged: SQLite
        says that the file is torn. TooNew: a newer program made it.
        """
        opened = Database.open(url, what="catalog", create=create, busy_seconds=BUSY_SECONDS_MAX, remedy=REMEDY)
        catalog = cls(opened)
        try:
            catalog._prepare(create=create)
        except BaseException:
            catalog.close()
            raise
        return catalog

    def close(self) -> None:
        """Give connections back."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare(self, *, create: bool) -> None:
        label = self._database.label
        with self._read() as connection:
            there = inspect(connection).has_table(STATE.name)
            version = connection.execute(select(STATE.c.version)).scalar() if there else None
        if version is None:
            if not create:
                raise NotFound(f"no catalog in {label.removeprefix('catalog ')}: {REMEDY}")
            with self._write() as connection:
                METADATA.create_all(connection)
                if connection.execute(select(STATE.c.version)).scalar() is None:
                    connection.execute(insert(STATE).values(version=VERSION))
        elif version > VERSION:
            raise TooNew(f"{label}: version {version}, this program reads {VERSION}: install a newer one")

    def _read(self) -> AbstractContextManager[Connection]:
        return self._database.read()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._database.write() as connection:
                yield connection
        except IntegrityError:
            raise Conflict(f"{self._database.label}: changed by another process at the same time: run again") from None

    def _put(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows; one whose key is there already is replaced."""
        if not rows:
            return
        upsert = sqlite.insert(table) if self._database.is_sqlite else postgresql.insert(table)
        keys = [column.name for column in table.primary_key.columns]
        rest = {column.name: upsert.excluded[column.name] for column in table.columns if column.name not in keys}
        connection.execute(upsert.on_conflict_do_update(index_elements=keys, set_=rest), rows)

    # Dumps

    def put_dump(self, entry: DumpEntry, *, earlier: Sequence[Earlier] = (), copies: Sequence[Copy] = ()) -> None:
        """Record a dump that is durable, with what it carries besides and where it is; again changes nothing."""
        self.put_dumps([(entry, tuple(earlier), tuple(copies))])

    def put_dumps(self, items: Sequence[tuple[DumpEntry, tuple[Earlier, ...], tuple[Copy, ...]]]) -> None:
        """Record many dumps in one transaction."""
        with self._write() as connection:
            self._put_dumps(connection, items)

    def _put_dumps(
        self, connection: Connection, items: Sequence[tuple[DumpEntry, tuple[Earlier, ...], tuple[Copy, ...]]]
    ) -> None:
        self._put(connection, DUMPS, [row_of_dump(entry) for entry, _, _ in items])
        self._put(
            connection,
            EARLIER,
            [{"dump_id": entry.dump_id, **row_of(each)} for entry, earlier, _ in items for each in earlier],
        )
        self._put(connection, COPIES, [row_of(copy) for _, _, copies in items for copy in copies])

    def get_dump(self, dump_id: bytes) -> DumpEntry | None:
        """Return the dump with this id."""
        found = self._dumps_where(DUMPS.c.dump_id == dump_id)
        return found[0] if found else None

    def find_dumps(self, prefix: str) -> list[DumpEntry]:
        """Return the dumps whose hexadecimal id begins with `prefix`."""
        if len(prefix) > 32 or any(digit not in "0123456789abcdef" for digit in prefix.lower()):
            return []
        low, high = prefix.ljust(32, "0"), prefix.ljust(32, "f")
        return self._dumps_where(DUMPS.c.dump_id.between(bytes.fromhex(low), bytes.fromhex(high)))

    def dumps(
        self,
        volume: str | bytes | None = None,
        *,
        set_name: str | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> list[DumpEntry]:
        """Return dumps, oldest state first; of one volume (name or id), of one set, of a span of time (ends count)."""
        wanted: list[ColumnElement[bool]] = []
        if volume is not None:
            wanted.append(of_volume(volume))
        if set_name is not None:
            wanted.append(DUMPS.c.set_name == set_name)
        if since_ns is not None:
            wanted.append(DUMPS.c.cloned_at_ns >= since_ns)
        if until_ns is not None:
            wanted.append(DUMPS.c.cloned_at_ns <= until_ns)
        return self._dumps_where(*wanted)

    def _dumps_where(self, *wanted: ColumnElement[bool]) -> list[DumpEntry]:
        query = select(DUMPS).where(*wanted).order_by(DUMPS.c.cloned_at_ns, DUMPS.c.taken_at_ns)
        with self._read() as connection:
            return [dump_of(row) for row in connection.execute(query).mappings()]

    def earlier(self, dump_id: bytes) -> list[Earlier]:
        """Return the clones that a dump carries besides its newest, oldest first."""
        query = select(EARLIER).where(EARLIER.c.dump_id == dump_id).order_by(EARLIER.c.cloned_at_ns)
        with self._read() as connection:
            return [value_of(Earlier, row) for row in connection.execute(query).mappings()]

    def set_verdict(self, dump_id: bytes, verdict: str, *, at_ns: int) -> None:
        """Keep what a verification said about a dump."""
        change = update(DUMPS).where(DUMPS.c.dump_id == dump_id).values(verdict=verdict, verified_at_ns=at_ns)
        with self._write() as connection:
            connection.execute(change)

    def remove_dump(self, dump_id: bytes) -> None:
        """Forget a dump whose files are all gone."""
        with self._write() as connection:
            for table in (COPIES, EARLIER, DUMPS):
                connection.execute(delete(table).where(table.c.dump_id == dump_id))

    def volumes(self) -> list[tuple[bytes, str]]:
        """Return id and newest name of every volume that has dumps, by name."""
        newest = select(DUMPS.c.volume_id, func.max(DUMPS.c.taken_at_ns).label("at")).group_by(DUMPS.c.volume_id)
        latest = newest.subquery()
        query = select(DUMPS.c.volume_id, DUMPS.c.volume_name).join(
            latest, (latest.c.volume_id == DUMPS.c.volume_id) & (latest.c.at == DUMPS.c.taken_at_ns)
        )
        with self._read() as connection:
            found = {bytes(volume_id): str(name) for volume_id, name in connection.execute(query)}
        return sorted(found.items(), key=lambda item: item[1])

    # Copies

    def put_copy(self, copy: Copy) -> None:
        """Record a copy that is durable and was read back; the same part of the same copy is replaced."""
        self.put_copies([copy])

    def put_copies(self, copies: Sequence[Copy]) -> None:
        """Record copies in one transaction."""
        with self._write() as connection:
            self._put(connection, COPIES, [row_of(copy) for copy in copies])

    def remove_copy(self, copy: Copy) -> None:
        """Forget a copy whose file was removed."""
        key = (COPIES.c.dump_id, COPIES.c.target, COPIES.c.number, COPIES.c.part)
        with self._write() as connection:
            connection.execute(
                delete(COPIES).where(*(column == value for column, value in zip(key, copy.key, strict=True)))
            )

    def copies(self, dump_id: bytes) -> list[Copy]:
        """Return where a dump is, by target, copy and part."""
        return self.copies_of([dump_id]).get(dump_id, [])

    def copies_of(self, dump_ids: Iterable[bytes]) -> dict[bytes, list[Copy]]:
        """Return where each of many dumps is; dumps without copies are left out."""
        found: dict[bytes, list[Copy]] = {}
        wanted = list(dict.fromkeys(dump_ids))
        with self._read() as connection:
            for start in range(0, len(wanted), PARAMETERS_MAX):
                some = wanted[start : start + PARAMETERS_MAX]
                query = select(COPIES).where(COPIES.c.dump_id.in_(some))
                query = query.order_by(COPIES.c.target, COPIES.c.number, COPIES.c.part)
                for row in connection.execute(query).mappings():
                    copy = value_of(Copy, row)
                    found.setdefault(copy.dump_id, []).append(copy)
        return found

    def copies_on(self, label: str) -> list[Copy]:
        """Return what is on a medium."""
        query = select(COPIES).where(COPIES.c.medium == label).order_by(COPIES.c.place)
        with self._read() as connection:
            return [value_of(Copy, row) for row in connection.execute(query).mappings()]

    def labels(self) -> dict[str, tuple[str, int, int]]:
        """Return target, file count and bytes of every label that copies name."""
        query = select(COPIES.c.medium, func.min(COPIES.c.target), func.count(), func.sum(COPIES.c.size_bytes))
        with self._read() as connection:
            rows = connection.execute(query.group_by(COPIES.c.medium)).all()
        return {str(label): (str(target), int(count), int(size)) for label, target, count, size in rows}

    # Media

    def put_medium(self, medium: Medium) -> None:
        """Record a medium; what was recorded under its label is replaced."""
        with self._write() as connection:
            self._put(connection, MEDIA, [row_of(medium)])

    def get_medium(self, label: str) -> Medium | None:
        """Return the medium with this label."""
        with self._read() as connection:
            row = connection.execute(select(MEDIA).where(MEDIA.c.label == label)).mappings().first()
        return value_of(Medium, row) if row is not None else None

    def media(self, target: str | None = None) -> list[Medium]:
        """Return the media, by label; of one target when it is named."""
        query = select(MEDIA).order_by(MEDIA.c.label)
        if target is not None:
            query = query.where(MEDIA.c.target == target)
        with self._read() as connection:
            return [value_of(Medium, row) for row in connection.execute(query).mappings()]

    # Runs and jobs

    def begin_run(self, *, started_ns: int, report: Mapping[str, Any] | None = None) -> Run:
        """Open a run and return it with its id."""
        with self._write() as connection:
            values = {"started_ns": started_ns, "ended_ns": 0, "report": to_json(report or {})}
            key = connection.execute(insert(RUNS).values(values)).inserted_primary_key
        assert key is not None
        return Run(id=int(key[0]), started_ns=started_ns, report=dict(report or {}))

    def end_run(self, run_id: int, *, ended_ns: int, report: Mapping[str, Any]) -> None:
        """Close a run with its report."""
        change = update(RUNS).where(RUNS.c.id == run_id).values(ended_ns=ended_ns, report=to_json(report))
        with self._write() as connection:
            connection.execute(change)

    def runs(self, *, count_max: int = 100) -> list[Run]:
        """Return the newest runs, newest first."""
        query = select(RUNS).order_by(RUNS.c.id.desc()).limit(count_max)
        with self._read() as connection:
            return [
                Run(id=row.id, started_ns=row.started_ns, ended_ns=row.ended_ns, report=json.loads(row.report))
                for row in connection.execute(query)
            ]

    def put_job(self, job: Job) -> None:
        """Write the journal: where one volume's turn stands now."""
        self.put_jobs([job])

    def put_jobs(self, jobs: Sequence[Job]) -> None:
        """Write many lines of the journal in one transaction."""
        with self._write() as connection:
            self._put(connection, JOBS, [{**row_of(job), "data": to_json(job.data)} for job in jobs])

    def open_jobs(self) -> list[Job]:
        """Return what was begun and not ended, oldest first."""
        return self._jobs_where(JOBS.c.state == JOB_OPEN)

    def jobs(self, run_id: int) -> list[Job]:
        """Return the jobs of one run."""
        return self._jobs_where(JOBS.c.run_id == run_id)

    def _jobs_where(self, wanted: ColumnElement[bool]) -> list[Job]:
        query = select(JOBS).where(wanted).order_by(JOBS.c.run_id, JOBS.c.updated_ns)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [value_of(Job, {**row, "data": json.loads(row["data"])}) for row in rows]

    # Drills

    def put_drill(self, drill: Drill) -> None:
        """Record how a drill ended."""
        row = {**row_of(drill), "findings": to_json(drill.findings), "media": to_json(drill.media)}
        with self._write() as connection:
            connection.execute(insert(DRILLS).values(row))

    def drills(self, volume: str | bytes | None = None, *, count_max: int = 1000) -> list[Drill]:
        """Return drills, newest first; of one volume when it is named."""
        query = select(DRILLS).order_by(DRILLS.c.ended_ns.desc(), DRILLS.c.id.desc()).limit(count_max)
        if volume is not None:
            column: Column[Any] = DRILLS.c.volume_name if isinstance(volume, str) else DRILLS.c.volume_id
            query = query.where(column == volume)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            value_of(
                Drill, {**row, "findings": tuple(json.loads(row["findings"])), "media": tuple(json.loads(row["media"]))}
            )
            for row in rows
        ]

    def last_drill(self, volume: str | bytes) -> Drill | None:
        """Return a volume's newest drill."""
        found = self.drills(volume, count_max=1)
        return found[0] if found else None

    # What chains are made of: chains.py

    def newest(self, volume: str | bytes, at_ns: int, *, skip: Sequence[bytes], count_max: int) -> list[DumpEntry]:
        """Return the newest dumps of a volume's states at or before an instant, without those to skip."""
        query = select(DUMPS).where(of_volume(volume), DUMPS.c.cloned_at_ns <= at_ns)
        if skip:
            query = query.where(DUMPS.c.dump_id.not_in(skip))
        query = query.order_by(DUMPS.c.cloned_at_ns.desc(), DUMPS.c.level, DUMPS.c.taken_at_ns.desc())
        with self._read() as connection:
            return [dump_of(row) for row in connection.execute(query.limit(count_max)).mappings()]

    def carriers(self, revision: bytes, *, taken_until_ns: int) -> list[DumpEntry]:
        """Return the dumps, taken until an instant, that bring a revision or carry it besides their newest."""
        early = DUMPS.c.taken_at_ns <= taken_until_ns
        by_earlier = select(EARLIER.c.dump_id).where(EARLIER.c.revision == revision)
        found = self._dumps_where(DUMPS.c.revision == revision, early)
        found += self._dumps_where(DUMPS.c.dump_id.in_(by_earlier), early)
        return list({entry.dump_id: entry for entry in found}.values())

    def find_clone(self, volume: str | bytes, clone_name: str) -> list[tuple[DumpEntry, bytes]]:
        """Return the dumps that carry a clone of this name and the revision it names, the newest first."""
        also = select(DUMPS, EARLIER.c.revision.label("clone_revision"))
        also = also.join(EARLIER, EARLIER.c.dump_id == DUMPS.c.dump_id)
        also = also.where(of_volume(volume), EARLIER.c.clone_name == clone_name)
        with self._read() as connection:
            rows = connection.execute(also).mappings().all()
        found = [(dump_of(row), bytes(row["clone_revision"])) for row in rows]
        own = self._dumps_where(of_volume(volume), DUMPS.c.clone_name == clone_name)
        found += [(entry, entry.revision) for entry in own]
        return sorted(found, key=lambda each: (each[0].cloned_at_ns, each[0].taken_at_ns), reverse=True)

    def find_revision(self, volume: str | bytes, prefix: str) -> list[DumpEntry]:
        """Return the dumps that bring a revision whose hexadecimal id begins with `prefix`, the newest first."""
        digits = 2 * REVISION_BYTES
        if not prefix or len(prefix) > digits or any(digit not in "0123456789abcdef" for digit in prefix.lower()):
            return []
        low, high = bytes.fromhex(prefix.ljust(digits, "0")), bytes.fromhex(prefix.ljust(digits, "f"))
        return self._dumps_where(of_volume(volume), DUMPS.c.revision.between(low, high))[::-1]

    # The whole

    def replace_all(
        self,
        items: Sequence[tuple[DumpEntry, tuple[Earlier, ...], tuple[Copy, ...]]],
        media: Sequence[Medium],
    ) -> None:
        """Put dumps, copies and media in the place of all there were, in one transaction: how a rebuild ends."""
        with self._write() as connection:
            for table in (COPIES, EARLIER, DUMPS, MEDIA):
                connection.execute(delete(table))
            self._put_dumps(connection, items)
            self._put(connection, MEDIA, [row_of(medium) for medium in media])

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        with self._read() as connection:
            return {
                table.name: int(connection.execute(select(func.count()).select_from(table)).scalar() or 0)
                for table in (DUMPS, COPIES, MEDIA, RUNS, JOBS, DRILLS)
            }
