"""The table of a pack's blocks (docs/formats/pack.md, "Trailer")."""

from array import array

import numpy
from numpy.typing import NDArray

from dalsegno.formats import pack
from dalsegno.terms.errors import Damaged


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
            count.to_bytes(4, "little"),
            numpy.asarray(offsets, "<u8").tobytes(),
            numpy.asarray(stored, "<u4").tobytes(),
            numpy.asarray(raw, "<u4").tobytes(),
            bytes(types),
            len(first_ids).to_bytes(4, "little"),
            *first_ids,
            object_count.to_bytes(8, "little"),
        )
    )


def decode_trailer(
    raw: bytes, block_count: int, *, offset: int
) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint32], NDArray[numpy.uint32], NDArray[numpy.uint8], int]:
    """Return the table of blocks: offsets, stored bytes, raw bytes, types, and how many index blocks there are."""
    columns_end = 4 + block_count * pack.TRAILER_ROW_BYTES
    if len(raw) < columns_end + 4 or int.from_bytes(raw[:4], "little") != block_count:
        raise Damaged(f"pack trailer damaged at offset {offset}")
    index_count = int.from_bytes(raw[columns_end : columns_end + 4], "little")
    if len(raw) != columns_end + 4 + 32 * index_count:
        raise Damaged(f"pack trailer damaged at offset {offset}")
    at = 4
    offsets = numpy.frombuffer(raw, dtype="<u8", count=block_count, offset=at)
    at += 8 * block_count
    stored = numpy.frombuffer(raw, dtype="<u4", count=block_count, offset=at)
    at += 4 * block_count
    raws = numpy.frombuffer(raw, dtype="<u4", count=block_count, offset=at)
    at += 4 * block_count
    types = numpy.frombuffer(raw, dtype=numpy.uint8, count=block_count, offset=at)
    return offsets, stored, raws, types, index_count
