"""A volume's recorded dumps: the newest as they are, the others in a table of objects (docs/formats/pool.md).

The table is one sorted tree by time. What a commit reads and writes does not grow with the number of dumps
(docs/decisions/018-a-volumes-ref-does-not-grow.md).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Final, Self, overload

import msgspec

from dalsegno.formats.messages import Told
from dalsegno.formats.objects import CONTENT_INLINE, ENTRY_FILE, Entry
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES
from dalsegno.trees.build import Cut
from dalsegno.trees.sorted import TIME_BIAS, Tree, ascending, descending, differences, edit, find, time_key

RECENT_MAX: Final = 6
"""So many dumps the ref holds as they are."""
RECENT_KEPT: Final = 3
"""So many of them, the newest, stay when there would be more."""
RECENT_TEXT_BYTES_MAX: Final = 1024
"""So long may their paths and recorders be together; dumps with longer ones move to the table at once."""
RECORDS_SENT_MAX: Final = 1000
"""So many dumps a new replica is told of, besides those that a next one may start from, and what these build on."""
RECORDS_MAX: Final = 200_000
"""More than a server takes of one volume. What a record costs does not grow with them."""
MIRRORED_MAX: Final = 30
"""So many dumps that stand in no table a client remembers."""
TABLE_CUT: Final = Cut(items_min=4, modulus=5, items_max=12, lists=Cut(items_min=4, modulus=3, items_max=16))
"""As for clones, with smaller leaves: a record is larger. Lists end by what they hold."""
_LEVELS_MAX: Final = 0o7777
_SIZE_MAX: Final = 1 << 62


class DumpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A durable dump that later dumps may start from."""

    dump_id: bytes
    level: int
    revision: bytes
    """The state that the dump brings a volume to."""
    base_dump: bytes
    taken_at_ns: int
    path: str
    size_bytes: int
    recorder: str = ""
    """Whose dump it is, `PROGRAM:...`, when only that program gives it back, from its media; empty: a file of dal's."""


class DumpTable(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded dumps that are not among the newest, as the ref names them."""

    count: int
    by_time: bytes
    """The root of the tree whose names are the dumps' times and ids."""
    until_ns: int
    """None of them is later."""


class DumpsForm(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded dumps as they are written."""

    newest: list[DumpRecord] = []
    older: DumpTable | None = None


Vet = Callable[[DumpRecord], None]
"""Raises for a record that is not used."""


class DumpRecords(Sequence[DumpRecord], Told):
    """The recorded dumps of a volume, oldest first; a value: what changes them returns others.

    What is not among the newest is read from `source` when it is asked for. Damaged where the table is not what its
    root says; whatever the source raises.
    """

    FORM = DumpsForm
    ITEM = DumpRecord
    __slots__ = ("_gone", "_newest", "_older", "_source", "_vet")

    def __init__(
        self,
        newest: Iterable[DumpRecord] = (),
        older: DumpTable | None = None,
        *,
        source: Source | None = None,
        gone: Collection[bytes] = (),
        vet: Vet | None = None,
    ) -> None:
        """`gone` are keys of the table that it is to lose. `vet` sees what is read."""
        self._newest = tuple(sorted(newest, key=_key))
        self._older = older
        self._source = source
        self._gone = frozenset(gone)
        self._vet = vet

    @classmethod
    def of(cls, form: DumpsForm | list[DumpRecord]) -> Self:
        """Return the dumps that were written as `form`, or as a list; `read_from` says where the table is."""
        if isinstance(form, list):
            return cls(form)
        older = form.older
        if older is not None:
            id_ok = len(older.by_time) == OBJECT_ID_BYTES
            if older.count < 1 or not id_ok or not -TIME_BIAS <= older.until_ns < TIME_BIAS:
                raise Damaged("dump table: its count, its time or its id cannot be right")
        return cls(form.newest, older)

    def told(self) -> DumpsForm | list[DumpRecord]:
        """Return what is written of these dumps, which are settled: where there is no table a list, as ever."""
        assert not self._gone, "changes of a table are settled first"
        newest = list(self._newest)
        return DumpsForm(newest=newest, older=self._older) if self._older is not None else newest

    def read_from(self, source: Source, *, vet: Vet | None = None) -> "DumpRecords":
        """Return the same dumps, whose table is read from `source`."""
        return DumpRecords(self._newest, self._older, source=source, gone=self._gone, vet=vet)

    def _with(self, newest: Iterable[DumpRecord], gone: Collection[bytes]) -> "DumpRecords":
        return DumpRecords(newest, self._older, source=self._source, gone=gone, vet=self._vet)

    @property
    def table(self) -> DumpTable | None:
        """The table as it is stored, without changes that are not settled; None when all are among the newest."""
        return self._older

    @property
    def newest(self) -> Sequence[DumpRecord]:
        """Those that the ref holds as they are, the oldest first."""
        return self._newest

    @property
    def is_stored(self) -> bool:
        """Whether the table is as these have it: nothing is to go from it."""
        return not self._gone

    @property
    def is_readable(self) -> bool:
        """Whether all can be asked for: it is known where a table is."""
        return self._older is None or self._source is not None

    @property
    def _table_source(self) -> Source:
        assert self._source is not None, "read_from says where the table is"
        return self._source

    # What there is

    def __len__(self) -> int:
        return len(self._newest) + (self._older.count if self._older is not None else 0) - len(self._gone)

    def __iter__(self) -> Iterator[DumpRecord]:
        if self._older is None:
            return iter(self._newest)
        return merge(self._show(ascending(self._table_source, _tree(self._older))), self._newest, key=_key)

    def __reversed__(self) -> Iterator[DumpRecord]:
        """Yield the dumps, the newest first; no more of the table is read than is asked for."""
        if self._older is None:
            yield from reversed(self._newest)
            return
        until_ns = self._older.until_ns
        loose = list(reversed(self._newest))
        later = sum(record.taken_at_ns > until_ns for record in loose)
        yield from loose[:later]
        table = self._show(descending(self._table_source, _tree(self._older)))
        yield from merge(table, loose[later:], key=_key, reverse=True)

    @overload
    def __getitem__(self, place: int) -> DumpRecord: ...

    @overload
    def __getitem__(self, place: slice) -> list[DumpRecord]: ...

    def __getitem__(self, place: int | slice) -> DumpRecord | list[DumpRecord]:
        if isinstance(place, slice):
            return list(self)[place]
        each = iter(self) if place >= 0 else reversed(self)
        found = next(islice(each, place if place >= 0 else -place - 1, None), None)
        if found is None:
            raise IndexError(place)
        return found

    def __contains__(self, record: object) -> bool:
        """Tell whether a dump is recorded: its id and its time tell."""
        if not isinstance(record, DumpRecord):
            return False
        return any(known.dump_id == record.dump_id for known in self._newest) or self._is_in_table(record)

    def _is_in_table(self, record: DumpRecord) -> bool:
        older, key = self._older, _key(record)
        if older is None or key in self._gone or record.taken_at_ns > older.until_ns:
            return False
        return find(self._table_source, _tree(older), key) is not None

    def find(self, dump_id: bytes) -> DumpRecord | None:
        """Return the record of a dump, or None; the newest are looked at first."""
        return next((record for record in reversed(self) if record.dump_id == dump_id), None)

    def naming(self, revision: bytes, *, since_ns: int) -> bool:
        """Tell whether a dump brings a volume to `revision`: one that the ref holds, or not older than `since_ns`."""
        if any(record.revision == revision for record in self._newest):
            return True
        if self._older is None or self._older.until_ns < since_ns:
            return False
        for record in reversed(self):
            if record.taken_at_ns < since_ns:
                return False
            if record.revision == revision:
                return True
        return False

    def salvage(self) -> tuple[list[DumpRecord], list[Damaged]]:
        """Return all records that can be read, oldest first, and what is wrong with the table."""
        errors: list[Damaged] = []
        found = list(self._newest)
        if self._older is not None:
            for entry in ascending(self._table_source, _tree(self._older), tell=errors.append):
                try:
                    found.extend(self._show([entry]))
                except Damaged as error:
                    errors.append(error)
        return sorted(found, key=_key), errors

    def _show(self, entries: Iterable[Entry]) -> Iterator[DumpRecord]:
        for entry in entries:
            record = _record_of(entry)
            if self._vet is not None:
                self._vet(record)
            if entry.name not in self._gone:
                yield record

    # Compared

    def is_same(self, other: "DumpRecords") -> bool:
        """Tell whether others are written in the same way, without a look into the table."""
        return (self._newest, self._older, self._gone) == (other._newest, other._older, other._gone)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DumpRecords):
            return self.is_same(other) or (len(self) == len(other) and not any(self.differing(other)))
        if not isinstance(other, list | tuple):
            return NotImplemented
        return len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DumpRecords({self._newest!r}, {self._older!r}, gone={sorted(self._gone)!r})"

    def differing(self, other: "DumpRecords") -> tuple[list[DumpRecord], list[DumpRecord]]:
        """Return the dumps that only these have, and those that only `other` has, the oldest first.

        Of the tables only nodes are read that one of them has alone.
        """
        own, others = self._apart(other), other._apart(self)
        if self._older != other._older:
            for mine, theirs in self._tables_apart(other):
                own += self._show([mine] if mine is not None else ())
                others += other._show([theirs] if theirs is not None else ())
        return (
            sorted((each for each in own if each not in other), key=_key),
            sorted((each for each in others if each not in self), key=_key),
        )

    def _apart(self, other: "DumpRecords") -> list[DumpRecord]:
        """Return what may be here alone without being in one table alone."""
        back = []
        if self._older is not None and self._older == other._older:
            tree = _tree(self._older)
            entries = (find(self._table_source, tree, key) for key in other._gone - self._gone)
            back = list(self._show(entry for entry in entries if entry is not None))
        elif self._older is not None and other._gone:
            back = [record for record in self if _key(record) in other._gone]
        return [*self._newest, *back]

    def _tables_apart(self, other: "DumpRecords") -> Iterator[tuple[Entry | None, Entry | None]]:
        sides = [(each._source, _tree(each._older) if each._older is not None else None) for each in (self, other)]
        sources = [source for source, tree in sides if tree is not None]
        assert None not in sources, "read_from says where the table is"
        (one, tree), (two, other_tree) = sides
        return differences(one or self._any_source(other), tree, two or self._any_source(other), other_tree)

    def _any_source(self, other: "DumpRecords") -> Source:
        """Return a source for the side that has no table: of it nothing is read."""
        return self._table_source if self._older is not None else other._table_source

    # Changed

    def put(self, record: DumpRecord) -> "DumpRecords":
        """Return these and `record`; the same when the dump is recorded already."""
        return self if record in self else self._with([*self._newest, record], self._gone)

    def without(self, dump_ids: Collection[bytes]) -> "DumpRecords":
        """Return these without the records of these dumps."""
        wanted = set(dump_ids)
        newest = [record for record in self._newest if record.dump_id not in wanted]
        wanted -= {record.dump_id for record in self._newest}
        gone = set(self._gone)
        for record in reversed(self) if wanted and self._older is not None else ():
            if record.dump_id in wanted:
                gone.add(_key(record))
                wanted.discard(record.dump_id)
                if not wanted:
                    break
        return self._with(newest, gone)

    def joined(self, other: "DumpRecords") -> "DumpRecords":
        """Return these and those that only `other` has; the same when there are none."""
        if self.is_same(other):
            return self
        more = self.differing(other)[1]
        return self._with([*self._newest, *more], self._gone) if more else self

    def with_paths(self, shown: Callable[[str], str]) -> "DumpRecords":
        """Return these with other paths in the place of those that the ref holds."""
        newest = [msgspec.structs.replace(record, path=shown(record.path)) for record in self._newest]
        return self._with(newest, self._gone)

    def sent(self) -> "DumpRecords":
        """Return what a new replica is told of, all of it without a table."""
        if len(self) <= RECORDS_SENT_MAX:
            return DumpRecords(self)
        records = list(self)
        needed = {each.dump_id for each in bases_of_next(records)}
        return DumpRecords(
            [*(each for each in records[:-RECORDS_SENT_MAX] if each.dump_id in needed), *records[-RECORDS_SENT_MAX:]]
        )

    def mirrored(self) -> "DumpRecords":
        """Return what is remembered of these where no table can be written, for as long as the servers are away."""
        return DumpRecords(self._newest[-MIRRORED_MAX:], self._older if not self._gone else None, source=self._source)

    # Stored

    @property
    def is_settled(self) -> bool:
        """Whether they may be written as they are; else they are settled first."""
        return not self._gone and (
            len(self._newest) <= RECENT_MAX and _text_bytes(self._newest) <= RECENT_TEXT_BYTES_MAX
        )

    def settle(self, source: Source, sink: Sink, *, hidden: Callable[[str], str] = str) -> "DumpRecords":
        """Return these with what is gone taken out of the table, and the older ones of too many newest moved there.

        The new nodes are put in `sink`, and are read from `source` when they are durable there. `hidden` says what is
        written of a path: who may read the volume may read the table.
        """
        if self.is_settled:
            return self
        movable = [record for record in self._newest if _fits_table(record)]
        kept = len(movable)
        if len(self._newest) > RECENT_MAX or _text_bytes(movable) > RECENT_TEXT_BYTES_MAX:
            kept = RECENT_KEPT
            while kept and _text_bytes(movable[-kept:]) > RECENT_TEXT_BYTES_MAX:
                kept -= 1
        moving = movable[: len(movable) - kept]
        changes: dict[bytes, Entry | None] = dict.fromkeys(self._gone)
        for record in moving:
            changes[_key(record)] = _entry_of(msgspec.structs.replace(record, path=hidden(record.path)))
        moved = {_key(record) for record in moving}
        newest = [record for record in self._newest if _key(record) not in moved]
        older = self._older
        count = len(self) - len(newest)
        if not changes or not count:
            return DumpRecords(newest, older if not changes else None, source=source, vet=self._vet)
        table = DumpTable(
            count=count,
            by_time=edit(source, sink, _tree(older) if older is not None else None, changes, cut=TABLE_CUT),
            until_ns=max([*(each.taken_at_ns for each in moving), *([older.until_ns] if older is not None else [])]),
        )
        return DumpRecords(newest, table, source=source, vet=self._vet)


def newest_first(records: Iterable[DumpRecord]) -> Iterator[DumpRecord]:
    """Return records, the latest first; of a table no more is read than is asked for."""
    return reversed(records if isinstance(records, DumpRecords) else sorted(records, key=_key))


def bases_kept(records: Iterable[DumpRecord]) -> list[DumpRecord]:
    """Return the newest recorded dump of each level and recorder, which a next dump may start from."""
    return list({(record.recorder, record.level): record for record in sorted(records, key=_key)}.values())


def bases_of_next(records: Sequence[DumpRecord]) -> list[DumpRecord]:
    """Return the dumps that a next one may start from, and those that these need."""
    by_id = {each.dump_id: each for each in records}
    needed: dict[bytes, DumpRecord] = {}
    for record in bases_kept(records):
        dump_id = record.dump_id
        while dump_id in by_id and dump_id not in needed:
            needed[dump_id] = by_id[dump_id]
            dump_id = by_id[dump_id].base_dump
    return sorted(needed.values(), key=_key)


def _tree(table: DumpTable) -> Tree:
    return Tree(table.by_time, table.count)


def _key(record: DumpRecord) -> bytes:
    return time_key(record.taken_at_ns, record.dump_id.hex().encode())


def _text_bytes(records: Iterable[DumpRecord]) -> int:
    return sum(len(record.path) + len(record.recorder) for record in records)


def _fits_table(record: DumpRecord) -> bool:
    """Tell whether a record can be an entry; what no program writes stays in the ref."""
    return (
        len(record.dump_id) == UUID_BYTES
        and len(record.base_dump) in (0, UUID_BYTES)
        and len(record.revision) == OBJECT_ID_BYTES
        and -TIME_BIAS <= record.taken_at_ns < TIME_BIAS
        and 0 <= record.level <= _LEVELS_MAX
        and 0 <= record.size_bytes < _SIZE_MAX
    )


def _entry_of(record: DumpRecord) -> Entry:
    """Return a record as it stands in the table (docs/formats/pool.md, "Dump table")."""
    return Entry(
        name=_key(record),
        kind=ENTRY_FILE,
        mode=record.level,
        owner=record.path.encode(errors="surrogatepass"),
        group=record.recorder.encode(errors="surrogatepass"),
        mtime_ns=record.taken_at_ns,
        size=record.size_bytes,
        content_kind=CONTENT_INLINE,
        content=record.revision + record.base_dump,
    )


def _record_of(entry: Entry) -> DumpRecord:
    key = entry.name
    try:
        record = DumpRecord(
            dump_id=bytes.fromhex(key[17:].decode()),
            level=entry.mode,
            revision=entry.content[:OBJECT_ID_BYTES],
            base_dump=entry.content[OBJECT_ID_BYTES:],
            taken_at_ns=entry.mtime_ns,
            path=entry.owner.decode(errors="surrogatepass"),
            size_bytes=entry.size,
            recorder=entry.group.decode(errors="surrogatepass"),
        )
    except ValueError:
        raise Damaged(f"dump table: {key!r} is no dump") from None
    is_one = entry.kind == ENTRY_FILE and entry.content_kind == CONTENT_INLINE and _fits_table(record)
    if not is_one:
        raise Damaged(f"dump table: {key!r} is no dump")
    if _key(record) != key:
        raise Damaged(f"dump table: {key!r} is not where its time belongs")
    return record
