"""The front of a pack (docs/formats/pack.md, "Preamble and header"), and the lineage of a dump in it."""

from collections.abc import Callable

import msgspec
from blake3 import blake3

from dalsegno.formats import pack
from dalsegno.formats.objects import UNREADABLE
from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.terms.ids import UUID_BYTES


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
    def layout(self) -> pack.Layout:
        """Where this version has its fields."""
        return pack.LAYOUTS[self.version]

    def keys_of(self, kind: int) -> list[bytes]:
        """Return the keys that are sealed in one way."""
        if isinstance(self.keys, bytes):
            return [self.keys] if kind == pack.KEY_REALM and self.keys else []
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
_encode = msgspec.msgpack.Encoder().encode


def encode_header(header: PackHeader) -> bytes:
    """Return a header as msgpack, without what is before and behind it."""
    return _encode(header)


def encode_front(header: PackHeader) -> bytes:
    """Return preamble, header and header digest: what a pack begins with. Of this program's version alone."""
    assert header.version == pack.VERSION
    encoded = encode_header(header)
    data = pack.PREAMBLE.pack(pack.MAGIC, pack.VERSION, 0, len(encoded)) + encoded
    return data + _digest(data)


def _digest(data: bytes | memoryview) -> bytes:
    return blake3(data).digest(pack.HEADER_DIGEST_BYTES)


def header_digest(front: bytes) -> bytes:
    """Return the digest at the end of a front: associated data of every block."""
    return front[-pack.HEADER_DIGEST_BYTES :]


def read_front(read: Callable[[int], bytes]) -> bytes:
    """Return preamble, header and digest from `read`, which returns at most so many of the next bytes.

    Damaged or TooNew when they do not begin a pack; decode_front says when they end too early.
    """
    preamble = read(pack.PREAMBLE.size)
    return preamble + read(decode_preamble(preamble) + pack.HEADER_DIGEST_BYTES)


def decode_front(front: bytes) -> PackHeader:
    """Return the header in a front whose length the preamble gave; Damaged names the offset, TooNew a later version."""
    header_end = pack.PREAMBLE.size + decode_preamble(front)
    if len(front) < header_end + pack.HEADER_DIGEST_BYTES:
        raise Damaged(f"pack cut short at offset {len(front)}: in its header")
    if _digest(front[:header_end]) != front[header_end : header_end + pack.HEADER_DIGEST_BYTES]:
        raise Damaged(f"pack header damaged at offset {pack.PREAMBLE.size}")
    header = decode_header(front[pack.PREAMBLE.size : header_end])
    _, version, _, _ = pack.PREAMBLE.unpack_from(front)
    if header.version != version:
        raise Damaged(f"pack header damaged at offset {pack.PREAMBLE.size}: it is of another version")
    return header


def encode_note(note: DumpNote) -> bytes:
    """Return a dump's lineage as msgpack, not sealed."""
    return _encode(note)


def decode_preamble(data: bytes) -> int:
    """Return the number of header bytes that follow the preamble; Damaged, or TooNew for a later version."""
    if len(data) < pack.PREAMBLE.size:
        raise Damaged(f"pack cut short at offset {len(data)}: no complete preamble")
    magic, version, zero, header_bytes = pack.PREAMBLE.unpack(data[: pack.PREAMBLE.size])
    if magic != pack.MAGIC:
        raise Damaged("not a Dal Segno pack: wrong magic at offset 0")
    if version > pack.VERSION:
        raise TooNew(f"pack format version {version}: this program reads up to {pack.VERSION}; install a newer one")
    if version == 0 or zero != 0 or not 1 <= header_bytes <= pack.HEADER_BYTES_MAX:
        raise Damaged("pack header damaged at offset 8")
    return int(header_bytes)


def decode_header(data: bytes) -> PackHeader:
    """Return the header in `data`, whose digest was checked; Damaged, or TooNew for another codec or seal."""
    try:
        header = _header_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"pack header damaged at offset {pack.PREAMBLE.size}: {error}") from None
    if (
        len(header.pack_id) != UUID_BYTES
        or len(header.realm) != UUID_BYTES
        or header.kind not in (pack.PACK_POOL, pack.PACK_DUMP)
    ):
        raise Damaged(f"pack header damaged at offset {pack.PREAMBLE.size}: bad ids")
    if len(header.keys) > pack.KEYS_MAX and header.version > 1:
        raise Damaged(f"pack header damaged at offset {pack.PREAMBLE.size}: {len(header.keys)} keys")
    if header.codec != pack.CODEC_ZSTD or header.seal not in (pack.SEAL_NONE, pack.SEAL_AES_256_GCM):
        raise TooNew("pack uses a codec or seal that this program does not know; install a newer one")
    return header


def decode_note(data: bytes) -> DumpNote:
    """Return the lineage in `data`; Damaged when it is none."""
    try:
        note = _note_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"dump header damaged: {error}") from None
    if not note.targets:
        raise Damaged("dump header damaged: it names no target revision")
    return note
