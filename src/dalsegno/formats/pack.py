"""The pack: the one container, for a pool's files and for dumps (docs/formats/pack.md). Pure encoding and decoding.

    preamble  magic 8 | version u16 | zero u16 | header bytes u32                                     16 bytes
    header    msgpack PackHeader | BLAKE3 of preamble and header, first 16 bytes
    block*    stored bytes u32 | raw bytes u32 | type u8 | body | tag 16
    footer    trailer offset u64 | trailer bytes u32 | block count u32 | object count u64 | BLAKE3 | magic 8   64 bytes

All integers are little-endian. The last blocks are the index (sorted rows) and one trailer (the table of blocks).
"""

import struct
from typing import Final

import msgspec

from dalsegno.formats.objects import UNREADABLE
from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.terms.sizes import KIB, MIB

MAGIC: Final = b"DALSEGNO"
MAGIC_END: Final = b"SEGNOEND"
VERSION: Final = 1

PREAMBLE: Final = struct.Struct("<8sHHI")
FRAME: Final = struct.Struct("<IIB")
RECORD: Final = struct.Struct("<BBI32s")
DELTA: Final = struct.Struct("<32sI")
FOOTER: Final = struct.Struct("<QIIQ32s8s")
FOOTER_DIGESTED_BYTES: Final = 24
TAG_BYTES: Final = 16
HEADER_DIGEST_BYTES: Final = 16
INDEX_ROW_BYTES: Final = 48
TRAILER_ROW_BYTES: Final = 17

HEADER_BYTES_MAX: Final = 16 * MIB
BLOCK_RAW_BYTES_MAX: Final = 24 * MIB
"""Room for one whole block and one object of the largest size."""
TRAILER_RAW_BYTES_MAX: Final = 256 * MIB
STORED_OVERHEAD_BYTES_MAX: Final = 64 * KIB

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

OFFSET_BITS: Final = 24


class PackHeader(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader must know before the first block."""

    kind: int
    pack_id: bytes
    realm: bytes
    codec: int
    seal: int
    wrapped_key: bytes
    """The pack's own key under the realm's; empty when the pack is not sealed."""
    note: bytes
    """For a dump: the encoded DumpNote, sealed when the pack is. Else empty."""


class DumpTarget(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One revision that a dump carries, with the clone's name and time."""

    revision: bytes
    clone: str
    created_ns: int
    entry_count: int
    total_bytes: int


class DumpNote(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dump's lineage: what it carries and what it was made against."""

    volume: bytes
    volume_name: str
    level: int
    targets: list[DumpTarget]
    """Oldest first; the last one is the state that the dump brings a volume to."""
    bases: list[bytes]
    """Revisions whose objects the dump does not carry; empty for a full dump."""
    base_dump: bytes
    """Pack id of the dump that recorded the base; empty for a full dump."""
    merged: list[bytes]
    """Pack ids of the dumps that this one was merged from, oldest first."""
    taken_at_ns: int


_header_decoder = msgspec.msgpack.Decoder(PackHeader)
_note_decoder = msgspec.msgpack.Decoder(DumpNote)
encode_struct = msgspec.msgpack.Encoder().encode


def decode_preamble(data: bytes) -> int:
    """Return the number of header bytes that follow the preamble."""
    if len(data) < PREAMBLE.size:
        raise Damaged(f"pack cut short at offset {len(data)}: no complete preamble")
    magic, version, zero, header_bytes = PREAMBLE.unpack(data[: PREAMBLE.size])
    if magic != MAGIC:
        raise Damaged("not a Dal Segno pack: wrong magic at offset 0")
    if version > VERSION:
        raise TooNew(f"pack format version {version}: this program reads up to {VERSION}; install a newer one")
    if version == 0 or zero != 0 or not 1 <= header_bytes <= HEADER_BYTES_MAX:
        raise Damaged("pack header damaged at offset 8")
    return int(header_bytes)


def decode_header(data: bytes) -> PackHeader:
    """Return the header in `data`, whose digest the caller has checked."""
    try:
        header = _header_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"pack header damaged at offset {PREAMBLE.size}: {error}") from None
    if len(header.pack_id) != 16 or len(header.realm) != 16 or header.kind not in (PACK_POOL, PACK_DUMP):
        raise Damaged(f"pack header damaged at offset {PREAMBLE.size}: bad ids")
    if header.codec != CODEC_ZSTD or header.seal not in (SEAL_NONE, SEAL_AES_256_GCM):
        raise TooNew("pack uses a codec or seal that this program does not know; install a newer one")
    return header


def decode_note(data: bytes) -> DumpNote:
    """Return the lineage in `data`."""
    try:
        note = _note_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"dump header damaged: {error}") from None
    if not note.targets:
        raise Damaged("dump header damaged: it names no target revision")
    return note


def check_frame(stored_bytes: int, raw_bytes: int, block_type: int, *, offset: int) -> None:
    """Refuse a block frame whose sizes could make a reader use more memory than the format allows."""
    raw_max = TRAILER_RAW_BYTES_MAX if block_type == BLOCK_TRAILER else BLOCK_RAW_BYTES_MAX
    known = BLOCK_METADATA <= block_type <= BLOCK_TRAILER
    if not known or raw_bytes > raw_max or not TAG_BYTES < stored_bytes <= raw_bytes + STORED_OVERHEAD_BYTES_MAX:
        raise Damaged(f"pack damaged at offset {offset}: impossible block frame")
