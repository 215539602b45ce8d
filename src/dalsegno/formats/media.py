"""What is on media beside dumps: label files, and the headers of slices and shares (docs/formats/media.md).

    preamble  magic 8 | version u16 | zero u16 | header bytes u32                                     16 bytes
    header    msgpack PartHeader | BLAKE3 of preamble and header, first 16 bytes
    payload   slice: bytes of the dump, then their BLAKE3, 32 bytes
              share: (chunk | BLAKE3 of header digest, stripe number and chunk, first 16 bytes) for every stripe
              note: nothing; the dump is the file beside it

Pure encoding and decoding; all integers are little-endian.
"""

import struct
import tomllib
from typing import Any, Final

import msgspec
from blake3 import blake3

from dalsegno.formats.objects import UNREADABLE
from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.terms.names import is_file_name
from dalsegno.terms.sizes import KIB, MIB

MAGIC: Final = b"DALMEDIA"
VERSION: Final = 1
PREAMBLE: Final = struct.Struct("<8sHHI")
DIGEST_BYTES: Final = 32
HEADER_DIGEST_BYTES: Final = 16
TAG_BYTES: Final = 16
HEADER_BYTES_MAX: Final = 1 * MIB
HEAD_BYTES_MAX: Final = 512 * KIB
"""A dump's own header is repeated in each part when it is no larger than this."""

PART_NOTE: Final = 0
"""Stands beside a whole dump, as `<name>.note`."""
PART_SLICE: Final = 1
PART_SHARE: Final = 2

SHARES_MAX: Final = 255
SHARE_CHUNK_BYTES: Final = 256 * KIB
SHARE_CHUNK_BYTES_MAX: Final = 16 * MIB

LABEL_NAME: Final = "DALSEGNO-LABEL"
LABEL_VERSION: Final = 1
LABEL_BYTES_MAX: Final = 64 * KIB


class PartHeader(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file on a medium: of which dump, which part of it, and all that the catalog knows beyond the dump itself."""

    kind: int
    dump_id: bytes
    dump_bytes: int
    dump_digest: bytes
    """BLAKE3-256 of the whole dump file."""
    copy: int
    """Which of the target's copies, from 1."""
    part: int
    """Slice number or share number, from 0."""
    needed: int
    """Shares: k. Else 0."""
    parts: int
    """Shares: n. Else 0: the last slice ends at `dump_bytes`."""
    offset: int
    """Slices: where in the dump the payload begins. Else 0."""
    length: int
    """Slices: bytes of payload. Shares: bytes of a chunk. Notes: 0."""
    name: str
    """The dump's file name, as it was in the spool."""
    head: bytes
    """The dump's own preamble, header and digest, so that its lineage is known from any part; empty if too large."""
    set_name: str
    host: str
    received_at_ns: int
    raw_bytes: int
    entry_count: int
    written_at_ns: int


_decoder = msgspec.msgpack.Decoder(PartHeader)


def encode_part_header(header: PartHeader) -> bytes:
    """Return preamble, header and digest."""
    encoded = msgspec.msgpack.encode(header)
    assert len(encoded) <= HEADER_BYTES_MAX
    start = PREAMBLE.pack(MAGIC, VERSION, 0, len(encoded)) + encoded
    return start + blake3(start).digest(HEADER_DIGEST_BYTES)


def part_header_bytes(preamble: bytes) -> int:
    """Return how many bytes the whole header has, preamble and digest included; Damaged, TooNew for a later version."""
    if len(preamble) < PREAMBLE.size:
        raise Damaged(f"cut short at offset {len(preamble)}: no complete preamble")
    magic, version, zero, header_bytes = PREAMBLE.unpack(preamble[: PREAMBLE.size])
    if magic != MAGIC:
        raise Damaged("not a part of a dump: wrong magic at offset 0")
    if version > VERSION:
        raise TooNew(f"media format version {version}: this program reads up to {VERSION}; install a newer one")
    if version == 0 or zero != 0 or not 1 <= header_bytes <= HEADER_BYTES_MAX:
        raise Damaged("part header damaged at offset 8")
    return int(PREAMBLE.size + header_bytes + HEADER_DIGEST_BYTES)


def decode_part_header(data: bytes) -> PartHeader:
    """Return the header in `data`, which holds preamble, header and digest and nothing else; Damaged."""
    if len(data) < part_header_bytes(data):
        raise Damaged(f"cut short at offset {len(data)}: in its header")
    content, digest = data[:-HEADER_DIGEST_BYTES], data[-HEADER_DIGEST_BYTES:]
    if blake3(content).digest(HEADER_DIGEST_BYTES) != digest:
        raise Damaged(f"part header damaged at offset {PREAMBLE.size}")
    try:
        header = _decoder.decode(content[PREAMBLE.size :])
    except UNREADABLE as error:
        raise Damaged(f"part header damaged at offset {PREAMBLE.size}: {error}") from None
    _check(header)
    return header


def _check(header: PartHeader) -> None:
    sane = len(header.dump_id) == 16 and len(header.dump_digest) == DIGEST_BYTES and header.dump_bytes >= 0
    sane = sane and header.copy >= 1 and header.part >= 0 and is_file_name(header.name)
    if header.kind == PART_NOTE:
        sane = sane and header.part == header.offset == header.length == header.needed == header.parts == 0
    elif header.kind == PART_SLICE:
        sane = sane and header.offset >= 0 and 0 < header.length <= header.dump_bytes - header.offset
        sane = sane and header.needed == header.parts == 0
    elif header.kind == PART_SHARE:
        sane = sane and 1 <= header.needed <= header.parts <= SHARES_MAX and header.part < header.parts
        sane = sane and 0 < header.length <= SHARE_CHUNK_BYTES_MAX and header.offset == 0
    else:
        raise TooNew(f"part kind {header.kind}: this program does not know it; install a newer one")
    if not sane:
        raise Damaged(f"part header damaged at offset {PREAMBLE.size}: impossible values")


def stripe_count(header: PartHeader) -> int:
    """Return how many chunks each share of the dump has."""
    stripe_bytes = header.needed * header.length
    return -(-header.dump_bytes // stripe_bytes)


def chunk_tag(header_digest: bytes, stripe: int, chunk: bytes | memoryview) -> bytes:
    """Return the tag behind a share's chunk: a chunk of another share, stripe or dump does not pass."""
    return blake3(header_digest + stripe.to_bytes(8, "little")).update(chunk).digest(TAG_BYTES)


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What the label file in a medium's root says."""

    label: str
    target: str
    kind: str
    """`directory` or `shares`."""
    id: str
    """32 hexadecimal digits: two media with one label are told apart by them."""
    created: str


def encode_label(label: Label) -> bytes:
    """Return the label file: small, readable, with a checksum over its lines."""
    body = f"version = {LABEL_VERSION}\n" + "".join(
        f"{name} = {_quoted(getattr(label, name))}\n" for name in ("label", "target", "kind", "id", "created")
    )
    return f'# Dal Segno medium (docs/formats/media.md)\n{body}checksum = "{_checksum(body)}"\n'.encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _checksum(body: str) -> str:
    return blake3(body.encode()).hexdigest(16)


def decode_label(data: bytes) -> Label:
    """Return the label in a label file; Damaged, TooNew for a later version."""
    try:
        text = data.decode()
        table: dict[str, Any] = tomllib.loads(text)
        if int(table.pop("version")) > LABEL_VERSION:
            raise TooNew("label of a newer version: install a newer program")
        lines = [line + "\n" for line in text.splitlines() if line and not line.startswith(("#", "checksum"))]
        if table.pop("checksum") != _checksum("".join(lines)):
            raise ValueError("the checksum is wrong")
        return msgspec.convert(table, Label)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, msgspec.ValidationError) as error:
        raise Damaged(f"label damaged: {' '.join(str(error).split())}") from None
