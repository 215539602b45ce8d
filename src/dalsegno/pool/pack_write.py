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
from dalsegno.formats import pack, pack_footer, pack_header
from dalsegno.formats.objects import KIND_CHUNK, OBJECT_BYTES_MAX
from dalsegno.formats.pack_block import encode_body
from dalsegno.formats.pack_index import Columns, encode_place
from dalsegno.formats.pack_records import encode_record_head
from dalsegno.formats.pack_trailer import encode_trailer
from dalsegno.pool.index_rows import IndexRows
from dalsegno.pool.pack_seal import BlockSeal
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.terms.sizes import MIB
from dalsegno.world.chance import random_bytes
from dalsegno.world.workers import Workers

BLOCK_RAW_BYTES = {pack.BLOCK_METADATA: 1 * MIB, pack.BLOCK_DATA: 4 * MIB}
"""A block is closed when its records reach this size (docs/decisions/004-block-size.md)."""
INDEX_BLOCK_RAW_BYTES = 1 * MIB // pack.INDEX_ROW_BYTES * pack.INDEX_ROW_BYTES
assert max(BLOCK_RAW_BYTES.values()) + OBJECT_BYTES_MAX <= pack.BLOCK_RAW_BYTES_MAX
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
    key = random_bytes(pack.KEY_BYTES) if sealed else b""
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
    """Turns raw blocks into stored ones, compressed and sealed, from any thread."""

    def __init__(self, *, key: bytes, block_key: bytes, header_digest: bytes, dense: bool = False) -> None:
        self.dense = dense
        self._seal = BlockSeal(key=key, block_key=block_key, header_digest=header_digest)
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
        return self._seal.seal(encode_body(body, raw_bytes, block_type, padded=self._seal.hides), number)


class _OpenBlock:
    """The records of a block that is not full yet, and their index rows, which do not know its number yet."""

    __slots__ = ("block_type", "bytes_target", "fill", "ids", "parts", "rows")

    def __init__(self, block_type: int) -> None:
        self.block_type = block_type
        self.bytes_target = BLOCK_RAW_BYTES[block_type]
        self.clear()

    def clear(self) -> None:
        """Begin with no records again."""
        self.parts: list[bytes] = []
        self.fill = 0
        self.ids = bytearray()
        self.rows = array("I")


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
        front = pack_header.encode_front(self.header)
        header_digest = pack_header.header_digest(front)
        self._sealer = BlockSealer(key=key, block_key=realm.block_key, header_digest=header_digest, dense=dense)
        self._write(front)
        self._metadata = _OpenBlock(pack.BLOCK_METADATA)
        self._data = _OpenBlock(pack.BLOCK_DATA)
        self._index = IndexRows()
        self._block_number = 0
        self._pending: deque[tuple[int, Future[bytes] | bytes]] = deque()
        self._block_offsets = array("Q")
        self._block_stored = array("I")
        self._block_raw = array("I")
        self._block_types = bytearray()

    def put(self, kind: int, identity: bytes, payload: bytes | memoryview, encoding: int = pack.ENCODING_WHOLE) -> None:
        """Add one object that is not in this pack yet."""
        block = self._data if kind == KIND_CHUNK else self._metadata
        length = len(payload)
        head = encode_record_head(kind, encoding, length, identity)
        block.parts += head, payload  # type: ignore[arg-type]  # b"".join takes any buffer
        block.ids += identity
        block.rows.extend((0, encode_place(block.fill, kind), length, encoding))
        self.object_count += 1
        block.fill += len(head) + length
        if block.fill >= block.bytes_target:
            self._close_block(block)

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
        _set_block(rows, self._block_number)
        self._index.add(ids, rows)
        self.object_count += len(rows) // pack.INDEX_VALUES
        self._submit(make, block_type, raw_bytes)

    def _close_block(self, block: _OpenBlock) -> None:
        if not block.parts:
            return
        raw = b"".join(block.parts)
        _set_block(block.rows, self._block_number)
        self._index.add(block.ids, block.rows)
        block.clear()
        self._put_raw(raw, block.block_type)

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
        self._close_block(self._metadata)
        self._close_block(self._data)
        self._drain(0)
        columns, pieces = self._index.finish()
        first_ids: list[bytes] = []
        waiting = b""
        for piece in pieces:
            waiting += piece
            whole = len(waiting) // INDEX_BLOCK_RAW_BYTES * INDEX_BLOCK_RAW_BYTES
            for start in range(0, whole, INDEX_BLOCK_RAW_BYTES):
                first_ids.append(waiting[start : start + OBJECT_ID_BYTES])
                self._put_raw(waiting[start : start + INDEX_BLOCK_RAW_BYTES], pack.BLOCK_INDEX)
            waiting = waiting[whole:]
        if waiting:
            first_ids.append(waiting[:OBJECT_ID_BYTES])
            self._put_raw(waiting, pack.BLOCK_INDEX)
        self._drain(0)
        trailer = encode_trailer(
            self._block_offsets, self._block_stored, self._block_raw, self._block_types, first_ids, self.object_count
        )
        trailer_offset = self.bytes_written
        stored = self._sealer.seal(trailer, pack.BLOCK_TRAILER, self._block_number)
        self._write(stored)
        self._write(
            pack_footer.encode_fields(
                trailer_offset=trailer_offset, trailer_bytes=len(stored), block_count=self._block_number
            )
        )
        if self._lane is not None:
            self._lane.drain()
        self.close()
        digest = self._hash.digest()
        end = pack_footer.encode_end(digest)
        self._write_out(end)
        self.bytes_written += len(end)
        return PackSummary(
            pack_id=self.header.pack_id,
            size_bytes=self.bytes_written,
            object_count=self.object_count,
            digest=digest,
            columns=columns,
        )


def _set_block(rows: "array[int]", number: int) -> None:
    """Set the first number of every row: the block in which its object is."""
    rows[0 :: pack.INDEX_VALUES] = array("I", [number]) * (len(rows) // pack.INDEX_VALUES)
