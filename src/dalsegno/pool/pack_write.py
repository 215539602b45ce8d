"""Write a pack in one stream: records into solid blocks, sealed by workers, then index, trailer and footer."""

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import seal_to
from dalsegno.formats import objects, pack, pack_block, pack_header
from dalsegno.formats.pack_index import Columns
from dalsegno.formats.pack_trailer import encode_trailer
from dalsegno.pool.index_rows import IndexRows
from dalsegno.terms.sizes import MIB
from dalsegno.world.chance import random_bytes
from dalsegno.world.workers import Workers

BLOCK_RAW_BYTES = {pack.BLOCK_METADATA: 1 * MIB, pack.BLOCK_DATA: 4 * MIB}
"""A block is closed when its records reach this size (docs/decisions/004-block-size.md)."""
INDEX_BLOCK_RAW_BYTES = 1 * MIB // pack.INDEX_ROW_BYTES * pack.INDEX_ROW_BYTES
assert max(BLOCK_RAW_BYTES.values()) + objects.OBJECT_BYTES_MAX <= pack.BLOCK_RAW_BYTES_MAX
BLOCKS_PENDING_MAX = 6
WRITES_PENDING_MAX = 4
SENT_PENDING_MAX = 1
"""Where somebody far away takes what is written: he is slower than the workers, and there may be many like him."""
DENSE_LEVEL = 9
"""For who waits gladly: 10 to 20 % less than the fast setting, at a sixth of its speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """A finished pack."""

    pack_id: bytes
    size_bytes: int
    object_count: int
    digest: bytes
    columns: Columns | None
    """What an index needs, sorted by id; None when there were more than ROWS_IN_MEMORY_MAX objects."""


def new_header(
    realm: Realm,
    *,
    kind: int,
    sealed: bool,
    pack_id: bytes | None = None,
    note: bytes = b"",
    recipients: Sequence[str] = (),
    stays: bool = False,
) -> tuple[pack_header.PackHeader, bytes]:
    """Return a header with a fresh pack key sealed in it, and that key (empty when not sealed).

    A pack that `stays` in the pool of this machine is opened by it also when it must not read what others have. Each of
    `recipients` (age's, see chunks/recipients.py) opens a sealed pack, too, with his own key.
    """
    assert sealed or not recipients
    pack_id = pack_id or random_bytes(16)
    key = random_bytes(32) if sealed else b""
    keys = (realm.keys_for_pool if stays else realm.keys_for_realm)(key, pack_id) if sealed else []
    if recipients:
        keys.append((pack.KEY_AGE, seal_to(recipients, pack.SEALED_KEY.pack(pack_id, key, realm.id_key))))
    header = pack_header.PackHeader(
        kind=kind,
        pack_id=pack_id,
        realm=realm.realm_id,
        codec=pack.CODEC_ZSTD,
        seal=pack.SEAL_AES_256_GCM if sealed else pack.SEAL_NONE,
        keys=keys,
        note=AESGCM(key).encrypt(pack.NOTE_NONCE, note, pack_id) if sealed and note else note,
    )
    return header, key


def new_compressor(block_type: int, *, dense: bool = False) -> zstandard.ZstdCompressor:
    """Return what compresses blocks of a type; any zstd frame is right, these are the fastest for their size."""
    if dense:
        return zstandard.ZstdCompressor(level=DENSE_LEVEL)
    if block_type != pack.BLOCK_DATA:
        return zstandard.ZstdCompressor(level=3)
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, window_log=22, hash_log=18, chain_log=18, search_log=1, min_match=6
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


class BlockSealer:
    """Turns raw blocks into stored ones, from any thread. Tags bind the header, the block's number and its frame."""

    def __init__(self, *, key: bytes, block_key: bytes, header_digest: bytes, dense: bool = False) -> None:
        self.dense = dense
        self._aead = AESGCM(key) if key else None
        self._block_key = block_key
        self._header_digest = header_digest
        self._idle: tuple[list[zstandard.ZstdCompressor], ...] = ([], [])

    def seal(self, raw: bytes, block_type: int, number: int) -> bytes:
        """Return the block as stored: frame, body, tag."""
        return self.seal_compressed(self.compress(raw, block_type), len(raw), block_type, number)

    def compress(self, raw: bytes, block_type: int) -> bytes:
        """Return a raw block's zstd frame."""
        idle = self._idle[block_type == pack.BLOCK_DATA]
        compressor = idle.pop() if idle else new_compressor(block_type, dense=self.dense)
        body = compressor.compress(raw)
        idle.append(compressor)
        return body

    def seal_compressed(self, body: bytes | memoryview, raw_bytes: int, block_type: int, number: int) -> bytes:
        """Return a stored block from a zstd frame: how merge copies a wholly wanted block."""
        body = pack_block.encode_body(body, raw_bytes, block_type, padded=self._aead is not None)
        frame = pack.FRAME.pack(len(body) + pack.TAG_BYTES)
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
        header: tuple[pack_header.PackHeader, bytes],
        workers: Workers | None = None,
        dense: bool = False,
        pending_max: int = BLOCKS_PENDING_MAX,
    ) -> None:
        """`dense` makes the pack smaller and takes longer, also where it copies blocks of other packs.

        At most `pending_max` blocks of some 4 MiB wait to be sealed; with 1 the caller's thread writes them itself.
        """
        self.header, key = header
        self._write_out = write
        self._workers = workers
        self._lane = workers.lane(WRITES_PENDING_MAX) if workers is not None and pending_max > 1 else None
        self._pending_max = pending_max
        self._hash = blake3()
        self.bytes_written = 0
        self.object_count = 0
        encoded = pack_header.encode_struct(self.header)
        head = pack.PREAMBLE.pack(pack.MAGIC, pack.VERSION, 0, len(encoded)) + encoded
        header_digest = blake3(head).digest(pack.HEADER_DIGEST_BYTES)
        self._sealer = BlockSealer(key=key, block_key=realm.block_key, header_digest=header_digest, dense=dense)
        self._write(head + header_digest)
        self._parts: dict[int, list[bytes]] = {pack.BLOCK_METADATA: [], pack.BLOCK_DATA: []}
        self._fill = {pack.BLOCK_METADATA: 0, pack.BLOCK_DATA: 0}
        # Records of an open block do not know its number yet: rows are kept per type until the block is closed.
        self._open_rows: dict[int, tuple[bytearray, array[int]]] = {t: (bytearray(), array("I")) for t in self._parts}
        self._index = IndexRows()
        self._block_number = 0
        self._pending: deque[tuple[int, Future[bytes] | bytes]] = deque()
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
        if fill >= BLOCK_RAW_BYTES[block_type]:
            self._close_block(block_type)

    def put_made(
        self,
        make: Callable[[BlockSealer, int], bytes],
        *,
        raw_bytes: int,
        block_type: int,
        ids: bytes,
        rows: "array[int]",
    ) -> None:
        """Add a block that `make(sealer, number)` returns as stored, in a worker; its rows' first value is ours to set.

        This is how a block of another pack is copied, whole or in part.
        """
        rows[0::4] = array("I", [self._block_number]) * (len(rows) // 4)
        self._index.add(ids, rows)
        self.object_count += len(rows) // 4
        self._submit(make, block_type, raw_bytes)

    def _close_block(self, block_type: int) -> None:
        if not self._fill[block_type]:
            return
        raw = b"".join(self._parts[block_type])
        ids, rows = self._open_rows[block_type]
        rows[0::4] = array("I", [self._block_number]) * (len(rows) // 4)
        self._index.add(ids, rows)
        self._parts[block_type] = []
        self._fill[block_type] = 0
        self._open_rows[block_type] = (bytearray(), array("I"))
        self._put_raw(raw, block_type)

    def _put_raw(self, raw: bytes, block_type: int) -> None:
        self._submit(lambda sealer, number: sealer.seal(raw, block_type, number), block_type, len(raw))

    def _submit(self, make: Callable[[BlockSealer, int], bytes], block_type: int, raw_bytes: int) -> None:
        number = self._block_number
        self._block_number += 1
        self._block_types.append(block_type)
        if self._workers is None:
            self._pending.append((raw_bytes, make(self._sealer, number)))
            self._drain(0)
        else:
            self._pending.append((raw_bytes, self._workers.submit(make, self._sealer, number)))
            self._drain(self._pending_max)

    def _drain(self, pending_max: int) -> None:
        pending = self._pending
        while pending and (len(pending) > pending_max or isinstance(pending[0][1], bytes) or pending[0][1].done()):
            raw_length, stored = pending.popleft()
            data = stored if isinstance(stored, bytes) else stored.result()
            self._block_offsets.append(self.bytes_written)
            self._block_stored.append(len(data) - pack.FRAME.size)
            self._block_raw.append(raw_length)
            self._write(data)

    def drain(self) -> None:
        """Wait until every block is sealed: what `put_made` reads from may be closed then."""
        self._drain(0)

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
        self._index.close()
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
        columns, pieces = self._index.finish()
        first_ids: list[bytes] = []
        waiting = b""
        for piece in pieces:
            waiting += piece
            whole = len(waiting) // INDEX_BLOCK_RAW_BYTES * INDEX_BLOCK_RAW_BYTES
            for start in range(0, whole, INDEX_BLOCK_RAW_BYTES):
                first_ids.append(waiting[start : start + 32])
                self._put_raw(waiting[start : start + INDEX_BLOCK_RAW_BYTES], pack.BLOCK_INDEX)
            waiting = waiting[whole:]
        if waiting:
            first_ids.append(waiting[:32])
            self._put_raw(waiting, pack.BLOCK_INDEX)
        self._drain(0)
        trailer = encode_trailer(
            self._block_offsets, self._block_stored, self._block_raw, self._block_types, first_ids, self.object_count
        )
        trailer_offset = self.bytes_written
        stored = self._sealer.seal(trailer, pack.BLOCK_TRAILER, self._block_number)
        self._write(stored)
        fields = pack.FOOTER.pack(trailer_offset, len(stored), self._block_number, bytes(32), pack.MAGIC_END)
        fields = fields[: pack.FOOTER_DIGESTED_BYTES]
        self._write(fields)
        if self._lane is not None:
            self._lane.drain()
        self.close()
        digest = self._hash.digest()
        self._write_out(digest + pack.MAGIC_END)
        self.bytes_written += len(digest) + len(pack.MAGIC_END)
        return PackSummary(
            pack_id=self.header.pack_id,
            size_bytes=self.bytes_written,
            object_count=self.object_count,
            digest=digest,
            columns=columns,
        )
