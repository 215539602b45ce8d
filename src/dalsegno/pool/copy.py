"""Copy marked objects from packs into a new pack: blocks wanted whole as they are, others record by record.

Each block is opened with its tag checked before a byte of it is used. A block wanted whole is sealed again without
compressing it anew, unless the new pack is to be a dense one; of another one the wanted records make a block of their
own. Reading, opening and sealing is the workers' part.
"""

from array import array
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dalsegno.formats import pack
from dalsegno.formats.pack_block import decompress
from dalsegno.formats.pack_index import decode_kinds, decode_offsets, file_order, move_places
from dalsegno.formats.pack_records import split_records
from dalsegno.pool.index import Segment
from dalsegno.pool.marks import Marks
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_write import BlockSealer, PackWriter
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.ids import OBJECT_ID_BYTES, PackId

ID_OFFSET = pack.RECORD.size - OBJECT_ID_BYTES

Fetch = Callable[[bytes], tuple[int, bytes]]
"""Return kind and payload of an object: for delta records, whose base may be anywhere."""


class PoolMarks(Marks):
    """Marks over a pool's index as it is now; packs that are added or collected meanwhile do not disturb them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._segments = pool.index.segments
        super().__init__(self._segments)

    def copy(self, writer: PackWriter, progress: Callable[[int, int], None]) -> None:
        """Copy what is marked, pack by pack, the oldest first; `progress` is told raw bytes done and in all."""
        for done, total in self.copy_steps(writer):
            progress(done, total)

    def copy_steps(self, writer: PackWriter) -> Iterator[tuple[int, int]]:
        """Do the same in steps, with (raw bytes done, in all) after each."""
        parts = self._parts()
        total = sum(
            int(segment.pack_values(rows[marked])[:, 2].sum(dtype=np.uint64)) for _, segment, rows, marked in parts
        )
        done = 0
        for pack_id, segment, rows, marked in parts:
            ids, values = segment.ids_of(rows), segment.pack_values(rows)
            try:
                reader = self._pool.open_pack(pack_id)
            except (NotFound, Damaged):  # collected meanwhile, or damaged: another pack has what is needed of it
                _copy_each(ids[marked], writer, self._pool.get_kind)
            else:
                with reader:
                    fetch = self._pool.get_kind
                    hurt = marked & self._pool.losses.hurt_rows(pack_id, values)
                    if hurt.any():
                        _copy_each(ids[hurt], writer, fetch)
                        marked = marked & ~hurt
                    try:
                        for copied in copy_steps(reader, writer, ids=ids, values=values, marked=marked, fetch=fetch):
                            yield done + copied, total
                        writer.drain()
                    except Damaged:
                        self._pool.look_at_pack(pack_id)  # so that the next backup heals it
                        raise
            done += int(values[marked, 2].sum(dtype=np.uint64))
            yield done, total
        for identity in sorted(self.elsewhere):
            kind, payload = self._pool.get_kind(identity)
            writer.put(kind, identity, payload)

    def rows(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32]]]:
        """Yield (ids, kinds, payload lengths) of what is marked, many at a time, in the order of `copy`."""
        for _, segment, rows, marked in self._parts():
            wanted = rows[marked]
            values = segment.pack_values(wanted)
            order = file_order(values)
            ids, values = segment.ids_of(wanted[order]), values[order]
            lengths = values[:, 2].copy()
            for row in np.flatnonzero(values[:, 3]).tolist():  # a delta's own length is not its object's
                lengths[row] = len(self._pool.get_kind(ids[row].tobytes())[1])
            yield ids, decode_kinds(values[:, 1]), lengths
        for identity in sorted(self.elsewhere):
            kind, payload = self._pool.get_kind(identity)
            column = np.frombuffer(identity, np.uint8).reshape(1, OBJECT_ID_BYTES)
            yield column, np.array([kind], np.uint32), np.array([len(payload)], np.uint32)

    def _parts(self) -> list[tuple[PackId, Segment, NDArray[np.intp], NDArray[np.bool_]]]:
        """Return for each pack with marked objects, the oldest first: its rows in a segment, and which are marked."""
        self.settle()
        parts: list[tuple[int, PackId, Segment, NDArray[np.intp], NDArray[np.bool_]]] = []
        for number, segment in enumerate(self._segments):
            mask = self.mask(number)
            for pack_id, rows in segment.rows_of_packs(mask):
                parts.append((self._age(pack_id), pack_id, segment, rows, mask[rows]))
        parts.sort(key=lambda part: part[:2])
        return [part[1:] for part in parts]

    def ids(self) -> Iterator[bytes]:
        """Yield the marked ids, many joined at a time."""
        self.settle()
        for number, segment in enumerate(self._segments):
            yield segment.ids_of(np.flatnonzero(self.mask(number))).tobytes()
        yield from self.elsewhere

    def _age(self, pack_id: PackId) -> int:
        try:
            return self._pool.pack_status(pack_id).changed_ns
        except NotFound:
            return 0


def copy_marked(
    reader: PackReader,
    writer: PackWriter,
    *,
    ids: NDArray[np.uint8],
    values: NDArray[np.uint32],
    marked: NDArray[np.bool_],
    fetch: Fetch,
    progress: Callable[[int], None],
) -> None:
    """Copy the marked objects of a pack, whose index rows are all given; `progress` is told raw bytes."""
    for copied in copy_steps(reader, writer, ids=ids, values=values, marked=marked, fetch=fetch):
        progress(copied)


def copy_steps(
    reader: PackReader,
    writer: PackWriter,
    *,
    ids: NDArray[np.uint8],
    values: NDArray[np.uint32],
    marked: NDArray[np.bool_],
    fetch: Fetch,
) -> Iterator[int]:
    """Do the same block by block, with the raw bytes copied so far after each."""
    order = file_order(values)
    blocks = values[order, 0]
    touched = blocks[marked[order]]
    copied = 0
    for number in touched[np.flatnonzero(np.diff(touched, prepend=-1))].tolist():
        if number >= reader.block_count:
            raise Damaged(f"{reader.path}: the index names block {number} of {reader.block_count}")
        low, high = np.searchsorted(blocks, [number, number + 1])
        rows = order[low:high]
        wanted = rows[marked[rows]]
        if values[wanted, 3].any():
            _copy_each(ids[wanted], writer, fetch)
        elif len(wanted) == len(rows):
            _copy_block(reader, number, ids[rows], values[rows], writer)
        else:
            _copy_records(reader, number, ids[wanted], values[wanted], writer)
        copied += int(values[wanted, 2].sum(dtype=np.uint64))
        yield copied


def _copy_each(ids: NDArray[np.uint8], writer: PackWriter, fetch: Fetch) -> None:
    for row in range(len(ids)):
        identity = ids[row].tobytes()
        kind, payload = fetch(identity)
        writer.put(kind, identity, payload)


def _columns(values: NDArray[np.uint32]) -> "array[int]":
    columns = array("I")
    columns.frombytes(values.tobytes())
    return columns


def _copy_block(
    reader: PackReader,
    number: int,
    ids: NDArray[np.uint8],
    values: NDArray[np.uint32],
    writer: PackWriter,
) -> None:
    def make(sealer: BlockSealer, new_number: int) -> bytes:
        body = reader.block_body(number)
        content = body.content
        is_old = reader.realm.is_old(reader.generation)
        if sealer.dense or is_old:
            raw = decompress(body, offset=int(reader.offsets[number]))
        if is_old:
            _check_records(reader, number, raw)
        if sealer.dense:
            content = min(content, sealer.compress(raw, body.block_type), key=len)
        return sealer.seal_compressed(content, body.raw_bytes, body.block_type, new_number)

    writer.put_made(
        make,
        raw_bytes=int(reader.raw[number]),
        block_type=int(reader.types[number]),
        ids=ids.tobytes(),
        rows=_columns(values),
    )


def _check_records(reader: PackReader, number: int, raw: bytes) -> None:
    """Raise Damaged unless each object is what its id says: whoever has an older key can make packs with others."""
    for offset, kind, encoding, identity, payload in split_records(raw, offset=int(reader.offsets[number])):
        if encoding == pack.ENCODING_WHOLE and reader.realm.identify(kind, payload) != identity:
            raise Damaged(f"{reader.path}: block {number} offset {offset}: another object than its id says")


def _copy_records(
    reader: PackReader,
    number: int,
    ids: NDArray[np.uint8],
    values: NDArray[np.uint32],
    writer: PackWriter,
) -> None:
    starts = decode_offsets(values[:, 1]).astype(np.int64)
    lengths = values[:, 2].astype(np.int64) + pack.RECORD.size
    moved = values.copy()
    moved[:, 1] = move_places(values[:, 1], np.cumsum(lengths) - lengths)
    block_type = int(reader.types[number])
    cut = partial(_cut_records, reader, number, ids, starts, starts + lengths)
    writer.put_made(
        lambda sealer, new_number: sealer.seal(cut(), block_type, new_number),
        raw_bytes=int(lengths.sum()),
        block_type=block_type,
        ids=ids.tobytes(),
        rows=_columns(moved),
    )


def _cut_records(
    reader: PackReader,
    number: int,
    ids: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> bytes:
    """Return the records at these places of a block, joined; Damaged when other records are there."""
    raw = reader.read_block(number)
    if reader.realm.is_old(reader.generation):
        _check_records(reader, number, raw)
    if int(ends[-1]) > len(raw) or bool((ends[:-1] > starts[1:]).any()):
        raise Damaged(f"{reader.path}: block {number}: the index points outside it, or at records that overlap")
    found = np.frombuffer(raw, dtype=np.uint8)[starts[:, None] + np.arange(ID_OFFSET, ID_OFFSET + OBJECT_ID_BYTES)]
    if not np.array_equal(found, ids):
        raise Damaged(f"{reader.path}: block {number}: the index points at another record")
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    run_starts = starts[np.concatenate(([0], breaks))].tolist()
    run_ends = ends[np.concatenate((breaks - 1, [len(ends) - 1]))].tolist()
    return b"".join([raw[start:end] for start, end in zip(run_starts, run_ends, strict=True)])
