"""The links table of a revision, read at random: the file behind each of millions of hard links, in bounded memory.

Node numbers are random, so the files of one directory lie all over the table. Each leaf is therefore decoded once and
kept packed: some 60 bytes a file where decoded entries take ten times as much. Past a bound the leaves used last stay.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryLeaf, DirectoryList, Entry
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.trees.read import links_key
from dalsegno.world.workers import new_lock

KEPT_BYTES_MAX: Final = 48 * MIB
ROW_BYTES: Final = 12
"""What a file takes beside its record: its key and where the record ends."""
FACTS_BYTES: Final = 400
"""What one set of facts takes, about."""
FILL_AFTER: Final = 16
"""After so many leaves that were looked for one by one, all others are read in the order in which they are stored."""

_HEX_DIGITS: Final = 16

_Facts = tuple[int, int, int, int, bytes, bytes, int, int]
"""Kind, mode, uid, gid, owner, group, device, flags: many files have the same."""


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a file has of its own; its name in the table and its node are its key."""

    facts: int
    mtime_ns: int
    btime_ns: int
    size: int
    content_kind: int
    content: bytes
    xattrs: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class _Leaf:
    """The files of one leaf: `keys` ascend; record n ends at `ends[n]` in `records`."""

    __slots__ = ("ends", "facts", "keys", "records")

    def __init__(self, entries: list[Entry]) -> None:
        known: dict[_Facts, int] = {}
        records: list[bytes] = []
        ends: list[int] = []
        end = 0
        for e in entries:
            facts = (e.kind, e.mode, e.uid, e.gid, e.owner, e.group, e.device, e.flags)
            number = known.setdefault(facts, len(known))
            record = _encode((number, e.mtime_ns, e.btime_ns, e.size, e.content_kind, e.content, e.xattrs))
            records.append(record)
            end += len(record)
            ends.append(end)
        self.keys = array("Q", [_key_of(entry.name) for entry in entries])
        self.ends = array("I", ends)
        self.records = b"".join(records)
        self.facts = tuple(known)

    @property
    def size_bytes(self) -> int:
        return len(self.records) + ROW_BYTES * len(self.keys) + FACTS_BYTES * len(self.facts)

    def entry(self, row: int) -> Entry:
        key = self.keys[row]
        record = _decode(memoryview(self.records)[self.ends[row - 1] if row else 0 : self.ends[row]])
        kind, mode, uid, gid, owner, group, device, flags = self.facts[record.facts]
        return Entry(
            name=links_key(key),
            node=key,
            kind=kind,
            mode=mode,
            uid=uid,
            gid=gid,
            owner=owner,
            group=group,
            mtime_ns=record.mtime_ns,
            btime_ns=record.btime_ns,
            size=record.size,
            content_kind=record.content_kind,
            content=record.content,
            device=device,
            flags=flags,
            xattrs=record.xattrs,
        )


def _key_of(name: bytes) -> int:
    if len(name) == _HEX_DIGITS:
        try:
            key = int(name, 16)
        except ValueError:
            key = -1
        if key >= 0 and links_key(key) == name:
            return key
    raise Damaged(f"the links table holds {name!r}, which is no node number")


class LinksTable:
    """One revision's links table, for several threads. Its rows are those of the directory that it is."""

    def __init__(self, source: Source, identity: bytes, *, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._source = source
        self._identity = identity
        self._kept_bytes_max = kept_bytes_max
        self._lock = new_lock()
        # By leaf: the last key in it, the row of its first file (and one more: of all), its id.
        self._last_keys: array[int] | None = None
        self._first_rows = array("Q", [0])
        self._ids = bytearray()
        self._leaves: OrderedDict[int, _Leaf] = OrderedDict()
        self._kept_bytes = 0
        self._missed_count = 0

    def at(self, row: int) -> Entry:
        """Return the file in a row; Damaged when there is no such row."""
        with self._lock:
            self._read_lists()
            number = bisect_right(self._first_rows, row) - 1
            if not 0 <= number < len(self._first_rows) - 1:
                raise Damaged(f"the links table has no row {row}")
            leaf = self._leaf(number)
        return leaf.entry(row - self._first_rows[number])

    def find(self, link: int) -> tuple[int, Entry] | None:
        """Return row and entry (under the table's name) of a file, or None; Damaged when the table is."""
        with self._lock:
            last_keys = self._read_lists()
            number = bisect_left(last_keys, link)
            if number == len(last_keys):
                return None
            leaf = self._leaf(number)
        row = bisect_left(leaf.keys, link)
        if row == len(leaf.keys) or leaf.keys[row] != link:
            return None
        return self._first_rows[number] + row, leaf.entry(row)

    @property
    def count(self) -> int:
        """Return how many files the table says it holds."""
        with self._lock:
            self._read_lists()
            return self._first_rows[-1]

    def _read_lists(self) -> "array[int]":
        """Read everything above the leaves, once: a word of memory or two for a leaf. Return their last keys."""
        if self._last_keys is not None:
            return self._last_keys
        last_keys, first_rows, ids = array("Q"), array("Q", [0]), bytearray()
        if self._identity:
            try:
                for last, count, identity in self._leaf_places(self._identity, None):
                    if last_keys and last <= last_keys[-1]:
                        # Else lists that name one list again and again would be more leaves than there are bytes.
                        raise Damaged(f"the links table holds {links_key(last)!r} twice, or in the wrong order")
                    last_keys.append(last)
                    first_rows.append(first_rows[-1] + count)
                    ids += identity
            except OverflowError:
                raise Damaged("the links table says that it holds more files than there can be") from None
        self._last_keys, self._first_rows, self._ids = last_keys, first_rows, ids
        return last_keys

    def _leaf_places(self, identity: bytes, level: int | None) -> Iterator[tuple[int, int, bytes]]:
        node = objects.decode_directory(self._source.get(ObjectId(identity)))
        found = node.level if isinstance(node, DirectoryList) else 0
        if level is not None and found != level:
            raise Damaged(f"directory {identity[:6].hex()}: a node at level {found} where level {level} belongs")
        if isinstance(node, DirectoryLeaf):
            if node.entries:
                yield _key_of(node.entries[-1].name), len(node.entries), identity
            return
        for child in node.children:
            if node.level == 1:
                yield _key_of(child.last_name), child.entry_count, child.id
            else:
                yield from self._leaf_places(child.id, node.level - 1)

    def _leaf(self, number: int) -> _Leaf:
        leaf = self._leaves.get(number)
        if leaf is not None:
            self._leaves.move_to_end(number)
            return leaf
        self._missed_count += 1
        if self._missed_count == FILL_AFTER:
            self._fill()
        return self._leaves.get(number) or self._read_leaf(number)

    def _read_leaf(self, number: int) -> _Leaf:
        identity = bytes(self._ids[number * OBJECT_ID_BYTES : (number + 1) * OBJECT_ID_BYTES])
        node = objects.decode_directory(self._source.get(ObjectId(identity)))
        count = self._first_rows[number + 1] - self._first_rows[number]
        if not isinstance(node, DirectoryLeaf) or len(node.entries) != count:
            raise Damaged(f"directory {identity[:6].hex()}: not the leaf of {count} entries that belongs there")
        leaf = self._leaves[number] = _Leaf(node.entries)
        self._kept_bytes += leaf.size_bytes
        while self._kept_bytes > self._kept_bytes_max and len(self._leaves) > 1:
            self._kept_bytes -= self._leaves.popitem(last=False)[1].size_bytes
        return leaf

    def _fill(self) -> None:
        """Read what has room, in order: a block opened once gives all of its leaves."""
        for number in range(len(self._first_rows) - 1):
            if number not in self._leaves:
                try:
                    self._read_leaf(number)
                except Damaged:
                    continue  # said to whoever asks for one of its files
                if self._kept_bytes > self._kept_bytes_max * 9 // 10:
                    return
