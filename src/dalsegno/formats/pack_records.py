"""The records in a pack's raw blocks, and deltas (docs/formats/pack.md, "Records", "Deltas")."""

from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from dalsegno.formats import pack
from dalsegno.formats.objects import OBJECT_BYTES_MAX
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES, hex_short

encode_record_head: Final[Callable[[int, int, int, bytes], bytes]] = pack.RECORD.pack
"""Return what is before a record's payload, from kind, encoding, payload bytes and id."""


def split_records(raw: bytes, *, offset: int) -> Iterator[tuple[int, int, int, bytes, memoryview]]:
    """Yield (offset in block, kind, encoding, id, payload) of every record in a raw block; Damaged by `offset`."""
    view = memoryview(raw)
    position = 0
    while position < len(raw):
        if position + pack.RECORD.size > len(raw):
            raise Damaged(f"block at offset {offset}: a record is cut short")
        kind, encoding, length, identity = pack.RECORD.unpack_from(raw, position)
        start = position + pack.RECORD.size
        if start + length > len(raw):
            raise Damaged(f"block at offset {offset}: a record is longer than its block")
        yield position, kind, encoding, identity, view[start : start + length]
        position = start + length


def read_record(raw: bytes, offset: int, identity: bytes) -> tuple[int, bytes, bytes | None]:
    """Return (kind, payload, base id or None) of the record at `offset` of a raw block; Damaged for another record."""
    kind, payload, base = view_record(raw, offset, identity)
    return kind, bytes(payload), base


def view_record(raw: bytes, offset: int, identity: bytes) -> tuple[int, memoryview, bytes | None]:
    """Return the same, the payload as a view of the block; Damaged for another record."""
    end = offset + pack.RECORD.size
    if end > len(raw):
        raise Damaged(f"object {hex_short(identity)}: the index points outside its block")
    kind, encoding, length, found = pack.RECORD.unpack_from(raw, offset)
    if found != identity or end + length > len(raw):
        raise Damaged(f"object {hex_short(identity)}: the index points at another record")
    payload = memoryview(raw)[end : end + length]
    if encoding == pack.ENCODING_WHOLE:
        return kind, payload, None
    if encoding != pack.ENCODING_DELTA or length < pack.DELTA.size:
        raise Damaged(f"object {hex_short(identity)}: unknown record encoding {encoding}")
    return kind, payload, bytes(payload[:OBJECT_ID_BYTES])


def encode_delta(base_id: bytes, base: bytes, content: bytes) -> bytes:
    """Return the payload of a delta record that makes `content` from an object of the same kind."""
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return pack.DELTA.pack(base_id, len(content)) + zstandard.ZstdCompressor(dict_data=dictionary).compress(content)


def apply_delta(payload: bytes | memoryview, base: bytes) -> bytes:
    """Return the object that a delta record makes from its base (docs/formats/pack.md, "Deltas"); Damaged."""
    _, raw_bytes = pack.DELTA.unpack_from(payload)
    if raw_bytes > OBJECT_BYTES_MAX:
        raise Damaged("delta record: impossible length")
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    body = payload[pack.DELTA.size :]
    try:
        if zstandard.frame_content_size(body) != raw_bytes:
            raise Damaged("delta record: its sizes disagree")
        return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(body, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise Damaged(f"delta record: {error}") from None
