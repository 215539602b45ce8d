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
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from dalsegno.formats.objects import UNREADABLE
from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.terms.sizes import KIB, MIB

MAGIC: Final = b"DALSEGNO"
MAGIC_END: Final = b"SEGNOEND"
VERSION: Final = 2

PREAMBLE: Final = struct.Struct("<8sHHI")
FRAME: Final = struct.Struct("<I")
BODY: Final = struct.Struct("<BII")
"""What a body begins with: type, raw bytes, bytes of the zstd frame behind it. Padding follows that frame."""
RECORD: Final = struct.Struct("<BBI32s")
DELTA: Final = struct.Struct("<32sI")
FOOTER: Final = struct.Struct("<QII32s8s")
FOOTER_DIGESTED_BYTES: Final = 16
DIGEST_AND_MAGIC_BYTES: Final = 40
"""The end of a footer in every version."""
TAG_BYTES: Final = 16
HEADER_DIGEST_BYTES: Final = 16
INDEX_ROW_BYTES: Final = 48
TRAILER_ROW_BYTES: Final = 17

HEADER_BYTES_MAX: Final = 16 * MIB
BLOCK_RAW_BYTES_MAX: Final = 24 * MIB
"""Room for one whole block and one object of the largest size."""
TRAILER_RAW_BYTES_MAX: Final = 256 * MIB
STORED_OVERHEAD_BYTES_MAX: Final = 64 * KIB
PADDING_BYTES_MAX: Final = 16 * KIB
"""Blocks are padded to steps of at most this."""
_PADDING_BYTES_MIN: Final = 32
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

OFFSET_BITS: Final = 24

NOTE_NONCE: Final = b"\xff" * 12
"""A dump's note is sealed under the pack's key with this nonce: no block has that number."""

KEY_REALM: Final = 1
"""The pack's key under the realm's."""
KEY_AGE: Final = 2
"""An age file for one or more recipients: `SEALED_KEY`."""
SEALED_KEY: Final = struct.Struct("<16s32s32s")
"""What a recipient finds: the pack's id, its key, and the key of object ids."""


class Layout(NamedTuple):
    """Where the fields of a version stand, for readers."""

    frame: struct.Struct
    footer: struct.Struct
    trailer_end_bytes: int
    """Bytes of the trailer behind the first ids: the object count, which version 1 has in the footer."""


LAYOUTS: Final = {
    1: Layout(struct.Struct("<IIB"), struct.Struct("<QIIQ32s8s"), 0),
    2: Layout(FRAME, FOOTER, 8),
}


class PackHeader(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader must know before the first block."""

    kind: int
    pack_id: bytes
    realm: bytes
    codec: int
    seal: int
    keys: list[tuple[int, bytes]] | bytes
    """The pack's own key, sealed in one or more ways (`KEY_...`); none when the pack is not sealed.

    Version 1: bytes, the key under the realm's."""
    note: bytes
    """For a dump: the encoded DumpNote, sealed when the pack is. Else empty."""

    @property
    def version(self) -> int:
        """The format's version, as the form of the keys tells it."""
        return 1 if isinstance(self.keys, bytes) else 2

    @property
    def layout(self) -> Layout:
        """Where this version's fields stand."""
        return LAYOUTS[self.version]

    def keys_of(self, kind: int) -> list[bytes]:
        """Return the keys that are sealed in one way."""
        if isinstance(self.keys, bytes):
            return [self.keys] if kind == KEY_REALM and self.keys else []
        return [sealed for each, sealed in self.keys if each == kind]


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
    if len(header.keys) > KEYS_MAX and header.version > 1:
        raise Damaged(f"pack header damaged at offset {PREAMBLE.size}: {len(header.keys)} keys")
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


@dataclass(frozen=True, slots=True)
class Body:
    """What a stored block holds."""

    content: bytes | memoryview
    """One zstd frame."""
    raw_bytes: int
    block_type: int


def decode_frame(layout: Layout, frame: bytes, *, offset: int) -> int:
    """Return the stored bytes that follow a frame; Damaged for a size that the format does not allow.

    `frame` must be complete. Nothing has checked it yet: what it says must not make a reader use more memory.
    """
    if layout.frame is FRAME:
        (stored_bytes,) = FRAME.unpack(frame)
        if not TAG_BYTES + BODY.size < stored_bytes <= TRAILER_RAW_BYTES_MAX + STORED_OVERHEAD_BYTES_MAX:
            raise Damaged(f"pack damaged at offset {offset}: impossible block frame")
        return int(stored_bytes)
    stored_bytes, raw_bytes, block_type = layout.frame.unpack(frame)
    _check_sizes(stored_bytes - TAG_BYTES, raw_bytes, block_type, offset=offset)
    return int(stored_bytes)


def decode_body(layout: Layout, frame: bytes, body: bytes | memoryview, *, offset: int) -> Body:
    """Return what a block holds, from its frame and its body, whose tag the caller has checked."""
    if layout.frame is not FRAME:
        _, raw_bytes, block_type = layout.frame.unpack(frame)
        return Body(body, raw_bytes, block_type)
    block_type, raw_bytes, content_bytes = BODY.unpack_from(body)
    if content_bytes + BODY.size > len(body):
        raise Damaged(f"pack damaged at offset {offset}: a block is longer than its body")
    _check_sizes(content_bytes, raw_bytes, block_type, offset=offset)
    return Body(memoryview(body)[BODY.size : BODY.size + content_bytes], raw_bytes, block_type)


def _check_sizes(content_bytes: int, raw_bytes: int, block_type: int, *, offset: int) -> None:
    raw_max = TRAILER_RAW_BYTES_MAX if block_type == BLOCK_TRAILER else BLOCK_RAW_BYTES_MAX
    known = BLOCK_METADATA <= block_type <= BLOCK_TRAILER
    if not known or raw_bytes > raw_max or not 0 < content_bytes <= raw_bytes + STORED_OVERHEAD_BYTES_MAX:
        raise Damaged(f"pack damaged at offset {offset}: impossible block frame")


def encode_body(content: bytes | memoryview, raw_bytes: int, block_type: int, *, padded: bool) -> bytes:
    """Return a block's body: what it is, its zstd frame, and zeros up to a size that many blocks have."""
    length = BODY.size + len(content)
    padding = padded_bytes(length) - length if padded else 0
    return b"".join((BODY.pack(block_type, raw_bytes, len(content)), content, bytes(padding)))


def padded_bytes(length: int) -> int:
    """Return what a sealed body of `length` bytes is padded to.

    Steps grow with the length as in Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
    Communication with PURBs", 2019, section 4), from 32 bytes up to 16 KiB: below 12 % for small blocks, 0.4 % for
    one of 4 MiB.
    """
    exponent = max(length, 2).bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    step = min(max(step, _PADDING_BYTES_MIN), PADDING_BYTES_MAX)
    return (length + step - 1) // step * step
