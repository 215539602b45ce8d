"""Raw blocks of packs: those used last are kept; each is opened once, however many ask; the next ones ahead of use."""

from collections import OrderedDict
from concurrent.futures import Future
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from dalsegno.terms.sizes import MIB
from dalsegno.world.workers import Workers, new_lock

POOL_BLOCKS_BYTES_MAX: Final = 32 * MIB
"""What a pool keeps of all its packs."""
PACK_BLOCKS_BYTES_MAX: Final = 16 * MIB
"""What a reader keeps of one pack that is no pool's: of a dump."""
BLOCKS_AHEAD_MAX: Final = 3
BLOCKS_AHEAD_SPAN: Final = 16
"""How far behind the last one a block may lie and still be the next: blocks of the other type lie between."""
PLACES_MAX: Final = 64
"""How many packs are watched for being read in order."""

BlockKey = tuple[bytes, int]
"""(pack id, block number)"""


class BlockReader(Protocol):
    """An open pack."""

    pack_id: bytes
    types: npt.NDArray[np.uint8]
    """The type of each block."""

    def read_block(self, number: int) -> bytes:
        """Return a raw block, its tag checked. From several threads at once."""
        ...


class BlockCache:
    """Raw blocks, those used last, up to `bytes_max` or one block."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._size = 0
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()

    def get(self, key: BlockKey) -> bytes | None:
        """Return a block, or None."""
        raw = self._blocks.get(key)
        if raw is not None:
            self._blocks.move_to_end(key)
        return raw

    def put(self, key: BlockKey, raw: bytes) -> None:
        """Keep a block."""
        self._size += len(raw) - len(self._blocks.pop(key, b""))
        self._blocks[key] = raw
        while self._size > self._bytes_max and len(self._blocks) > 1:
            self._size -= len(self._blocks.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self._size = 0

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks


class Blocks:
    """The blocks of some packs, for all threads that read them."""

    def __init__(self, bytes_max: int) -> None:
        self._lock = new_lock()
        self._cache = BlockCache(bytes_max)
        self._coming: dict[BlockKey, Future[bytes]] = {}
        self._ahead: Workers | None = None
        self._last: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        """(pack, type of block): the block that was used last."""

    def find(self, key: BlockKey) -> bytes | None:
        """Return a block if it is kept."""
        with self._lock:
            return self._cache.get(key)

    def get(self, reader: BlockReader, number: int) -> bytes:
        """Return a raw block of a pack. What opening it raises, everybody gets who waited for it."""
        key = (reader.pack_id, number)
        coming = own = None
        with self._lock:
            raw = self._cache.get(key)
            if raw is None:
                own = Future[bytes]()
                coming = self._coming.get(key)
                # What a worker has not begun goes faster here than in its turn.
                if coming is None or coming.cancel():
                    own.set_running_or_notify_cancel()
                    self._coming[key], coming = own, None
        if raw is None and coming is not None:
            raw = coming.result()
        if raw is None:
            assert own is not None
            try:
                raw = self._open(reader, number)
            except BaseException as error:
                own.set_exception(error)
                raise
            own.set_result(raw)
        if self._ahead is not None:
            self._read_on(reader, number, self._ahead)
        return raw

    def _open(self, reader: BlockReader, number: int) -> bytes:
        key = (reader.pack_id, number)
        raw = None
        try:
            raw = reader.read_block(number)
        finally:
            with self._lock:
                self._coming.pop(key, None)
                if raw is not None:
                    self._cache.put(key, raw)
        return raw

    def read_ahead(self, workers: Workers | None) -> None:
        """Let `workers` open the next blocks of packs that are read in order; None, before they end, ends it."""
        with self._lock:
            self._ahead = workers
            self._last.clear()

    def _read_on(self, reader: BlockReader, number: int, workers: Workers) -> None:
        types = reader.types
        place = (reader.pack_id, int(types[number]))
        last = self._last.get(place)
        if last == number:
            return
        with self._lock:
            self._last[place] = number
            if len(self._last) > PLACES_MAX:
                self._last.popitem(last=False)
            if last is None or not last < number <= last + BLOCKS_AHEAD_SPAN or self._ahead is None:
                return
            following = np.flatnonzero(types[number + 1 : number + 1 + BLOCKS_AHEAD_SPAN] == place[1])
            for distance in following[:BLOCKS_AHEAD_MAX].tolist():
                key = (reader.pack_id, number + 1 + distance)
                if key not in self._cache and key not in self._coming and len(self._coming) < 2 * BLOCKS_AHEAD_MAX:
                    self._coming[key] = workers.submit(self._open, reader, key[1])

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._cache.clear()
            self._last.clear()
