"""Objects side by side, as the call `block` answers them (docs/formats/http.md).

kind u8 | id 32 | payload bytes u32, little-endian | payload                                  for each object
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES

Record = tuple[int, bytes, bytes]
"""Kind, id and payload of an object."""
RECORDS_MAX: Final = 200_000
"""Objects that are stored side by side: a block is closed when it has a few MiB, and none is smaller than its id."""
_HEAD: Final = struct.Struct(f"<B{OBJECT_ID_BYTES}sI")


def encode_records(records: Iterable[Record]) -> bytes:
    """Return the bytes of `block`: for each record its kind, id and length, then the payload."""
    parts = []
    for kind, identity, payload in records:
        parts.append(_HEAD.pack(kind, identity, len(payload)))
        parts.append(payload)
    return b"".join(parts)


def decode_records(data: bytes) -> Iterator[Record]:
    """Yield the records in the answer of `block`; Damaged when they end in the middle of one, or there are too many."""
    offset = count = 0
    while offset < len(data):
        count += 1
        if offset + _HEAD.size > len(data) or count > RECORDS_MAX:
            raise Damaged("block: cut short")
        kind, identity, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        if offset + length > len(data):
            raise Damaged("block: cut short")
        yield kind, identity, data[offset : offset + length]
        offset += length
