"""A volume's clones: the newest as they are, the others in a table of objects (docs/formats/pool.md, "Clone table").

The table is two sorted trees of the same entries, by name and by time. One clone is found, added or removed along one
path of them, so that what a commit reads and writes does not grow with the number of clones
(docs/decisions/018-a-volumes-ref-does-not-grow.md).
"""

import re
from collections.abc import Callable, Container, ItemsView, Iterable, Iterator, Mapping, ValuesView
from heapq import merge
from itertools import chain, islice
from typing import Final, Self

import msgspec

from dalsegno.formats.messages import Told
from dalsegno.formats.objects import CONTENT_INLINE, ENTRY_FILE, Entry
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import BadInput, Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.trees.build import Cut
from dalsegno.trees.sorted import TIME_BIAS, Tree, ascending, descending, differences, edit, find, leaf_span, time_key

NEWEST_MAX: Final = 26
"""So many clones the ref holds as they are."""
NEWEST_KEPT: Final = 20
"""So many of them, the newest, stay when there would be more: that the others go together makes it one write in many
that changes the table."""
TABLE_CUT: Final = Cut(items_min=6, modulus=5, items_max=24, lists=Cut(items_min=4, modulus=3, items_max=16))
"""Smaller nodes than a directory's: a path of them is written for one clone. A modulus is odd: the low bits of the
CRC-32 of names of one length differ from level to level by one constant, and lists would end at `items_max` alone.
With fewer than 4 items a list, names could be chosen that make a tree deeper than a reader takes."""
_TIME_KEY_BYTES: Final = 17
_COUNT_MAX: Final = 1 << 62
_HELD: Final = 1
_AUTOMATIC: Final = {None: 0, False: 2, True: 4}
_AUTOMATIC_OF: Final = {bits: value for value, bits in _AUTOMATIC.items()}


class Clone(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A read-only, named revision."""

    revision: bytes
    created_ns: int
    held: bool = False
    automatic: bool | None = None
    """Whether a program chose the name, and not a person. None, where nobody wrote it down: the name tells."""

    entry_count: int | None = None
    """Files and directories in it; None, where nobody wrote it down."""

    total_bytes: int | None = None
    """Bytes of its files; None, where nobody wrote it down."""


_TIME_NAME = re.compile(r"\d{4}-?\d\d-?\d\dT\d\d:?\d\d:?\d\dZ(-\d+)?")


def is_automatic(name: str, clone: Clone) -> bool:
    """Tell whether retention may thin out a clone: a program named it. One that a person named stays."""
    return bool(_TIME_NAME.fullmatch(name)) if clone.automatic is None else clone.automatic


class CloneTable(msgspec.Struct, frozen=True, kw_only=True):
    """The clones that are not among the newest, as the ref names them."""

    count: int
    by_name: bytes
    """The root of the tree whose names are those of the clones."""
    by_time: bytes
    """The root of the tree whose names begin with the clones' times."""
    until_ns: int
    """None of them is later."""


class ClonesForm(msgspec.Struct, frozen=True, kw_only=True):
    """Clones as they are written."""

    newest: dict[str, Clone] = {}
    older: CloneTable | None = None


Vet = Callable[[str, Clone], None]
"""Raises for a name and a clone that are not used."""


class Clones(Mapping[str, Clone], Told):
    """The clones of a volume by name; a value: what changes them returns others. Iterating goes by time, oldest first.

    What is not among the newest is read from `source` when it is asked for, along one path. Damaged where a table is
    not sorted, has a name twice, or is not as its root says; whatever the source raises.
    """

    FORM = ClonesForm
    __slots__ = ("_changes", "_newest", "_older", "_source", "_vet")

    def __init__(
        self,
        newest: Mapping[str, Clone] = {},
        older: CloneTable | None = None,
        *,
        source: Source | None = None,
        changes: Mapping[str, Clone | None] = {},
        vet: Vet | None = None,
    ) -> None:
        """`changes` are what the table is to become under names that it has; None: removed. `vet` sees what is read."""
        self._newest = dict(newest)
        self._older = older
        self._source = source
        self._changes = dict(changes)
        self._vet = vet

    @classmethod
    def of(cls, form: ClonesForm) -> Self:
        """Return the clones that were written as `form`; `read_from` says where the table is."""
        older = form.older
        if older is not None:
            ids_ok = len(older.by_name) == len(older.by_time) == OBJECT_ID_BYTES
            if older.count < 1 or not ids_ok or not -TIME_BIAS <= older.until_ns < TIME_BIAS:
                raise Damaged("clone table: its count, its time or its ids cannot be right")
        return cls(form.newest, older)

    def told(self) -> ClonesForm:
        """Return what is written of these clones, which are settled."""
        assert not self._changes, "changes of a table are settled first"
        return ClonesForm(newest=self._newest, older=self._older)

    def read_from(self, source: Source, *, vet: Vet | None = None) -> "Clones":
        """Return the same clones, whose table is read from `source`."""
        return Clones(self._newest, self._older, source=source, changes=self._changes, vet=vet)

    def _with(self, newest: Mapping[str, Clone], changes: Mapping[str, Clone | None]) -> "Clones":
        return Clones(newest, self._older, source=self._source, changes=changes, vet=self._vet)

    def _clone_at(self, name: str, entry: Entry) -> Clone:
        clone = _clone_of(entry)
        if self._vet is not None:
            self._vet(name, clone)
        return clone

    @property
    def table(self) -> CloneTable | None:
        """The table as it is stored, without changes that are not settled; None when all are among the newest."""
        return self._older

    @property
    def newest(self) -> Mapping[str, Clone]:
        """Those that the ref holds as they are."""
        return self._newest

    # One by one

    def __getitem__(self, name: str) -> Clone:
        found = self._newest.get(name)
        if found is None:
            found = self._changes[name] if name in self._changes else self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def _find(self, name: str) -> Clone | None:
        """Return a clone as the table has it."""
        if self._older is None:
            return None
        entry = find(self._table_source, _by_name(self._older), _name_key(name))
        return self._clone_at(name, entry) if entry is not None else None

    @property
    def _table_source(self) -> Source:
        assert self._source is not None, "read_from says where the table is"
        return self._source

    # All of them

    def __len__(self) -> int:
        count = self._older.count if self._older is not None else 0
        return len(self._newest) + count - sum(changed is None for changed in self._changes.values())

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.by_time())

    def items(self) -> ItemsView[str, Clone]:
        """Return names and clones, oldest first."""
        return _Items(self)

    def values(self) -> ValuesView[Clone]:
        """Return the clones, oldest first."""
        return _Values(self)

    def by_time(self) -> Iterator[tuple[str, Clone]]:
        """Yield names and clones, the oldest first, of one time by name."""
        loose = self._loose()
        if self._older is None:
            return iter(loose)
        table = self._show(ascending(self._table_source, _by_time(self._older)))
        if not loose or loose[0][1].created_ns > self._older.until_ns:
            return chain(table, loose)
        return merge(table, loose, key=_order)

    def newest_first(self) -> Iterator[tuple[str, Clone]]:
        """Yield names and clones, the newest first; no more of the table is read than is asked for."""
        loose = self._loose()[::-1]
        older = self._older
        if older is None:
            yield from loose
            return
        later = sum(clone.created_ns > older.until_ns for _, clone in loose)
        yield from loose[:later]
        table = self._show(descending(self._table_source, _by_time(older)))
        yield from merge(table, loose[later:], key=_order, reverse=True)

    def newest_until(self, at_ns: int) -> tuple[str, Clone] | None:
        """Return the newest clone that is not later than `at_ns`, or None."""
        loose = [each for each in self._loose() if each[1].created_ns <= at_ns]
        older = self._older
        if older is None or (loose and loose[-1][1].created_ns > older.until_ns):
            return loose[-1] if loose else None
        below = _time_key("", min(max(at_ns, -TIME_BIAS), TIME_BIAS - 2) + 1)
        table = self._show(descending(self._table_source, _by_time(older), below=below))
        return max([*loose[-1:], *islice(table, 1)], key=_order, default=None)

    def naming(self, revision: bytes, *, since_ns: int) -> Iterator[str]:
        """Yield the names of clones of a revision: those that the ref holds, and others not older than `since_ns`."""
        loose = self._loose()[::-1]
        yield from (name for name, clone in loose if clone.revision == revision)
        for name, clone in self.newest_first() if self._older is not None and self._older.until_ns >= since_ns else ():
            if clone.created_ns < since_ns:
                return
            if clone.revision == revision and name not in self._newest and name not in self._changes:
                yield name

    def oldest(self) -> tuple[str, Clone] | None:
        """Return the oldest clone, or None."""
        return next(self.by_time(), None)

    def salvage(self) -> tuple[list[tuple[str, Clone]], list[Damaged]]:
        """Return all clones that can be read, oldest first, and what is wrong with the table. Each tree has them all"""
        older = self._older
        errors: list[Damaged] = []
        found = dict(self._loose())
        if older is not None:
            source = self._table_source
            for entry in ascending(source, _by_time(older), tell=errors.append):
                try:
                    found.update(self._show([entry]))
                except Damaged as error:
                    errors.append(error)
            if errors:
                for entry in ascending(source, _by_name(older), tell=errors.append):
                    name = entry.name.decode(errors="surrogatepass")
                    if name not in self._changes:
                        found.setdefault(name, self._clone_at(name, entry))
        return sorted(found.items(), key=_order), errors

    def _loose(self) -> list[tuple[str, Clone]]:
        """Return what stands in no table as it is, the oldest first."""
        changed = [(name, clone) for name, clone in self._changes.items() if clone is not None]
        return sorted([*self._newest.items(), *changed], key=_order)

    def _show(self, entries: Iterable[Entry]) -> Iterator[tuple[str, Clone]]:
        """Yield what entries of the tree by time say, but for what was changed since."""
        changes, vet = self._changes, self._vet
        for entry in entries:
            key = entry.name
            name = key[_TIME_KEY_BYTES:].decode(errors="surrogatepass")
            clone = _clone_of(entry)
            if vet is not None:
                vet(name, clone)
            if not key.startswith(time_key(clone.created_ns)):
                raise Damaged(f"clone table: {key!r} is not where its time belongs")
            if name not in changes:
                yield name, clone

    def is_same(self, other: "Clones") -> bool:
        """Tell whether others are written in the same way, without a look into the table."""
        return (self._newest, self._older, self._changes) == (other._newest, other._older, other._changes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Clones):
            if self.is_same(other):
                return True
            return len(self) == len(other) and not self.differing(other)
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Clones({self._newest!r}, {self._older!r}, changes={self._changes!r})"

    def differing(self, other: "Clones") -> set[str]:
        """Return the names under which `other` has something else, or nothing, or something alone.

        Of the tables only nodes are read that one of them has alone.
        """
        names = self._newest.keys() | other._newest.keys() | self._changes.keys() | other._changes.keys()
        if self._older != other._older:
            trees = (_by_name(each._older) if each._older is not None else None for each in (self, other))
            ours, theirs = trees
            for pair in differences(self._any_source(other), ours, other._any_source(self), theirs):
                names.update(entry.name.decode(errors="surrogatepass") for entry in pair if entry is not None)
        return {name for name in names if self.get(name) != other.get(name)}

    def _any_source(self, other: "Clones") -> Source:
        """Return the own source; of clones without a table nothing is read."""
        return self._table_source if self._older is not None else other._table_source

    # Changed

    def put(self, name: str, clone: Clone) -> "Clones":
        """Return these and `clone` under `name`, in the place of one that has it."""
        if not -TIME_BIAS <= clone.created_ns < TIME_BIAS - 1:
            raise BadInput(f"clone {name!r}: its time cannot be right")
        known = self.get(name)
        if known == clone:
            return self
        if name not in self._newest and (name in self._changes or known is not None):
            return self._with(self._newest, {**self._changes, name: clone})
        return self._with({**self._newest, name: clone}, self._changes)

    def without(self, names: Iterable[str]) -> "Clones":
        """Return these without the clones of these names."""
        gone = set(names)
        in_table = {name for name in gone - self._newest.keys() if name in self._changes or self._find(name)}
        newest = {name: clone for name, clone in self._newest.items() if name not in gone}
        return self._with(newest, {**self._changes, **dict.fromkeys(in_table)})

    @property
    def is_settled(self) -> bool:
        """Whether they may be written as they are; else they are settled first."""
        return not self._changes and len(self._newest) <= NEWEST_MAX

    def settle(self, source: Source, sink: Sink) -> "Clones":
        """Return these with changes made in the table, and the older ones of too many newest moved there.

        The new nodes are put in `sink`, and are read from `source` when they are durable there. One path is written for
        each leaf that changes.
        """
        changes = dict(self._changes)
        moving: list[tuple[str, Clone]] = []
        if len(self._newest) > NEWEST_MAX:
            movable = sorted((each for each in self._newest.items() if _fits_table(*each)), key=_order)
            moving = self._side_by_side(movable[: max(0, len(self._newest) - NEWEST_KEPT)], source)
            changes.update(moving)
        if not changes:
            return self
        by_name: dict[bytes, Entry | None] = {}
        by_time: dict[bytes, Entry | None] = {}
        for name in self._changes:
            before = self._find(name)
            assert before is not None, "what changes in a table is in it"
            by_time[_time_key(name, before.created_ns)] = None
        for name, clone in changes.items():
            by_name[_name_key(name)] = _entry_of(_name_key(name), clone) if clone is not None else None
            if clone is not None:
                time_key = _time_key(name, clone.created_ns)
                by_time[time_key] = _entry_of(time_key, clone)
        moved = dict(moving)
        newest = {name: clone for name, clone in self._newest.items() if name not in moved}
        count = len(self) - len(newest)
        if not count:
            return Clones(newest, source=source)
        older = self._older
        times = [clone.created_ns for clone in changes.values() if clone is not None]
        table = CloneTable(
            count=count,
            by_name=edit(source, sink, _by_name(older) if older is not None else None, by_name, cut=TABLE_CUT),
            by_time=edit(source, sink, _by_time(older) if older is not None else None, by_time, cut=TABLE_CUT),
            until_ns=max([*times, *([older.until_ns] if older is not None else [])]),
        )
        return Clones(newest, table, source=source)

    def _side_by_side(self, movable: list[tuple[str, Clone]], source: Source) -> list[tuple[str, Clone]]:
        """Return of what would move the part that one path of each tree takes in, so that a write stays small.

        That are all, where names ascend with time, as nights give them. Of what goes into various leaves each write
        moves one; many at once are moved at once, as whoever puts them there makes them all.
        """
        older = self._older
        if older is None or len(self._newest) > NEWEST_MAX + 1 or not movable:
            return movable
        first, clone = movable[0]
        name_span = leaf_span(source, _by_name(older), _name_key(first))
        time_span = leaf_span(source, _by_time(older), _time_key(first, clone.created_ns))
        return [
            (name, each)
            for name, each in movable
            if _name_key(name) in name_span and _time_key(name, each.created_ns) in time_span
        ]


class ClonesOfAll(Container[str]):
    """The names of the clones that any of several replicas has."""

    def __init__(self, each: Iterable[Clones]) -> None:
        self._each = list(each)

    def __contains__(self, name: object) -> bool:
        return any(name in clones for clones in self._each)


class _Items(ItemsView[str, Clone]):
    """Names and clones without a look-up for each."""

    def __init__(self, clones: Clones) -> None:
        super().__init__(clones)
        self._clones = clones

    def __iter__(self) -> Iterator[tuple[str, Clone]]:
        return self._clones.by_time()


class _Values(ValuesView[Clone]):
    """Clones without a look-up for each."""

    def __init__(self, clones: Clones) -> None:
        super().__init__(clones)
        self._clones = clones

    def __iter__(self) -> Iterator[Clone]:
        return (clone for _, clone in self._clones.by_time())


def _order(item: tuple[str, Clone]) -> tuple[int, str]:
    return item[1].created_ns, item[0]


def _by_name(table: CloneTable) -> Tree:
    return Tree(table.by_name, table.count)


def _by_time(table: CloneTable) -> Tree:
    return Tree(table.by_time, table.count)


def _name_key(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _time_key(name: str, created_ns: int) -> bytes:
    return time_key(created_ns, _name_key(name))


def _fits_table(name: str, clone: Clone) -> bool:
    """Tell whether a clone can be an entry; what no program writes stays in the ref."""
    return (
        name not in ("", ".", "..")
        and not {"/", "\0"} & set(name)
        and len(clone.revision) == OBJECT_ID_BYTES
        and -TIME_BIAS <= clone.created_ns < TIME_BIAS
        and all(count is None or 0 <= count < _COUNT_MAX for count in (clone.entry_count, clone.total_bytes))
    )


def _optional(count: int | None) -> int:
    return 0 if count is None else count + 1


def _entry_of(key: bytes, clone: Clone) -> Entry:
    """Return a clone as it stands in a tree (docs/formats/pool.md, "Clone table")."""
    return Entry(
        name=key,
        kind=ENTRY_FILE,
        mode=_HELD * clone.held | _AUTOMATIC[clone.automatic],
        mtime_ns=clone.created_ns,
        size=_optional(clone.entry_count),
        node=_optional(clone.total_bytes),
        content_kind=CONTENT_INLINE,
        content=clone.revision,
    )


def _clone_of(entry: Entry) -> Clone:
    automatic = entry.mode & ~_HELD
    if (
        entry.kind != ENTRY_FILE
        or entry.content_kind != CONTENT_INLINE
        or len(entry.content) != OBJECT_ID_BYTES
        or automatic not in _AUTOMATIC_OF
    ):
        raise Damaged(f"clone table: {entry.name!r} is no clone")
    return Clone(
        revision=entry.content,
        created_ns=entry.mtime_ns,
        held=bool(entry.mode & _HELD),
        automatic=_AUTOMATIC_OF[automatic],
        entry_count=entry.size - 1 if entry.size else None,
        total_bytes=entry.node - 1 if entry.node else None,
    )
