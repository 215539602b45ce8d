"""The pool's index: which pack, block and offset hold an object. Local, mapped into memory, made again when lost.

A segment is one file, sorted by id (48 bytes an object):

    magic, version u32, pack_count u32, object_count u64, reserved u64, BLAKE3-256 of all that follows   64 bytes
    pack ids                                                               16 * pack_count
    prefix column: the first 8 bytes of each id, as a native u64            8 * object_count
    rest column: the other 24 bytes of each id                             24 * object_count
    value column: pack number, block index, offset | kind << 24, length | encoding << 31 (u32 each)   16 * object_count

Numbers are in the machine's own byte order, the magic too, so that a foreign index is garbage and is made again.

A pack that a segment names and that is not there was collected, or is lost. `collected` tells: the ids, 16 bytes each,
of packs that a collection deleted and that segments still name.
"""

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from dalsegno.backends.contract import Backend
from dalsegno.formats.objects import KIND_CHUNK
from dalsegno.formats.pack import OFFSET_BITS, OFFSET_MASK
from dalsegno.formats.pack_index import decode_kinds
from dalsegno.pool.marks import find_rows
from dalsegno.terms.errors import BadInput, DalError, NoAccess, NotFound
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES, ObjectId, PackId
from dalsegno.terms.sizes import MIB
from dalsegno.world.chance import random_bytes
from dalsegno.world.files import FileLock, PartialFile, fsync_directory, make_directory, remove_durable, write_durable

Ids = npt.NDArray[np.uint8]
Values = npt.NDArray[np.uint32]
Columns = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8], Values]
"""Prefixes (n), rests (n, 24) and values (n, 4) of a segment."""
Blocks = frozenset[int] | None
"""Blocks of a pack that are not to be relied on; None: all of them."""

SEGMENT_SUFFIX = ".idx"
COLLECTED = "index/collected"
MERGE_LOCK = "merge.lock"
SEGMENTS_MAX = 8
SEGMENT_CHECKED_BYTES_MAX = 32 * MIB
"""A smaller segment is verified whole when opened; a larger one is synced before it gets its name instead."""
_REBUILD_OBJECTS = 250_000
MERGE_ROWS = 64_000
"""Rows of segments that are merged in one go: what bounds its memory, to some 15 MiB."""
_MAGIC = int.from_bytes(b"DDALIDX1", "little")
_VERSION = 1
_HEADER = struct.Struct("=QIIQQ32s")
assert _HEADER.size == 64
_ENCODING_SHIFT = 31
_LENGTH_MASK = (1 << _ENCODING_SHIFT) - 1


class Location(NamedTuple):
    """Where one copy of an object lies."""

    pack_id: PackId
    block_index: int
    offset: int
    kind: int
    length: int
    encoding: int


class _BadSegment(Exception):
    """The file is not a whole segment of this version and machine."""


class Segment:
    """One sorted run of objects, from a mapped file or from memory."""

    def __init__(self, data: "mmap.mmap | bytes", *, name: str) -> None:
        size = len(data)
        if size < _HEADER.size:
            raise _BadSegment(name)
        magic, version, pack_count, object_count, _, digest = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise _BadSegment(name)
        if size != _HEADER.size + pack_count * UUID_BYTES + object_count * 48:
            raise _BadSegment(name)
        view = memoryview(data)
        if size <= SEGMENT_CHECKED_BYTES_MAX and blake3(view[_HEADER.size :]).digest() != digest:
            raise _BadSegment(name)
        self.name = name
        self.count = int(object_count)
        self.digest = digest
        self._body = view[_HEADER.size :]
        at = _HEADER.size
        self.pack_ids = [
            PackId(bytes(view[at + n * UUID_BYTES : at + (n + 1) * UUID_BYTES])) for n in range(pack_count)
        ]
        at += pack_count * UUID_BYTES
        self.prefixes = view[at : at + 8 * self.count].cast("Q")
        at += 8 * self.count
        self.rests = view[at : at + 24 * self.count]
        at += 24 * self.count
        self.values = view[at : at + 16 * self.count].cast("I")
        self.gone: frozenset[int] = frozenset()
        """Pack numbers whose pack is no longer on disk."""
        self.hurt: dict[int, Blocks] = {}
        """Pack numbers whose pack is damaged, and which of its blocks."""
        self.shunned: frozenset[int] = frozenset()
        """Pack numbers of both."""

    def judge(self, *, on_disk: set[PackId], damaged: dict[PackId, Blocks]) -> None:
        """Note which packs are gone and which are damaged."""
        self.gone = frozenset(number for number, pack_id in enumerate(self.pack_ids) if pack_id not in on_disk)
        self.hurt = {}
        if damaged:
            self.hurt = {n: damaged[pack_id] for n, pack_id in enumerate(self.pack_ids) if pack_id in damaged}
        self.shunned = self.gone.union(self.hurt)

    def is_hurt(self, row: int) -> bool:
        """Tell whether a row lies in a block that is not to be relied on."""
        number = self.values[row * 4]
        if number not in self.hurt:
            return False
        blocks = self.hurt[number]
        return blocks is None or self.values[row * 4 + 1] in blocks

    def is_intact(self) -> bool:
        """Return whether the content is what the header's digest promises."""
        return bool(blake3(self._body, max_threads=blake3.AUTO).digest() == self.digest)

    def find(self, identity: bytes) -> int | None:
        """Return the first row of an object, whether its pack is still there or not, or None."""
        prefixes = self.prefixes
        prefix = int.from_bytes(identity[:8], "big")
        row = bisect_left(prefixes, prefix)
        while row < self.count and prefixes[row] == prefix:
            if self.rests[row * 24 : row * 24 + 24] == identity[8:]:
                return row
            row += 1
        return None

    @property
    def object_count(self) -> int:
        """How many rows the segment has."""
        return self.count

    def find_rows(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Return the first rows of (n, 32) ids, as `find` does; -1 for those that are not there."""
        tails = np.frombuffer(self.rests, np.uint8).reshape(-1, 24)
        return find_rows(np.frombuffer(self.prefixes, np.uint64), tails, ids, self.find)

    def ids_of(self, rows: npt.NDArray[np.intp]) -> Ids:
        """Return the ids (n, 32) in these rows."""
        ids = np.empty((len(rows), OBJECT_ID_BYTES), np.uint8)
        ids[:, :8] = np.frombuffer(self.prefixes, np.uint64)[rows].astype(">u8").view(np.uint8).reshape(-1, 8)
        ids[:, 8:] = np.frombuffer(self.rests, np.uint8).reshape(-1, 24)[rows]
        return ids

    def rows_of_packs(self, marked: npt.NDArray[np.bool_]) -> Iterator[tuple[PackId, npt.NDArray[np.intp]]]:
        """Yield each pack that holds a marked row, vanished ones too, with the rows of all its objects."""
        numbers = np.frombuffer(self.values, np.uint32).reshape(-1, 4)[:, 0]
        wanted = np.zeros(len(self.pack_ids), np.bool_)
        wanted[numbers[np.flatnonzero(marked)]] = True
        # Sorting only the packs that are wanted keeps a small increment from a large pool small work.
        rows = np.flatnonzero(wanted[numbers])
        order = rows[np.argsort(numbers[rows], kind="stable")]
        ends = np.cumsum(np.bincount(numbers[rows], minlength=len(self.pack_ids)))
        for number in np.flatnonzero(wanted).tolist():
            yield self.pack_ids[number], order[ends[number - 1] if number else 0 : ends[number]]

    def pack_values(self, rows: npt.NDArray[np.intp]) -> Values:
        """Return the values of rows as the pack's own index has them: block, where, length, encoding."""
        own = np.frombuffer(self.values, np.uint32).reshape(-1, 4)[rows]
        values = np.empty((len(rows), 4), np.uint32)
        values[:, 0:2] = own[:, 1:3]
        values[:, 2] = own[:, 3] & np.uint32(_LENGTH_MASK)
        values[:, 3] = own[:, 3] >> np.uint32(_ENCODING_SHIFT)
        return values

    def copies(self, prefix: int, rest: bytes, *, hurt: bool = True) -> Iterator[Location]:
        """Yield every copy of one object in this segment; with `hurt` False only those that may be relied on."""
        prefixes = self.prefixes
        position = bisect_left(prefixes, prefix)
        while position < self.count and prefixes[position] == prefix:
            if self.rests[position * 24 : position * 24 + 24] == rest:
                pack_number, block_index, where, length = self.values[position * 4 : position * 4 + 4]
                if pack_number not in self.gone and (hurt or not self.hurt or not self.is_hurt(position)):
                    yield Location(
                        self.pack_ids[pack_number],
                        block_index,
                        where & OFFSET_MASK,
                        where >> OFFSET_BITS,
                        length & _LENGTH_MASK,
                        length >> _ENCODING_SHIFT,
                    )
            position += 1


def encode_segment(packs: Iterable[tuple[PackId, Ids, Values]]) -> bytes:
    """Return a segment that holds these packs' objects; values are those of a pack (block, where, length, encoding)."""
    pack_ids, all_ids, all_values = [], [], []
    for number, (pack_id, ids, values) in enumerate(packs):
        pack_ids.append(pack_id)
        all_ids.append(ids.reshape(-1, OBJECT_ID_BYTES))
        own = np.empty((len(values), 4), np.uint32)
        own[:, 0] = number
        own[:, 1:3] = values[:, 0:2]
        own[:, 3] = values[:, 2] | (values[:, 3] << np.uint32(_ENCODING_SHIFT))
        all_values.append(own)
    return _encode_columns(pack_ids, np.concatenate(all_ids), np.concatenate(all_values))


def _encode_columns(pack_ids: list[PackId], ids: Ids, values: Values) -> bytes:
    prefixes = np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    order = np.argsort(prefixes, kind="stable")
    body = b"".join(
        (
            b"".join(pack_ids),
            prefixes[order].tobytes(),
            ids[order, 8:].tobytes(),
            values[order].astype(np.uint32).tobytes(),
        )
    )
    digest = blake3(body, max_threads=blake3.AUTO).digest()
    return _HEADER.pack(_MAGIC, _VERSION, len(pack_ids), len(ids), 0, digest) + body


def choose_merge(counts: list[int]) -> list[int]:
    """Return which segments to merge into one: the small ones, so that each object is copied O(log n) times."""
    if len(counts) < SEGMENTS_MAX:
        return []
    order = sorted(range(len(counts)), key=lambda position: counts[position])
    chosen = order[: SEGMENTS_MAX // 2]
    total = sum(counts[position] for position in chosen)
    for position in order[SEGMENTS_MAX // 2 :]:
        if counts[position] > 4 * total:
            break
        chosen.append(position)
        total += counts[position]
    return chosen


def _merge_rows(segments: list[Segment], numbers: list[npt.NDArray[np.uint32]]) -> Iterator[Columns]:
    """Yield the sorted rows of several segments, some at a time: ids are hashes, so equal ranges hold about as many."""
    parts = sum(segment.count for segment in segments) // MERGE_ROWS + 1
    prefixes = [np.frombuffer(segment.prefixes, np.uint64) for segment in segments]
    for part in range(parts):
        low, high = part * 2**64 // parts, (part + 1) * 2**64 // parts - 1
        found: list[Columns] = []
        for segment, column, new_numbers in zip(segments, prefixes, numbers, strict=True):
            first = int(np.searchsorted(column, np.uint64(low), "left"))
            last = int(np.searchsorted(column, np.uint64(high), "right"))
            values = np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[first:last].copy()
            rests = np.frombuffer(segment.rests, np.uint8).reshape(-1, 24)[first:last]
            kept = ~np.isin(values[:, 0], list(segment.gone))
            values[:, 0] = new_numbers[values[:, 0]]
            found.append((column[first:last][kept], rests[kept], values[kept]))
        joined = [np.concatenate(columns) for columns in zip(*found, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        yield joined[0][order], joined[1][order], joined[2][order]


def _write_merged(path: Path, segments: list[Segment]) -> None:
    """Write one segment with all rows of several whose packs are there, column by column."""
    pack_ids: list[PackId] = []
    numbers: list[npt.NDArray[np.uint32]] = []
    for segment in segments:
        own = np.zeros(max(len(segment.pack_ids), 1), np.uint32)
        for number, pack_id in enumerate(segment.pack_ids):
            if number not in segment.gone:
                own[number] = len(pack_ids)
                pack_ids.append(pack_id)
        numbers.append(own)
    digest = blake3(max_threads=blake3.AUTO)
    count = 0
    with PartialFile(path, to_owner=True) as file:
        file.write(bytes(_HEADER.size))
        digest.update(b"".join(pack_ids))
        file.write(b"".join(pack_ids))
        for column in range(3):
            for rows in _merge_rows(segments, numbers):
                data = rows[column].tobytes()
                digest.update(data)
                file.write(data)
                count += len(rows[column]) if column == 0 else 0
        file.rewrite(0, _HEADER.pack(_MAGIC, _VERSION, len(pack_ids), count, 0, digest.digest()))
        file.commit()


class Index:
    """All segments of one pool. Several processes add and merge at once; each keeps what it has mapped."""

    def __init__(
        self,
        path: Path,
        *,
        backend: Backend,
        list_packs: Callable[[], set[PackId]],
        read_pack: Callable[[PackId], tuple[Ids, Values]],
        report_damage: Callable[[PackId, DalError], None],
        settle_packs: Callable[[Iterable[PackId]], None],
        report_lost: Callable[[set[PackId]], None] = lambda lost: None,
        report_remade: Callable[[], None] = lambda: None,
    ) -> None:
        """`path` is a directory on a local disk, for the segments; `backend` has the list of what was collected.

        `report_lost` is told the packs that are named and that nobody collected, before they are forgotten.

        `report_remade` is told that there are packs, but that there was no index.
        """
        self.path = path
        self._backend = backend
        self._report_lost = report_lost
        self._report_remade = report_remade
        self.damaged: dict[PackId, Blocks] = {}
        self._list_packs = list_packs
        self._read_pack = read_pack
        self._report_damage = report_damage
        self._settle_packs = settle_packs
        self.unsettled: set[PackId] = set()
        """Packs of others whose names could not be made durable: nothing may rest on them yet."""
        self._segments: tuple[Segment, ...] = ()
        self._in_memory: list[Segment] = []
        self.packs_on_disk: set[PackId] = set()
        with suppress(NoAccess):  # in a pool that cannot be written the index is made in memory
            make_directory(path, to_owner=True)

    @property
    def object_count(self) -> int:
        """Entries in all segments, copies and vanished packs included."""
        return sum(segment.count for segment in self._segments)

    def measure(self, excepted: Container[PackId]) -> tuple[int, int]:
        """Return how many objects lie in packs that are there, but for some, and their bytes before compression.

        A second copy counts, too.
        """
        count = raw_bytes = 0
        for segment in self._segments:
            values = np.frombuffer(segment.values, np.uint32).reshape(-1, 4)
            kept = np.array([pack_id not in excepted for pack_id in segment.pack_ids], np.bool_)
            kept[list(segment.gone)] = False
            rows = kept[values[:, 0]]
            count += int(np.count_nonzero(rows))
            raw_bytes += int((values[rows, 3] & np.uint32(_LENGTH_MASK)).sum(dtype=np.uint64))
        return count, raw_bytes

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments in use, for the check."""
        return self._segments

    def find_all(self, identity: bytes) -> Iterator[Location]:
        """Yield every known copy of an object."""
        prefix = int.from_bytes(identity[:8], "big")
        rest = identity[8:]
        for segment in self._segments:
            yield from segment.copies(prefix, rest)

    def find_good(self, identity: bytes) -> Iterator[Location]:
        """Yield every copy of an object that may be relied on."""
        prefix = int.from_bytes(identity[:8], "big")
        for segment in self._segments:
            yield from segment.copies(prefix, identity[8:], hurt=False)

    def hold(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return for each of (n, 32) ids whether it has a copy that may be relied on."""
        held = np.zeros(len(ids), np.bool_)
        doubtful = np.zeros(len(ids), np.bool_)
        for segment in self._segments:
            open_rows = np.flatnonzero(~held)
            if not len(open_rows):
                break
            found = segment.find_rows(ids[open_rows])
            hit = found >= 0
            numbers = np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[found[hit], 0]
            bad = np.isin(numbers, list(segment.shunned)) if segment.shunned else np.zeros(len(numbers), np.bool_)
            held[open_rows[hit][~bad]] = True
            doubtful[open_rows[hit][bad]] = True
        for row in np.flatnonzero(doubtful & ~held).tolist():  # another copy, or another block of a damaged pack
            held[row] = next(self.find_good(ids[row].tobytes()), None) is not None
        return held

    def ids_with(self, prefixes: npt.NDArray[np.uint64]) -> bytes:
        """Return the joined ids of all objects but chunks whose first 8 bytes are among sorted `prefixes`."""
        found: set[bytes] = set()
        for segment in self._segments if len(prefixes) else ():
            rows = np.flatnonzero(np.isin(np.frombuffer(segment.prefixes, np.uint64), prefixes))
            kinds = decode_kinds(np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[rows, 2])
            found.update(each.tobytes() for each in segment.ids_of(rows[kinds != KIND_CHUNK]))
        return b"".join(sorted(found))

    def holds_chunks(self) -> bool:
        """Tell whether a pack that is there holds a chunk."""
        for segment in self._segments:
            values = np.frombuffer(segment.values, np.uint32).reshape(-1, 4)
            there = np.ones(len(segment.pack_ids), np.bool_)
            there[list(segment.gone)] = False
            if bool((there[values[:, 0]] & (decode_kinds(values[:, 2]) == KIND_CHUNK)).any()):
                return True
        return False

    def ids_but_chunks(self) -> Iterator[bytes]:
        """Yield joined ids of all objects that are no chunks."""
        for segment in self._segments:
            kinds = decode_kinds(np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[:, 2])
            yield segment.ids_of(np.flatnonzero(kinds != KIND_CHUNK)).tobytes()

    def lookup(self, identity: bytes) -> Location | None:
        """Return where an object lies, or None."""
        prefix = int.from_bytes(identity[:8], "big")
        for segment in self._segments:
            prefixes = segment.prefixes
            position = bisect_left(prefixes, prefix)
            if position < segment.count and prefixes[position] == prefix:
                for location in segment.copies(prefix, identity[8:]):
                    return location
        return None

    def pack_of(self, identity: bytes) -> PackId | None:
        """Return a pack in which an object may be relied on, or None: the short way, taken for all that is written."""
        prefix = int.from_bytes(identity[:8], "big")
        for segment in self._segments:
            prefixes = segment.prefixes
            position = bisect_left(prefixes, prefix)
            if position < segment.count and prefixes[position] == prefix:
                pack_number = segment.values[position * 4]
                if (
                    segment.rests[position * 24 : position * 24 + 24] == identity[8:]
                    and pack_number not in segment.shunned
                ):
                    return segment.pack_ids[pack_number]
                for location in segment.copies(prefix, identity[8:], hurt=False):
                    return location.pack_id
        return None

    def contains(self, identity: bytes) -> bool:
        """Return whether an object is in a pack that is there, and not in what is known to be damaged."""
        return self.pack_of(identity) is not None

    def find_prefix(self, digits: str) -> list[ObjectId]:
        """Return the ids that begin with these hexadecimal digits, sorted."""
        digits = digits.lower()
        if not digits or len(digits) > 2 * OBJECT_ID_BYTES or any(digit not in "0123456789abcdef" for digit in digits):
            raise BadInput(f"id {digits!r}: expected 1 to 64 hexadecimal digits")
        low = int(digits[:16].ljust(16, "0"), 16)
        high = int(digits[:16].ljust(16, "f"), 16)
        found: set[bytes] = set()
        for segment in self._segments:
            position = bisect_left(segment.prefixes, low)
            while position < segment.count and segment.prefixes[position] <= high:
                identity = segment.prefixes[position].to_bytes(8, "big") + bytes(
                    segment.rests[position * 24 : position * 24 + 24]
                )
                if segment.values[position * 4] not in segment.gone and identity.hex().startswith(digits):
                    found.add(identity)
                position += 1
        return [ObjectId(identity) for identity in sorted(found)]

    def add_segment(self, packs: list[tuple[PackId, Ids, Values]]) -> None:
        """Make these packs' objects known: here at once, to other processes when they refresh."""
        data = encode_segment(packs)
        self.packs_on_disk.update(pack_id for pack_id, _, _ in packs)
        self._write(data)
        self.merge()

    def _write(self, data: bytes) -> None:
        name = random_bytes(8).hex() + SEGMENT_SUFFIX
        if self.unsettled:
            self._keep(data)
            return
        try:
            write_durable(self.path / name, data, sync=len(data) > SEGMENT_CHECKED_BYTES_MAX, to_owner=True)
        except DalError:
            # A pool that this user may not write, or a full disk: the packs are durable, so the index may stay here.
            self._keep(data)
        else:
            self._use(Segment(self._map(name), name=name))

    def _keep(self, data: bytes) -> None:
        """Keep a segment for this process alone."""
        segment = Segment(data, name="")
        self._in_memory.append(segment)
        self._use(segment)

    def _use(self, segment: Segment) -> None:
        segment.judge(on_disk=self.packs_on_disk, damaged=self.damaged)
        self._segments = (*self._segments, segment)

    def _map(self, name: str) -> "mmap.mmap | bytes":
        with open(self.path / name, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.path) if entry.name.endswith(SEGMENT_SUFFIX)}
        except (FileNotFoundError, PermissionError):
            return set()

    def _load(self) -> None:
        """Map what is in the directory, keeping what is mapped already."""
        known = {segment.name: segment for segment in self._segments if segment.name}
        for _ in range(100):
            names = self._names()
            loaded: list[Segment] = []
            try:
                for name in sorted(names):
                    segment = known.get(name)
                    if segment is None:
                        try:
                            segment = Segment(self._map(name), name=name)
                        except _BadSegment:
                            with suppress(NoAccess):  # who may not write makes it again in memory
                                remove_durable(self.path / name, sync=False)
                            continue
                        except PermissionError:
                            continue
                        known[name] = segment
                    loaded.append(segment)
            except FileNotFoundError:
                continue  # another process merged this segment meanwhile: list again
            loaded.sort(key=lambda segment: -segment.count)
            self._segments = (*loaded, *self._in_memory)
            return

    def refresh(self) -> None:
        """See what other processes added, merged or collected, and read in packs that no segment names."""
        # Packs first: a pack that appears after the listing is merely not seen yet.
        on_disk = self._list_packs()
        self._load()
        named = self._named()
        if named - on_disk:
            on_disk = self._list_packs()  # a segment may name a pack that is newer than the first listing
        missing = on_disk - named
        if missing and not named:
            self._report_remade()
        self.packs_on_disk = on_disk
        if missing:
            self._read_in(missing)
        if named - on_disk:
            self._tell_lost(on_disk)
        self.judge(self.damaged)
        self.merge()

    def settle(self) -> None:
        """Make durable what could not be made so before; raises Unavailable while that fails."""
        if packs := set(self.unsettled):
            self._settle_packs(packs)
            self.unsettled.difference_update(packs)  # another thread may have met more of them meanwhile

    def judge(self, damaged: dict[PackId, Blocks]) -> None:
        """Know these packs to be damaged."""
        self.damaged = damaged
        for segment in self._segments:
            segment.judge(on_disk=self.packs_on_disk, damaged=damaged)

    def _named(self, *, stored: bool = False) -> set[PackId]:
        """Return the packs that segments name; `stored`: only those that a collection knows, too."""
        named: set[PackId] = set()
        for segment in self._segments:
            if segment.name or not stored:
                named.update(segment.pack_ids)
        return named

    def _tell_lost(self, on_disk: set[PackId]) -> None:
        """Report the packs that segments name, that are not there, and that nobody collected."""
        if not self._named(stored=True) - on_disk - self.read_collected():
            return
        # A collection may have trimmed the index meanwhile, and no longer lists what it named before.
        self._load()
        lost = self._named(stored=True) - self._list_packs() - self.read_collected()
        if lost:
            self._report_lost(lost)

    def read_collected(self) -> set[PackId]:
        """Return the packs that a collection deleted and that segments may still name."""
        try:
            data = self._backend.read(COLLECTED)
        except DalError:
            return set()
        return {PackId(data[at : at + UUID_BYTES]) for at in range(0, len(data) - UUID_BYTES + 1, UUID_BYTES)}

    def note_collected(self, pack_ids: Iterable[PackId]) -> None:
        """Say that packs are about to be deleted: durable before they are, else they would seem lost."""
        named = self._named()
        known = self.read_collected()
        new = {pack_id for pack_id in pack_ids if pack_id in named} - known
        if new:
            self._backend.put(COLLECTED, b"".join(sorted(known | new)))

    def trim(self) -> None:
        """Drop packs that are gone from segments that are mostly of such. Leaves it to another who is at it."""
        if not any(segment.gone for segment in self._segments):
            return
        try:
            with FileLock(self.path / MERGE_LOCK) as lock:
                if lock.acquire(wait=False):
                    self._load()
                    self.judge(self.damaged)
                    stale = [segment for segment in self._segments if segment.name and _is_mostly_gone(segment)]
                    if stale:
                        self._replace(stale)
                    collected = self.read_collected()
                    if collected - self._named():
                        fsync_directory(self.path)  # a segment that came back would name what is not listed any more
                        self._backend.put(COLLECTED, b"".join(sorted(collected & self._named())))
        except DalError:
            return  # not writable or full: a long index is slow, not wrong

    def _read_in(self, missing: set[PackId]) -> None:
        # A pack that no segment names: its writer is at work, or was killed before its name was durable. A segment is
        # written only behind that, so that whoever finds one knows that the packs in it will stay.
        try:
            self._settle_packs(missing)
        except DalError:
            self.unsettled |= missing
        batch: list[tuple[PackId, Ids, Values]] = []
        count = 0
        for pack_id in sorted(missing):
            try:
                ids, values = self._read_pack(pack_id)
            except NotFound:
                continue
            except DalError as error:
                self._report_damage(pack_id, error)
                continue
            batch.append((pack_id, ids, values))
            count += len(ids)
            if count >= _REBUILD_OBJECTS:
                self._write(encode_segment(batch))
                batch, count = [], 0
        if batch:
            self._write(encode_segment(batch))

    def forget(self, pack_ids: Iterable[PackId]) -> None:
        """Stop naming packs that are about to be, or have been, deleted."""
        self.packs_on_disk.difference_update(pack_ids)
        gone = set(pack_ids)
        for segment in self._segments:
            numbers = {number for number, pack_id in enumerate(segment.pack_ids) if pack_id in gone}
            segment.gone |= frozenset(numbers)
            segment.shunned |= segment.gone

    def merge(self) -> None:
        """Merge small segments when there are many. Leaves it to another process that is at it."""
        if len(self._segments) < SEGMENTS_MAX:
            return
        try:
            with FileLock(self.path / MERGE_LOCK) as lock:
                if lock.acquire(wait=False):
                    self._merge_locked()
        except DalError:
            return  # not writable or full: many segments are slow, not wrong

    def _merge_locked(self) -> None:
        self._load()
        self.judge(self.damaged)
        candidates = [segment for segment in self._segments if segment.name]
        chosen = [candidates[position] for position in choose_merge([segment.count for segment in candidates])]
        if not chosen:
            return
        self._replace(chosen)

    def _replace(self, chosen: list[Segment]) -> None:
        """Write segments anew as one, without the packs that are gone. With the merge lock held."""
        on_disk = self.packs_on_disk
        # A segment of another process may name packs made since our listing: ask the directory again for those.
        if any(pack_id not in on_disk for segment in chosen for pack_id in segment.pack_ids):
            on_disk = self._list_packs()
            self._tell_lost(on_disk)
        for segment in chosen:
            segment.judge(on_disk=on_disk, damaged=self.damaged)
        if any(len(segment.gone) < len(segment.pack_ids) for segment in chosen):
            _write_merged(self.path / (random_bytes(8).hex() + SEGMENT_SUFFIX), chosen)
        for segment in chosen:
            remove_durable(self.path / segment.name, sync=False)
        self._load()
        self.judge(self.damaged)


def _is_mostly_gone(segment: Segment) -> bool:
    """Tell whether more than half of a segment's rows are of packs that are gone."""
    if not segment.gone:
        return False
    numbers = np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[:, 0]
    gone = np.zeros(len(segment.pack_ids), np.bool_)
    gone[list(segment.gone)] = True
    return 2 * int(np.count_nonzero(gone[numbers])) > segment.count
