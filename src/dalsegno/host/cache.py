"""The scan cache: what a scan saw, so that the next one reads only what changed. Local, rebuildable, never trusted
further than its checksum. Its bytes: formats/scan_cache.py.

The file is mapped, not loaded: with 2,000,000 entries it has 90 MB.
"""

import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from dalsegno.formats.scan_cache import (
    DIGEST_BYTES,
    DIRECTORY,
    DIRECTORY_COLUMNS,
    HEADER,
    KEY,
    KEY_BYTES,
    KEY_COLUMNS,
    LINK,
    LINK_COLUMNS,
    CachedDirectory,
    Header,
    decode_header,
    encode_header,
)
from dalsegno.terms.errors import DalError
from dalsegno.terms.sizes import MIB
from dalsegno.world.clock import real_now_ns
from dalsegno.world.files import ScratchFile, make_directory

SCAN_SUFFIX: Final = ".scan"
TEMPORARY_SUFFIX: Final = ".tmp"
LEFT_BEHIND_NS: Final = 24 * 3600 * 10**9
PIECE_BYTES_MAX: Final = 4 * MIB
"""Keys of changed directories beyond this wait in a scratch file."""
WINDOW_BYTES: Final = 8 * MIB
TOUCHED_BYTES_MAX: Final = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file was at the last scan."""

    directory: bytes
    """The id of its directory."""
    position: int
    key: bytes


class _Column:
    """Rows found by one 64-bit value, in 12 bytes a row; there are fewer than 2^32."""

    def __init__(self, values: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> None:
        order = np.argsort(values, kind="stable")
        self.count = len(order)
        self.values = np.ascontiguousarray(values[order], dtype=np.uint64).data
        self.order = np.ascontiguousarray(order, dtype=np.uint32).data

    def rows(self, value: int) -> Iterator[int]:
        """Yield the rows that hold `value`."""
        index = bisect_left(self.values, value)
        while index < self.count and self.values[index] == value:
            yield self.order[index]
            index += 1


class ScanCache:
    """One loaded cache: directories and hard-linked files by (device, inode)."""

    def __init__(self, data: bytes | mmap.mmap, header: Header) -> None:
        self._data = memoryview(data)
        self.revision = header.revision
        self._table = header.directories_start
        self._links_table = header.links_start
        self._key_count = header.keys_bytes // KEY_BYTES
        self.link_count = header.link_count
        rows = np.frombuffer(data, DIRECTORY_COLUMNS, header.directory_count, self._table)
        self._directories = _Column(rows["ino"])
        # Always a copy: of one row numpy would give the place in the file, which need not be aligned.
        self._offsets = np.array(rows["offset"], dtype=np.uint64).data
        links = np.frombuffer(data, LINK_COLUMNS, header.link_count, self._links_table)
        self._links = _Column(links["ino"])
        self._link_nodes: _Column | None = None
        self._files: _Column | None = None
        self._touched_bytes = 0

    def directory(self, device: int, inode: int) -> CachedDirectory | None:
        """Return (dev, ino, names hash, directory id, keys offset, count) of a directory seen before."""
        column = self._directories
        index = bisect_left(column.values, inode)
        while index < column.count and column.values[index] == inode:
            offset = self._table + column.order[index] * DIRECTORY.size
            record: CachedDirectory = DIRECTORY.unpack_from(self._data, offset)
            if record[0] == device:
                return record
            index += 1
        return None

    def keys(self, record: CachedDirectory) -> memoryview:
        """Return the keys of a directory's entries, one after the other."""
        start = HEADER.size + record[4]
        self._touch(record[5] * KEY_BYTES)
        return self._data[start : start + record[5] * KEY_BYTES]

    def _touch(self, size_bytes: int) -> None:
        """Give memory back once much was read: each key is read once, and need not stay."""
        self._touched_bytes += size_bytes
        if self._touched_bytes > TOUCHED_BYTES_MAX and isinstance(self._data.obj, mmap.mmap):
            self._data.obj.madvise(mmap.MADV_DONTNEED)
            self._touched_bytes = 0

    def link(self, device: int, inode: int) -> tuple[int, bytes] | None:
        """Return (node, key) of a hard-linked file seen before."""
        for row in self._links.rows(inode):
            self._touch(mmap.PAGESIZE)
            dev, _ino, node, key = LINK.unpack_from(self._data, self._links_table + row * LINK.size)
            if dev == device:
                return node, key
        return None

    def knows_link(self, node: int) -> bool:
        """Tell whether a hard-linked file has this node."""
        if self._link_nodes is None:
            links = np.frombuffer(self._data, LINK_COLUMNS, self.link_count, self._links_table)
            self._link_nodes = _Column(links["node"])
        return next(self._link_nodes.rows(node), None) is not None

    def find(self, device: int, inode: int, birth: int) -> Iterator[Place]:
        """Yield where a file of this inode and birth was. The first call sorts all inodes: 12 bytes an entry."""
        if self._files is None:
            self._files = _Column(np.frombuffer(self._data, KEY_COLUMNS, self._key_count, HEADER.size)["ino"])
        for row in self._files.rows(inode):
            start = HEADER.size + row * KEY_BYTES
            key = bytes(self._data[start : start + KEY_BYTES])
            if KEY.unpack(key)[6] != birth:
                continue
            # Empty directories share the offset of the next that is not: the last of them holds the row.
            number = bisect_right(self._offsets, row * KEY_BYTES) - 1
            record = DIRECTORY.unpack_from(self._data, self._table + number * DIRECTORY.size)
            if record[0] == device:
                yield Place(directory=record[3], position=row - record[4] // KEY_BYTES, key=key)


def load_cache(path: Path, *, revision: bytes) -> ScanCache | None:
    """Return the cache in `path` if it is whole and belongs to `revision`, else None."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < HEADER.size + DIGEST_BYTES:
                return None
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    header = decode_header(data[: HEADER.size])
    if header is None or header.revision != revision or header.file_bytes != len(data):
        return None
    digest = blake3()
    for window in _windows(memoryview(data)[:-DIGEST_BYTES]):
        digest.update(window)
    if digest.digest() != data[-DIGEST_BYTES:]:
        return None
    cache = ScanCache(data, header)
    data.madvise(mmap.MADV_DONTNEED)
    return cache


def _windows(view: memoryview) -> Iterator[memoryview]:
    """Yield the parts of a view one after the other; of a mapped file none stays in memory."""
    for start in range(0, len(view), WINDOW_BYTES):
        yield view[start : start + WINDOW_BYTES]
        if isinstance(view.obj, mmap.mmap):
            view.obj.madvise(mmap.MADV_DONTNEED)


def is_left_behind(path: Path) -> bool:
    """Tell whether a file of the cache directory is the unfinished one of a process that is gone."""
    if path.suffix != TEMPORARY_SUFFIX:
        return False
    digits = path.stem.rpartition(".")[2]
    if digits.isdecimal():
        try:
            os.kill(int(digits), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return path.stat().st_mtime_ns < real_now_ns() - LEFT_BEHIND_NS


class CacheBuilder:
    """Collects what a scan sees; saved once the revision that came out of it is recorded."""

    def __init__(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self._pieces: list[memoryview | bytearray | tuple[int, int]] = []
        self._scratch: ScratchFile | None = None
        self._keys_bytes = 0
        self._kept_from: ScanCache | None = None
        self._kept_start = self._kept_end = 0
        self._directories = bytearray()
        self._link_records: Callable[[], Iterator[bytes]] = lambda: iter(())
        self._link_count = 0

    def add_directory(
        self, *, device: int, inode: int, names_hash: bytes, identity: bytes, keys: bytes | bytearray
    ) -> None:
        """Record a finished directory with the keys of its entries in order."""
        self._add_record(device, inode, names_hash, identity, len(keys))
        self._end_kept()
        piece = self._pieces[-1] if self._pieces else None
        if not isinstance(piece, bytearray):
            piece = bytearray()
            self._pieces.append(piece)
        piece += keys
        if len(piece) >= PIECE_BYTES_MAX:
            self._set_aside(piece)

    def _set_aside(self, piece: bytearray) -> None:
        """Move the newest piece to a scratch file; without room there it stays in memory."""
        try:
            if self._scratch is None:
                self._scratch = ScratchFile()
            self._pieces[-1] = (self._scratch.append(piece), len(piece))
        except DalError:
            self._pieces.append(bytearray())

    def keep_directory(self, cache: ScanCache, record: CachedDirectory, *, identity: bytes) -> None:
        """Record a directory whose keys are those of the cache before: they are named, not copied."""
        length = record[5] * KEY_BYTES
        self._add_record(record[0], record[1], record[2], identity, length)
        if self._kept_from is not cache or self._kept_end != record[4]:
            self._end_kept()
            self._kept_from, self._kept_start = cache, record[4]
        self._kept_end = record[4] + length

    def _add_record(self, device: int, inode: int, names_hash: bytes, identity: bytes, length: int) -> None:
        self._directories += DIRECTORY.pack(device, inode, names_hash, identity, self._keys_bytes, length // KEY_BYTES)
        self._keys_bytes += length

    def _end_kept(self) -> None:
        if self._kept_from is not None:
            data = self._kept_from._data
            self._pieces.append(data[HEADER.size + self._kept_start : HEADER.size + self._kept_end])
            self._kept_from = None

    def add_links(self, records: Callable[[], Iterator[bytes]], *, count: int) -> None:
        """Record the files with several names, as many LINK records; they are asked for when the cache is saved."""
        self._link_records, self._link_count = records, count

    def save(self, path: Path, *, revision: bytes) -> None:
        """Write the cache file, bound to the revision that the scan became.

        Not synced: a torn one is noticed by its checksum and rebuilt.
        """
        self._end_kept()
        header = Header(
            revision=revision,
            directory_count=len(self._directories) // DIRECTORY.size,
            link_count=self._link_count,
            keys_bytes=self._keys_bytes,
            started_ns=max(0, self._started_ns),
        )
        make_directory(path.parent)  # beside caches stands what must last, below the same directories
        temporary = path.with_name(path.name + f".{os.getpid()}{TEMPORARY_SUFFIX}")
        digest = blake3()
        try:
            temporary.unlink(missing_ok=True)  # of an earlier process of this number, or put there to lead elsewhere
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                for piece in chain((encode_header(header), *self._pieces, self._directories), self._link_records()):
                    data = self._read_back(piece) if isinstance(piece, tuple) else piece
                    for window in _windows(memoryview(data)):
                        digest.update(window)
                        file.write(window)
                file.write(digest.digest())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        for other in path.parent.glob(f"{path.name}.*{TEMPORARY_SUFFIX}"):
            with suppress(OSError):
                if is_left_behind(other):
                    other.unlink()
        if self._scratch is not None:
            self._scratch.close()

    def _read_back(self, place: tuple[int, int]) -> bytes:
        assert self._scratch is not None
        return self._scratch.read(*place)
