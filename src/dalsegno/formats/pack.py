"""The pack: the one container, for a pool's files and for dumps (docs/formats/pack.md). Pure encoding and decoding.

    preamble  magic 8 | version u16 | zero u16 | header bytes u32                                     16 bytes
    header    msgpack PackHeader | BLAKE3 of preamble and header, first 16 bytes
    block*    stored bytes u32 | body | tag 16
    footer    trailer offset u64 | trailer bytes u32 | block count u32 | BLAKE3 | magic 8                      56 bytes

All integers are little-endian. A body holds type, sizes, a zstd frame and padding. The last blocks are the index
(sorted rows) and one trailer (the table of blocks). Version 1, which is read and no longer written, has other frames
and footers: `LAYOUTS` has both.
"""

import struct
from typing import Final, NamedTuple

from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.terms.sizes import KIB, MIB

MAGIC: Final = b"DALSEGNO"
MAGIC_END: Final = b"SEGNOEND"
VERSION: Final = 2

PREAMBLE: Final = struct.Struct("<8sHHI")
FRAME: Final = struct.Struct("<I")
BODY: Final = struct.Struct("<BII")
"""What a body begins with: type, raw bytes, bytes of the zstd frame behind it. Padding follows that frame."""
RECORD: Final = struct.Struct(f"<BBI{OBJECT_ID_BYTES}s")
DELTA: Final = struct.Struct(f"<{OBJECT_ID_BYTES}sI")
FOOTER: Final = struct.Struct("<QII32s8s")
DIGEST_BYTES: Final = 32
FOOTER_END_BYTES: Final = DIGEST_BYTES + len(MAGIC_END)
"""The digest and the magic: the end of a footer in every version, which the digest does not cover."""
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
"""Of the pack key: AES-256."""
HEADER_DIGEST_BYTES: Final = 16
INDEX_VALUES: Final = 4
"""Numbers in an index row, u32 each, behind the id."""
INDEX_ROW_BYTES: Final = OBJECT_ID_BYTES + 4 * INDEX_VALUES
TRAILER_ROW_BYTES: Final = 8 + 4 + 4 + 1

HEADER_BYTES_MAX: Final = 16 * MIB
BLOCK_RAW_BYTES_MAX: Final = 24 * MIB
"""Room for one whole block and one object of the largest size."""
TRAILER_RAW_BYTES_MAX: Final = 256 * MIB
STORED_OVERHEAD_BYTES_MAX: Final = 64 * KIB
PADDING_BYTES_MAX: Final = 16 * KIB
"""Blocks are padded to steps of at most this."""
PADDING_BYTES_MIN: Final = 32
KEYS_MAX: Final = 256

PACK_POOL: Final = 1
PACK_DUMP: Final = 2

SEAL_NONE: Final = 0
SEAL_AES_256_GCM: Final = 1
CODEC_ZSTD: Final = 1

BLOCK_METADATA: Final = 1
BLOCK_DATA: Final = 2
BLOCK_INDEX: Final = 3
BLOCK_TRAILER: Final = 4

ENCODING_WHOLE: Final = 0
ENCODING_DELTA: Final = 1
"""The payload is `DELTA` (base id, raw length) and a zstd frame made with the base object as raw-content dictionary."""

DELTA_DEPTH_MAX: Final = 16
"""A chain of deltas: so many at most, then a whole record."""

OFFSET_BITS: Final = 24
"""Low bits of an index row's second number: the offset in the raw block. The kind is above them."""
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

NOTE_NONCE: Final = b"\xff" * 12
"""A dump's note is sealed under the pack's key with this nonce: no block has that number."""

KEY_REALM: Final = 1
"""The pack's key under the realm's."""
KEY_AGE: Final = 2
"""An age file for one or more recipients: `SEALED_KEY`."""
SEALED_KEY: Final = struct.Struct("<16s32s32s")
"""What a recipient finds: the pack's id, its key, and the key of object ids."""


class Layout(NamedTuple):
    """Where a version has its fields, for readers."""

    frame: struct.Struct
    footer: struct.Struct
    counts_in_trailer: bool
    """Whether the trailer ends with the object count; version 1 has it in the footer."""


LAYOUTS: Final = {
    1: Layout(struct.Struct("<IIB"), struct.Struct("<QIIQ32s8s"), False),
    2: Layout(FRAME, FOOTER, True),
}
