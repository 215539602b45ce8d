"""Targets for packs: right digests and tags around parts that are wrong, as whoever has a key can make them."""

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dalsegno.formats import pack, pack_block, pack_footer, pack_header, pack_trailer
from dalsegno.formats.pack_records import encode_record_head, split_records
from dalsegno.pool.adopt import Adopter, check_pack
from dalsegno.pool.pack_read import PackReader, open_note, pack_key
from dalsegno.pool.pack_verify import stream_blocks, verify, verify_digest
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import DalError
from dalsegno.terms.ids import PackId
from dalsegno.terms.sizes import MIB
from dalsegno.world.files import UploadFile
from kit import REALM

GOLDEN: Final = Path(__file__).parents[1] / "golden"
MODELS: Final = ("pack-v1-clear.dump", "pack-v1-sealed.dump", "pack-v2-clear.dump", "pack-v2-sealed.dump", "pack-v2-reader.dump", "ref-v2-table.pack")  # fmt: skip
AS_IT_IS: Final = 255
PACKS_MAX: Final = 50
PLACE: Final = Path(tempfile.mkdtemp(prefix="dal-fuzz-"))
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)
RAW_BYTES_MAX: Final = 64 * MIB
"""What one pack may hold here: many blocks of zeros are slow and no fault."""


class InMemory:
    """A pack in memory. A PackFile."""

    path = Path("fuzzed")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Model:
    """A right pack in its parts."""

    version: int
    header: bytes
    blocks: tuple[tuple[int, bytes], ...]
    """Type and raw bytes, without the trailer."""
    trailer_end: bytes
    """What the trailer holds behind its columns."""
    key: bytes


def _read_model(name: str) -> Model:
    data = (GOLDEN / name).read_bytes()
    header_bytes = pack_header.decode_preamble(data)
    encoded = data[pack.PREAMBLE.size : pack.PREAMBLE.size + header_bytes]
    header = pack_header.decode_header(encoded)
    blocks = [(kind, raw) for _, _, _, kind, raw in stream_blocks(io.BytesIO(data), REALM)]
    *others, (_, trailer) = blocks
    columns = 4 + pack.TRAILER_ROW_BYTES * len(others)
    key = pack_key(header, REALM) if header.seal else b""
    return Model(header.version, encoded, tuple(others), trailer[columns:], key)


def _as_sent(model: Model) -> Model:
    """Return a dump's objects as a pack that a client sends."""
    header = msgspec.structs.replace(pack_header.decode_header(model.header), kind=pack.PACK_POOL, note=b"")
    return replace(model, header=pack_header.encode_header(header))


_READ: Final = tuple(map(_read_model, MODELS))
MODEL: Final = (*_READ, *map(_as_sent, _READ[:5]))


class Edits:
    """Changes that an input asks for: each names a part, a place in it, how many bytes go, and what comes instead."""

    def __init__(self, data: bytes) -> None:
        self._of: dict[int, list[tuple[int, int, bytes]]] = {}
        at = 0
        while at + 5 <= len(data):
            part, place, gone, length = (
                data[at],
                int.from_bytes(data[at + 1 : at + 3], "little"),
                data[at + 3],
                data[at + 4],
            )
            self._of.setdefault(part, []).append((place, gone, data[at + 5 : at + 5 + length]))
            at += 5 + length

    def changed(self, part: int, content: bytes) -> bytes:
        for place, gone, new in self._of.get(part, ()):
            at = place % (len(content) + 1)
            content = content[:at] + new + content[at + gone :]
        return content


HEADER, TRAILER, FOOTER, WHOLE = 250, 251, 252, 253
"""Parts that every pack has once. Block n has raw bytes (3n), a zstd frame (3n + 1), and what stands before it (3n + 2)."""


class _Builder:
    def __init__(self, model: Model, edits: Edits) -> None:
        self.model, self.edits = model, edits
        header = edits.changed(HEADER, model.header)
        head = pack.PREAMBLE.pack(pack.MAGIC, model.version, 0, len(header)) + header
        self._digest = blake3(head).digest(pack.HEADER_DIGEST_BYTES)
        self.data = bytearray(head + self._digest)
        self.rows: list[tuple[int, int, int, int]] = []

    def block(self, kind: int, raw: bytes) -> None:
        number = len(self.rows)
        raw = self.edits.changed(3 * number, raw)
        content = self.edits.changed(3 * number + 1, zstandard.ZstdCompressor(level=1).compress(raw))
        body_bytes = len(content) + (0 if self.model.version == 1 else pack.BODY.size)
        if self.model.version == 1:
            fields = pack.LAYOUTS[1].frame.pack(body_bytes + pack.TAG_BYTES, len(raw), kind)
        else:
            fields = pack.FRAME.pack(body_bytes + pack.TAG_BYTES) + pack.BODY.pack(kind, len(raw), len(content))
        fields = self.edits.changed(3 * number + 2, fields)
        frame_bytes = pack.LAYOUTS[self.model.version].frame.size
        frame, body = fields[:frame_bytes], fields[frame_bytes:] + content
        self.rows.append((len(self.data), len(body) + pack.TAG_BYTES, len(raw), kind))
        self.data += frame + self._tagged(frame, body, number)

    def _tagged(self, frame: bytes, body: bytes, number: int) -> bytes:
        associated = self._digest + frame + number.to_bytes(8, "little")
        if self.model.key:
            return AESGCM(self.model.key).encrypt(number.to_bytes(12, "little"), body, associated)
        return body + blake3(associated, key=REALM.block_key).update(body).digest(pack.TAG_BYTES)

    def end(self) -> bytes:
        count, offset = len(self.rows), len(self.data)
        columns = [numpy.array(column, dtype) for column, dtype in zip(zip(*self.rows, strict=True), ("<u8", "<u4", "<u4", "u1"), strict=True)]  # fmt: skip
        raw = count.to_bytes(4, "little") + b"".join(column.tobytes() for column in columns) + self.model.trailer_end
        self.block(pack.BLOCK_TRAILER, self.edits.changed(TRAILER, raw))
        layout = pack.LAYOUTS[self.model.version]
        objects = [sum(len(raw) for kind, raw in self.model.blocks if kind == pack.BLOCK_INDEX) // pack.INDEX_ROW_BYTES]
        counts = objects if self.model.version == 1 else []
        footer = layout.footer.pack(offset, len(self.data) - offset, count, *counts, bytes(32), pack.MAGIC_END)
        fields = self.edits.changed(FOOTER, footer[: -pack.FOOTER_END_BYTES])
        digest = blake3(bytes(self.data) + fields).digest()
        return self.edits.changed(WHOLE, bytes(self.data) + fields + digest + pack.MAGIC_END)


def build(data: bytes) -> bytes:
    """Return the pack that an input asks for: one as it is, or a model with edits and right digests and tags."""
    if not data or data[0] == AS_IT_IS:
        return data[1:]
    model = MODEL[data[0] % len(MODEL)]
    builder = _Builder(model, Edits(data[1:]))
    for kind, raw in model.blocks:
        builder.block(kind, raw)
    return builder.end()


def _each_object(reader: PackReader) -> Iterator[bytes]:
    ids, _ = reader.objects()
    for identity in ids[:100]:
        yield identity.tobytes()


def opened(data: bytes) -> None:
    """Open a pack, verify it, and read each object by its id."""
    with PackReader.open(InMemory(build(data)), REALM) as reader:
        if int(reader.raw.sum(dtype=numpy.uint64)) > RAW_BYTES_MAX:
            return
        with suppress(DalError):
            open_note(reader.header, REALM)
        list(verify(reader))
        verify_digest(reader)
        for identity in _each_object(reader):
            with suppress(DalError):
                reader.get_kind(identity)


def streamed(data: bytes) -> None:
    """Read a pack from a pipe."""
    total = 0
    for header, offset, _, kind, raw in stream_blocks(io.BytesIO(build(data)), REALM):
        total += len(raw)
        if total > RAW_BYTES_MAX:
            return
        if kind in (pack.BLOCK_METADATA, pack.BLOCK_DATA):
            list(split_records(raw, offset=offset))
        if header.kind == pack.PACK_DUMP:
            with suppress(DalError):
                open_note(header, REALM)


def part(data: bytes) -> None:
    """Each part of a pack by itself, with no digest or tag before it: what comes back makes the same bytes again."""
    which, rest = data[:1], data[1:]
    layout = pack.LAYOUTS[1 + len(data) % len(pack.LAYOUTS)]
    if which == b"f":
        pack_header.decode_front(rest)
    elif which == b"h":
        header = pack_header.decode_header(rest)
        assert pack_header.decode_header(pack_header.encode_header(header)) == header
    elif which == b"b":
        frame, body = rest[: layout.frame.size], rest[layout.frame.size :]
        if len(frame) == layout.frame.size and len(body) >= pack.BODY.size:
            pack_block.decode_frame(layout, frame, offset=0)
            found = pack_block.decode_body(layout, frame, body, offset=0)
            if found.raw_bytes <= RAW_BYTES_MAX:
                pack_block.decompress(found, offset=0)
    elif which == b"r":
        again = [(encode_record_head(k, e, len(p), i), p) for _, k, e, i, p in split_records(rest, offset=0)]
        assert b"".join(each for pair in again for each in pair) == rest
    elif which == b"t":
        count = int.from_bytes(rest[:4], "little")
        table = pack_trailer.decode_trailer(layout, rest, count, offset=0)
        assert len(table.types) == count and len(rest) <= pack_trailer.trailer_bytes_max(layout, len(rest))
    elif which == b"e" and (footer := pack_footer.decode_footer(layout, rest[-layout.footer.size :])) is not None:
        pack_footer.check_footer(layout, footer, header_end=len(rest) % 500, file_bytes=len(rest))


class _Pools:
    """A pool that takes packs, another after many of them."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._taken = 0

    def get(self) -> Pool:
        if self._pool is None or self._taken > PACKS_MAX:
            self._taken = 0
            if self._pool is not None:
                self._pool.close()
                shutil.rmtree(self._pool.backend.directory)
            self._pool = Pool.create(PLACE / f"pool-{os.getpid()}", encryption="none", realm=REALM)
        return self._pool

    def take(self, identity: bytes, data: bytes) -> None:
        """Take a pack."""
        self._taken += 1
        path = PLACE / f"{identity.hex()}.partial"
        path.write_bytes(data)
        file = UploadFile(path, create=False)
        try:
            assert file.lock()
            with Adopter(self.get()) as adopter:
                adopter.adopt([(PackId(identity), file)])
        finally:
            file.close()
            path.unlink(missing_ok=True)


POOLS: Final = _Pools()


def adopted(data: bytes) -> None:
    """Check a pack that somebody sent, as a server does, and take one that is right."""
    built = build(data)
    identity = b""
    with suppress(DalError, msgspec.MsgspecError):
        identity = pack_header.decode_header(built[pack.PREAMBLE.size :][: pack_header.decode_preamble(built)]).pack_id
    checked = check_pack(cast(Any, InMemory(built)), POOLS.get(), identity, None)
    POOLS.take(checked.reader.pack_id, built)
