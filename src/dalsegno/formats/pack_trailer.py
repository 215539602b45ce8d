"""The table of a pack's blocks (docs/formats/pack.md, "Trailer")."""

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dalsegno.formats import pack
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES

_COUNT_BYTES = 4
_OBJECT_COUNT_BYTES = 8
_COLUMNS = ("<u8", "<u4", "<u4", "u1")
"""Offsets, stored bytes, raw bytes, types."""


class BlockTable(NamedTuple):
    """The blocks before the trailer, a row each, in file order."""

    offsets: NDArray[np.uint64]
    """Of each block's frame in the file."""
    stored: NDArray[np.uint32]
    """Bytes of body and tag."""
    raw: NDArray[np.uint32]
    types: NDArray[np.uint8]
    first_ids: bytes
    """The first id of each index block, joined."""
    object_count: int | None
    """None in version 1, where the footer has it."""


def encode_trailer(
    offsets: "array[int]",
    stored: "array[int]",
    raw: "array[int]",
    types: bytearray,
    first_ids: list[bytes],
    object_count: int,
) -> bytes:
    """Return the table of blocks: count u32; columns u64, u32, u32, u8; index block count u32; first ids; objects."""
    count = len(types)
    assert len(offsets) == len(stored) == len(raw) == count
    return b"".join(
        (
            count.to_bytes(_COUNT_BYTES, "little"),
            np.asarray(offsets, "<u8").tobytes(),
            np.asarray(stored, "<u4").tobytes(),
            np.asarray(raw, "<u4").tobytes(),
            bytes(types),
            len(first_ids).to_bytes(_COUNT_BYTES, "little"),
            *first_ids,
            object_count.to_bytes(_OBJECT_COUNT_BYTES, "little"),
        )
    )


def trailer_bytes_max(layout: pack.Layout, block_count: int) -> int:
    """Return the bytes of the longest trailer of so many blocks: each of them an index block."""
    end = _OBJECT_COUNT_BYTES if layout.counts_in_trailer else 0
    return 2 * _COUNT_BYTES + end + (pack.TRAILER_ROW_BYTES + OBJECT_ID_BYTES) * block_count


def decode_trailer(layout: pack.Layout, data: bytes, block_count: int, *, offset: int) -> BlockTable:
    """Return the table of the blocks that the footer counted; Damaged, by the trailer's offset, for another length."""
    end = len(data) - (_OBJECT_COUNT_BYTES if layout.counts_in_trailer else 0)
    columns_end = _COUNT_BYTES + block_count * pack.TRAILER_ROW_BYTES
    ids_start = columns_end + _COUNT_BYTES
    if end < ids_start or int.from_bytes(data[:_COUNT_BYTES], "little") != block_count:
        raise Damaged(f"pack trailer damaged at offset {offset}")
    index_count = int.from_bytes(data[columns_end:ids_start], "little")
    if end != ids_start + OBJECT_ID_BYTES * index_count:
        raise Damaged(f"pack trailer damaged at offset {offset}")
    starts = (_COUNT_BYTES + width * block_count for width in (0, 8, 12, 16))
    offsets, stored, raw, types = (
        np.frombuffer(data, dtype=dtype, count=block_count, offset=start)
        for dtype, start in zip(_COLUMNS, starts, strict=True)
    )
    object_count = int.from_bytes(data[end:], "little") if layout.counts_in_trailer else None
    return BlockTable(offsets, stored, raw, types, data[ids_start:end], object_count)
