"""Write a pack in one stream: records into solid blocks, sealed by workers, then index, trailer and footer."""

from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from dalsegno.chunks.realm import Realm
from dalsegno.formats import objects, pack
from dalsegno.world.chance import random_bytes
from dalsegno.world.workers import Lane, Workers

ZSTD_LEVEL = 3
BLOCKS_PENDING_MAX = 6
WRITES_PENDING_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """A finished pack: its columns are what an index needs, sorted by id."""

    pack_id: bytes
    size_bytes: int
    digest: bytes
    ids: NDArray[numpy.uint8]
    """(n, 32) ids."""
    values: NDArray[numpy.uint32]
    """(n, 4): block number; offset in the block | kind << 24; payload length; encoding."""


def new_header(
    realm: Realm, *, kind: int, sealed: bool, pack_id: bytes | None = None, note: bytes = b""
) -> tuple[pack.PackHeader, bytes]:
    """Return a header with a fresh pack key wrapped in it, and that key (empty when not sealed)."""
    pack_id = pack_id or random_bytes(16)
    key = random_bytes(32) if sealed else b""
    header = pack.PackHeader(
        kind=kind,
        pack_id=pack_id,
        realm=realm.realm_id,
        codec=pack.CODEC_ZSTD,
        seal=pack.SEAL_AES_256_GCM if sealed else pack.SEAL_NONE,
        wrapped_key=realm.wrap_key(key, context=pack_id) if sealed else b"",
        note=realm.seal_value(note, context=pack_id) if sealed and note else note,
    )
    return header, key


class BlockSealer:
    """Turns raw blocks into stored ones, from any thread. Tags bind the header, the block's number and its frame."""

    def __init__(self, *, key: bytes, block_key: bytes, header_digest: bytes) -> None:
        self._aead = AESGCM(key) if key else None
        self._block_key = block_key
        self._header_digest = header_digest
        self._idle: list[zstandard.ZstdCompressor] = []

    def seal(self, raw: bytes, block_type: int, number: int) -> bytes:
        """Return the block as stored: frame, body, tag."""
        compressor = self._idle.pop() if self._idle else zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        body = compressor.compress(raw)
        self._idle.append(compressor)
        return self.seal_compressed(body, len(raw), block_type, number)

    def seal_compressed(self, body: bytes, raw_bytes: int, block_type: int, number: int) -> bytes:
        """Return a stored block from a zstd frame: how merge copies a wholly wanted block."""
        frame = pack.FRAME.pack(len(body) + pack.TAG_BYTES, raw_bytes, block_type)
        associated = self._header_digest + frame + number.to_bytes(8, "little")
        if self._aead is not None:
            return frame + self._aead.encrypt(number.to_bytes(12, "little"), body, associated)
        tag = blake3(associated, key=self._block_key).update(body).digest(pack.TAG_BYTES)
        return b"".join((frame, body, tag))


class PackWriter:
    """Writes one pack. The caller gives each object once; nothing is durable before finish() and the caller's sync."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        realm: Realm,
        header: tuple[pack.PackHeader, bytes],
        workers: Workers | None = None,
    ) -> None:
        self.header, key = header
        self._write_out = write
        self._workers = workers
        self._lane = Lane(WRITES_PENDING_MAX) if workers is not None else None
        self._hash = blake3()
        self.bytes_written = 0
        self.object_count = 0
        encoded = pack.encode_struct(self.header)
        head = pack.PREAMBLE.pack(pack.MAGIC, pack.VERSION, 0, len(encoded)) + encoded
        header_digest = blake3(head).digest(pack.HEADER_DIGEST_BYTES)
        self._sealer = BlockSealer(key=key, block_key=realm.block_key, header_digest=header_digest)
        self._write(head + header_digest)
        self._parts: dict[int, list[bytes]] = {pack.BLOCK_METADATA: [], pack.BLOCK_DATA: []}
        self._fill = {pack.BLOCK_METADATA: 0, pack.BLOCK_DATA: 0}
        # Records of an open block do not know its number yet: rows are kept per type until the block is closed.
        self._open_rows: dict[int, tuple[bytearray, array[int]]] = {t: (bytearray(), array("I")) for t in self._parts}
        self._ids = bytearray()
        self._rows = array("I")
        self._block_number = 0
        self._pending: deque[tuple[int, int, Future[bytes] | bytes]] = deque()
        self._block_offsets = array("Q")
        self._block_stored = array("I")
        self._block_raw = array("I")
        self._block_types = bytearray()

    def put(self, kind: int, identity: bytes, payload: bytes | memoryview, encoding: int = pack.ENCODING_WHOLE) -> None:
        """Add one object that is not in this pack yet."""
        block_type = pack.BLOCK_DATA if kind == objects.KIND_CHUNK else pack.BLOCK_METADATA
        length = len(payload)
        fill = self._fill[block_type]
        parts = self._parts[block_type]
        parts.append(pack.RECORD.pack(kind, encoding, length, identity))
        parts.append(payload)  # type: ignore[arg-type]  # b"".join takes any buffer
        ids, rows = self._open_rows[block_type]
        ids += identity
        rows.extend((0, fill | kind << pack.OFFSET_BITS, length, encoding))
        self.object_count += 1
        fill += pack.RECORD.size + length
        self._fill[block_type] = fill
        if fill >= pack.BLOCK_RAW_BYTES:
            self._close_block(block_type)

    def put_block(self, body: bytes, raw_bytes: int, block_type: int, ids: bytes, rows: "array[int]") -> None:
        """Add a whole block from another pack: its zstd frame and the rows (number, offset|kind, length, encoding)."""
        self._add_rows(ids, rows)
        self._submit(self._sealer.seal_compressed, body, raw_bytes, block_type, raw_length=raw_bytes)

    def put_records(self, raw: bytes, block_type: int, ids: bytes, rows: "array[int]") -> None:
        """Add a block made of whole records, with their rows as for put_block."""
        self._add_rows(ids, rows)
        self._submit(self._sealer.seal, raw, block_type, raw_length=len(raw))

    def _add_rows(self, ids: bytes, rows: "array[int]") -> None:
        rows[0::4] = array("I", [self._block_number]) * (len(rows) // 4)
        self._ids += ids
        self._rows.extend(rows)
        self.object_count += len(rows) // 4

    def _close_block(self, block_type: int) -> None:
        if not self._fill[block_type]:
            return
        raw = b"".join(self._parts[block_type])
        ids, rows = self._open_rows[block_type]
        rows[0::4] = array("I", [self._block_number]) * (len(rows) // 4)
        self._ids += ids
        self._rows.extend(rows)
        self._parts[block_type] = []
        self._fill[block_type] = 0
        self._open_rows[block_type] = (bytearray(), array("I"))
        self._submit(self._sealer.seal, raw, block_type, raw_length=len(raw))

    def _submit(self, seal: Callable[..., bytes], *arguments: Any, raw_length: int) -> None:
        number = self._block_number
        self._block_number += 1
        self._block_types.append(arguments[-1])
        if self._workers is None:
            self._pending.append((number, raw_length, seal(*arguments, number)))
            self._drain(0)
        else:
            self._pending.append((number, raw_length, self._workers.submit(seal, *arguments, number)))
            self._drain(BLOCKS_PENDING_MAX)

    def _drain(self, pending_max: int) -> None:
        pending = self._pending
        while pending and (len(pending) > pending_max or isinstance(pending[0][2], bytes) or pending[0][2].done()):
            _, raw_length, stored = pending.popleft()
            data = stored if isinstance(stored, bytes) else stored.result()
            self._block_offsets.append(self.bytes_written)
            self._block_stored.append(len(data) - pack.FRAME.size)
            self._block_raw.append(raw_length)
            self._write(data)

    def _write(self, data: bytes) -> None:
        self.bytes_written += len(data)
        if self._lane is None:
            self._emit(data)
        else:
            self._lane.submit(self._emit, data)

    def _emit(self, data: bytes) -> None:
        self._hash.update(data)
        self._write_out(data)

    def close(self) -> None:
        """End the writing thread. Before the file is given back, also after an error."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None

    def __enter__(self) -> "PackWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def finish(self) -> PackSummary:
        """Write what is open, the index, the trailer and the footer, and return the pack's columns."""
        self._close_block(pack.BLOCK_METADATA)
        self._close_block(pack.BLOCK_DATA)
        self._drain(0)
        ids = numpy.frombuffer(bytes(self._ids), dtype=numpy.uint8).reshape(-1, 32)
        values = numpy.frombuffer(self._rows.tobytes(), dtype=numpy.uint32).reshape(-1, 4)
        self._ids, self._rows = bytearray(), array("I")
        order = sort_order(ids)
        ids, values = ids[order], values[order]
        per_block = pack.BLOCK_RAW_BYTES // pack.INDEX_ROW_BYTES
        first_ids: list[bytes] = []
        for start in range(0, len(ids), per_block):
            part_ids, part_values = ids[start : start + per_block], values[start : start + per_block]
            first_ids.append(part_ids[0].tobytes())
            raw = numpy.hstack((part_ids, part_values.astype("<u4").view(numpy.uint8).reshape(-1, 16))).tobytes()
            self._submit(self._sealer.seal, raw, pack.BLOCK_INDEX, raw_length=len(raw))
        self._drain(0)
        trailer = encode_trailer(self._block_offsets, self._block_stored, self._block_raw, self._block_types, first_ids)
        trailer_offset = self.bytes_written
        stored = self._sealer.seal(trailer, pack.BLOCK_TRAILER, self._block_number)
        self._write(stored)
        fields = pack.FOOTER.pack(trailer_offset, len(stored), self._block_number, len(ids), bytes(32), pack.MAGIC_END)
        fields = fields[: pack.FOOTER_DIGESTED_BYTES]
        self._write(fields)
        if self._lane is not None:
            self._lane.drain()
        self.close()
        digest = self._hash.digest()
        self._write_out(digest + pack.MAGIC_END)
        self.bytes_written += len(digest) + len(pack.MAGIC_END)
        return PackSummary(
            pack_id=self.header.pack_id, size_bytes=self.bytes_written, digest=digest, ids=ids, values=values
        )


def sort_order(ids: NDArray[numpy.uint8]) -> NDArray[numpy.intp]:
    """Return the order that sorts (n, 32) ids as byte strings."""
    words = numpy.ascontiguousarray(ids).view(">u8").astype(numpy.uint64)
    order = numpy.argsort(words[:, 0], kind="stable")
    prefix = words[order, 0]
    if len(prefix) > 1 and bool((prefix[1:] == prefix[:-1]).any()):
        order = numpy.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    return order


def encode_trailer(
    offsets: "array[int]", stored: "array[int]", raw: "array[int]", types: bytearray, first_ids: list[bytes]
) -> bytes:
    """Return the table of blocks: count u32; columns u64, u32, u32, u8; index block count u32; their first ids."""
    count = len(types)
    assert len(offsets) == len(stored) == len(raw) == count
    return b"".join(
        (
            count.to_bytes(4, "little"),
            offsets.tobytes(),
            stored.tobytes(),
            raw.tobytes(),
            bytes(types),
            len(first_ids).to_bytes(4, "little"),
            *first_ids,
        )
    )
