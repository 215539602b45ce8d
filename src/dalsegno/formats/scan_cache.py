"""The file of a scan cache: what a scan saw, so that the next one reads only what changed (host/cache.py). Local.

    magic 8 | revision 32 | directory_count u64 | link_count u64 | keys_bytes u64 | started_ns u64 (72 bytes)
    keys: 44 bytes an entry, in the order of the directory object:
        ino, size u64; ctime s i64, ns u32; mtime s i64, ns u32; birth u32
    directories: dev, ino u64, names hash 16, directory id 32, keys offset u64, entry count u64
    links: dev, ino, node u64, key 44
    blake3-256 of all before

A key whose ctime has impossible nanoseconds (`unproven`) never equals: the file changed so shortly before the scan that
its times prove nothing. `birth` folds the birth time: inode numbers are given out again, with another birth time.
All integers are little-endian.
"""

import struct
from typing import Final, NamedTuple

import numpy as np

MAGIC: Final = b"DALSCAN2"
HEADER: Final = struct.Struct("<8s32sQQQQ")
KEY: Final = struct.Struct("<QQqIqII")
DIRECTORY: Final = struct.Struct("<QQ16s32sQQ")
LINK: Final = struct.Struct("<QQQ44s")
KEY_BYTES: Final = KEY.size
KEY_NONE: Final = bytes(KEY_BYTES)
BIRTH_MASK: Final = 0xFFFFFFFF
DIGEST_BYTES: Final = 32
_CTIME_NS_OFFSET: Final = 24
_CTIME_NS_NEVER: Final = b"\xff\xff\xff\xff"
KEY_COLUMNS: Final = np.dtype(
    {"names": ["ino", "birth"], "formats": ["<u8", "<u4"], "offsets": [0, 40], "itemsize": KEY_BYTES}
)
DIRECTORY_COLUMNS: Final = np.dtype(
    {"names": ["ino", "offset"], "formats": ["<u8", "<u8"], "offsets": [8, 64], "itemsize": DIRECTORY.size}
)
LINK_COLUMNS: Final = np.dtype(
    {"names": ["ino", "node"], "formats": ["<u8", "<u8"], "offsets": [8, 16], "itemsize": LINK.size}
)
assert KEY_BYTES == 44 and DIRECTORY.size == 80 and LINK.size == 68

CachedDirectory = tuple[int, int, bytes, bytes, int, int]
"""(dev, ino, names hash, directory id, keys offset, entry count)"""


class Header(NamedTuple):
    """What a file begins with."""

    revision: bytes
    directory_count: int
    link_count: int
    keys_bytes: int
    started_ns: int

    @property
    def directories_start(self) -> int:
        """Where the directories are in the file."""
        return HEADER.size + self.keys_bytes

    @property
    def links_start(self) -> int:
        """Where the links are in the file."""
        return self.directories_start + self.directory_count * DIRECTORY.size

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return self.links_start + self.link_count * LINK.size + DIGEST_BYTES


def encode_header(header: Header) -> bytes:
    """Return a file's first bytes."""
    return HEADER.pack(MAGIC, *header)


def decode_header(data: bytes | memoryview) -> Header | None:
    """Return the header in a file's first bytes, None when they begin no file of this version."""
    magic, *fields = HEADER.unpack_from(data)
    return Header(*fields) if magic == MAGIC else None


def unproven(key: bytes) -> bytes:
    """Return a key that equals no file's, but still tells inode and birth."""
    return key[:_CTIME_NS_OFFSET] + _CTIME_NS_NEVER + key[_CTIME_NS_OFFSET + 4 :]
