"""A pack's index rows (docs/formats/pack.md, "Index blocks"): sorted by id, each says where one object is stored.

id 32 | block number u32 | offset in the raw block, kind << 24: u32 | payload bytes u32 | encoding u32     48 bytes
"""

import numpy
from numpy.typing import NDArray

from dalsegno.formats import pack
from dalsegno.terms.ids import OBJECT_ID_BYTES

Columns = tuple[NDArray[numpy.uint8], NDArray[numpy.uint32]]
"""(n, 32) ids; (n, 4) values: block number; offset and kind, as `encode_place` makes it; payload bytes; encoding."""
_MASK = numpy.uint32(pack.OFFSET_MASK)
_SHIFT = numpy.uint32(pack.OFFSET_BITS)
_NUMBERS = "<u4"


def encode_place(offset: int, kind: int) -> int:
    """Return a row's second number."""
    return offset | kind << pack.OFFSET_BITS


def decode_place(place: int) -> tuple[int, int]:
    """Return the offset in the raw block and the kind in a row's second number."""
    return place & pack.OFFSET_MASK, place >> pack.OFFSET_BITS


def decode_offsets(places: NDArray[numpy.uint32]) -> NDArray[numpy.uint32]:
    """Return the offsets in the raw blocks of many rows' second numbers."""
    return places & _MASK


def decode_kinds(places: NDArray[numpy.uint32]) -> NDArray[numpy.uint32]:
    """Return the kinds of many rows' second numbers."""
    return places >> _SHIFT


def move_places(places: NDArray[numpy.uint32], offsets: NDArray[numpy.int64]) -> NDArray[numpy.uint32]:
    """Return many rows' second numbers with other offsets."""
    moved: NDArray[numpy.uint32] = (places & ~_MASK) | offsets.astype(numpy.uint32)
    return moved


def encode_rows(ids: NDArray[numpy.uint8], values: NDArray[numpy.uint32]) -> bytes:
    """Return index rows as they are stored: id, then four little-endian u32."""
    table = new_table(len(ids))
    table[:, :OBJECT_ID_BYTES] = ids
    numbers = numpy.ascontiguousarray(values, dtype=_NUMBERS).view(numpy.uint8)
    table[:, OBJECT_ID_BYTES:] = numbers.reshape(-1, 4 * pack.INDEX_VALUES)
    return table.tobytes()


def new_table(row_count: int) -> NDArray[numpy.uint8]:
    """Return room for rows as they are stored, (n, 48)."""
    return numpy.empty((row_count, pack.INDEX_ROW_BYTES), dtype=numpy.uint8)


def as_table(rows: bytes) -> NDArray[numpy.uint8]:
    """Return rows as they are stored as (n, 48) bytes, without a copy. There must be whole ones only."""
    return numpy.frombuffer(rows, dtype=numpy.uint8).reshape(-1, pack.INDEX_ROW_BYTES)


def decode_rows(table: NDArray[numpy.uint8]) -> Columns:
    """Return the columns of (n, 48) stored rows, as views where the machine's byte order allows it."""
    values = table[:, OBJECT_ID_BYTES:].view(_NUMBERS).astype(numpy.uint32, copy=False)
    return table[:, :OBJECT_ID_BYTES], values


def sort_order(ids: NDArray[numpy.uint8]) -> NDArray[numpy.intp]:
    """Return the order that sorts (n, 32) ids as byte strings."""
    prefixes = numpy.ascontiguousarray(ids[:, :8]).view(">u8").astype(numpy.uint64).reshape(-1)
    order = numpy.argsort(prefixes, kind="stable")
    prefixes = prefixes[order]
    if len(prefixes) > 1 and bool((prefixes[1:] == prefixes[:-1]).any()):
        words = numpy.ascontiguousarray(ids).view(">u8").astype(numpy.uint64)
        order = numpy.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    return order


def file_order(values: NDArray[numpy.uint32]) -> NDArray[numpy.intp]:
    """Return the rows of an index in the order of their records in the file."""
    blocks = values[:, 0].astype(numpy.uint64) << 32
    order: NDArray[numpy.intp] = numpy.argsort(blocks | decode_offsets(values[:, 1]))
    return order
