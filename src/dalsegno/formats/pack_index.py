"""A pack's index rows (docs/formats/pack.md, "Index blocks"): sorted by id, each says where one object is stored.

id 32 | block number u32 | offset in the raw block, kind << 24: u32 | payload bytes u32 | encoding u32     48 bytes
"""

import numpy as np
from numpy.typing import NDArray

from dalsegno.formats import pack
from dalsegno.terms.ids import OBJECT_ID_BYTES

Columns = tuple[NDArray[np.uint8], NDArray[np.uint32]]
"""(n, 32) ids; (n, 4) values: block number; offset and kind, as `encode_place` makes it; payload bytes; encoding."""
_MASK = np.uint32(pack.OFFSET_MASK)
_SHIFT = np.uint32(pack.OFFSET_BITS)
_NUMBERS = "<u4"


def encode_place(offset: int, kind: int) -> int:
    """Return a row's second number."""
    return offset | kind << pack.OFFSET_BITS


def decode_place(place: int) -> tuple[int, int]:
    """Return the offset in the raw block and the kind in a row's second number."""
    return place & pack.OFFSET_MASK, place >> pack.OFFSET_BITS


def decode_offsets(places: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the offsets in the raw blocks of many rows' second numbers."""
    return places & _MASK


def decode_kinds(places: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the kinds of many rows' second numbers."""
    return places >> _SHIFT


def move_places(places: NDArray[np.uint32], offsets: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return many rows' second numbers with other offsets."""
    moved: NDArray[np.uint32] = (places & ~_MASK) | offsets.astype(np.uint32)
    return moved


def encode_rows(ids: NDArray[np.uint8], values: NDArray[np.uint32]) -> bytes:
    """Return index rows as they are stored: id, then four little-endian u32."""
    table = new_table(len(ids))
    table[:, :OBJECT_ID_BYTES] = ids
    numbers = np.ascontiguousarray(values, dtype=_NUMBERS).view(np.uint8)
    table[:, OBJECT_ID_BYTES:] = numbers.reshape(-1, 4 * pack.INDEX_VALUES)
    return table.tobytes()


def new_table(row_count: int) -> NDArray[np.uint8]:
    """Return room for rows as they are stored, (n, 48)."""
    return np.empty((row_count, pack.INDEX_ROW_BYTES), dtype=np.uint8)


def as_table(rows: bytes) -> NDArray[np.uint8]:
    """Return rows as they are stored as (n, 48) bytes, without a copy. There must be whole ones only."""
    return np.frombuffer(rows, dtype=np.uint8).reshape(-1, pack.INDEX_ROW_BYTES)


def decode_rows(table: NDArray[np.uint8]) -> Columns:
    """Return the columns of (n, 48) stored rows, as views where the machine's byte order allows it."""
    values = table[:, OBJECT_ID_BYTES:].view(_NUMBERS).astype(np.uint32, copy=False)
    return table[:, :OBJECT_ID_BYTES], values


def sort_order(ids: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the order that sorts (n, 32) ids as byte strings."""
    prefixes = np.ascontiguousarray(ids[:, :8]).view(">u8").astype(np.uint64).reshape(-1)
    order = np.argsort(prefixes, kind="stable")
    prefixes = prefixes[order]
    if len(prefixes) > 1 and bool((prefixes[1:] == prefixes[:-1]).any()):
        words = np.ascontiguousarray(ids).view(">u8").astype(np.uint64)
        order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    return order


def file_order(values: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Return the rows of an index in the order of their records in the file."""
    blocks = values[:, 0].astype(np.uint64) << 32
    order: NDArray[np.intp] = np.argsort(blocks | decode_offsets(values[:, 1]))
    return order
