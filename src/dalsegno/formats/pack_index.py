"""A pack's index rows (docs/formats/pack.md, "Index blocks"): sorted by id, each says where one object lies.

id 32 | block number u32 | offset in the raw block, kind << 24: u32 | payload bytes u32 | encoding u32     48 bytes
"""

import numpy
from numpy.typing import NDArray

from dalsegno.formats import pack

Columns = tuple[NDArray[numpy.uint8], NDArray[numpy.uint32]]
"""(n, 32) ids; (n, 4) values: block number; offset in the block | kind << 24; payload length; encoding."""
OFFSET_MASK = numpy.uint32((1 << pack.OFFSET_BITS) - 1)


def join_rows(ids: NDArray[numpy.uint8], values: NDArray[numpy.uint32]) -> bytes:
    """Return index rows as they are stored: id, then four little-endian u32."""
    table = numpy.empty((len(ids), pack.INDEX_ROW_BYTES), dtype=numpy.uint8)
    table[:, :32] = ids
    table[:, 32:] = numpy.ascontiguousarray(values, dtype="<u4").view(numpy.uint8).reshape(-1, 16)
    return table.tobytes()


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
    """Return the rows of an index in the order in which their records lie in the file."""
    order: NDArray[numpy.intp] = numpy.argsort(values[:, 0].astype(numpy.uint64) << 32 | values[:, 1] & OFFSET_MASK)
    return order
