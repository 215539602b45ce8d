"""The scan cache: what a scan saw, so that the next one reads only what changed. Local, rebuildable, never trusted
further than its checksum.

    magic 8 | revision 32 | directory_count u64 | link_count u64 | keys_bytes u64 | started_ns u64 (72 bytes)
    keys: 40 bytes an entry, in the order of the directory object:
        ino, size u64; ctime s i64, ns u32; mtime s i64, ns u32
    directories: dev, ino u64, names hash 16, directory id 32, keys offset u64, entry count u64
    links: dev, ino, node u64, key 40
    blake3-256 of all before

A key of zeros never equals: the file changed so shortly before the scan that its times prove nothing.
"""

import os
import struct
from pathlib import Path
from typing import Final

from blake3 import blake3

MAGIC: Final = b"DALSCAN1"
HEADER: Final = struct.Struct("<8s32sQQQQ")
KEY: Final = struct.Struct("<QQqIqI")
DIRECTORY: Final = struct.Struct("<QQ16s32sQQ")
LINK: Final = struct.Struct("<QQQ40s")
KEY_BYTES: Final = KEY.size
KEY_NONE: Final = bytes(KEY_BYTES)
DIGEST_BYTES: Final = 32
assert KEY_BYTES == 40 and DIRECTORY.size == 80 and LINK.size == 64

CachedDirectory = tuple[int, int, bytes, bytes, int, int]


class ScanCache:
    """One loaded cache: directories and hard-linked files by (device, inode)."""

    def __init__(self, data: bytes) -> None:
        _magic, self.revision, directory_count, link_count, keys_bytes, _started = HEADER.unpack_from(data)
        self._data = memoryview(data)
        self._table = HEADER.size + keys_bytes
        self._links_table = self._table + directory_count * DIRECTORY.size
        self.link_count: int = link_count
        table = self._data[self._table : self._links_table]
        # Directories are found by inode alone and then checked for the device: a collision costs a reading, no more.
        self._directories = {
            table_ino: index for index, (_, table_ino, *_rest) in enumerate(DIRECTORY.iter_unpack(table))
        }
        links = self._data[self._links_table : self._links_table + link_count * LINK.size]
        self._links = {ino: index for index, (_, ino, _node, _key) in enumerate(LINK.iter_unpack(links))}
        self.link_nodes = frozenset(node for _, _ino, node, _key in LINK.iter_unpack(links))

    def directory(self, device: int, inode: int) -> CachedDirectory | None:
        """Return (dev, ino, names hash, directory id, keys offset, count) of a directory seen before."""
        index = self._directories.get(inode)
        if index is None:
            return None
        record: CachedDirectory = DIRECTORY.unpack_from(self._data, self._table + index * DIRECTORY.size)
        return record if record[0] == device else None

    def keys(self, record: CachedDirectory) -> memoryview:
        """Return the keys of a directory's entries, one after the other."""
        start = HEADER.size + record[4]
        return self._data[start : start + record[5] * KEY_BYTES]

    def link(self, device: int, inode: int) -> tuple[int, bytes] | None:
        """Return (node, key) of a hard-linked file seen before."""
        index = self._links.get(inode)
        if index is None:
            return None
        dev, _ino, node, key = LINK.unpack_from(self._data, self._links_table + index * LINK.size)
        return (node, key) if dev == device else None


def load_cache(path: Path, *, revision: bytes) -> ScanCache | None:
    """Return the cache in `path` if it is whole and belongs to `revision`, else None."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < HEADER.size + DIGEST_BYTES or data[:8] != MAGIC or data[8:40] != revision:
        return None
    _magic, _revision, directory_count, link_count, keys_bytes, _started = HEADER.unpack_from(data)
    size = HEADER.size + keys_bytes + directory_count * DIRECTORY.size + link_count * LINK.size + DIGEST_BYTES
    if size != len(data) or blake3(memoryview(data)[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        return None
    return ScanCache(data)


class CacheBuilder:
    """Collects what a scan sees; saved once the revision that came out of it is recorded."""

    def __init__(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self._keys = bytearray()
        self._directories = bytearray()
        self._links = bytearray()

    def add_directory(
        self, *, device: int, inode: int, names_hash: bytes, identity: bytes, keys: bytes | bytearray | memoryview
    ) -> None:
        """Record a finished directory with the keys of its entries in order."""
        self._directories += DIRECTORY.pack(
            device, inode, names_hash, identity, len(self._keys), len(keys) // KEY_BYTES
        )
        self._keys += keys

    def add_link(self, *, device: int, inode: int, node: int, key: bytes) -> None:
        """Record a file with several names."""
        self._links += LINK.pack(device, inode, node, key)

    def encode(self, *, revision: bytes) -> bytes:
        """Return the cache file's bytes, bound to the revision that the scan became."""
        header = HEADER.pack(
            MAGIC,
            revision,
            len(self._directories) // DIRECTORY.size,
            len(self._links) // LINK.size,
            len(self._keys),
            max(0, self._started_ns),
        )
        body = b"".join((header, self._keys, self._directories, self._links))
        return body + blake3(body).digest()

    def save(self, path: Path, *, revision: bytes) -> None:
        """Write the cache file. Not synced: a torn one is noticed by its checksum and rebuilt."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
        temporary.write_bytes(self.encode(revision=revision))
        os.replace(temporary, path)
