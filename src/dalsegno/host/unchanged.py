"""Decide whether a directory is as the cache says, from its names and what statx says of each; nothing is read."""

from stat import S_IFDIR, S_IFREG, S_IFSOCK
from typing import NamedTuple

from blake3 import blake3

from dalsegno.formats.scan_cache import BIRTH_MASK, KEY, KEY_BYTES, CachedDirectory
from dalsegno.host.attributes import (
    STATX,
    STATX_DEVICE,
    STATX_FLAGS,
    STATX_MASK,
    STATX_SHORT,
    StatxBuffer,
    libc_statx,
)
from dalsegno.host.cache import ScanCache
from dalsegno.host.fields import FORM_MASK, MODE
from dalsegno.host.listing import NAME_HASH_BYTES


class LinkedName(NamedTuple):
    """A name of a file with several."""

    device: int
    inode: int
    place: int
    """Where in the directory's keys its key begins."""
    size: int
    """In bytes; 0 for what is no regular file."""


class Unchanged(NamedTuple):
    """A directory whose names and keys are those of the cache."""

    keys: bytearray
    subdirectories: list[bytes]
    linked: list[LinkedName]
    total_bytes: int
    """Of its files, those with several names included."""
    socket_count: int
    """Sockets in it, which no tree holds."""


def compare_with_cache(
    fd: int, names: list[bytes], cache: ScanCache, record: CachedDirectory, buffer: StatxBuffer
) -> Unchanged | None:
    """Return what an open directory with these names holds when it is as cached, else None."""
    sockets = 0 if _hash(names) == record[2] else _count_sockets(fd, names, record, buffer)
    if sockets is None:
        return None
    keys = bytearray()
    subdirectories: list[bytes] = []
    linked: list[LinkedName] = []
    total = 0
    unpack = STATX_SHORT.unpack_from
    pack = KEY.pack
    data, address = buffer.data, buffer.address
    for name in names:
        if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, address) != 0:
            return None
        nlink, mode, ino, size, btime, btime_ns, ctime, ctime_ns, mtime, mtime_ns = unpack(data)
        form = mode & FORM_MASK
        if form == S_IFSOCK:
            continue
        keys += pack(ino, size, ctime, ctime_ns, mtime, mtime_ns, (btime ^ btime_ns) & BIRTH_MASK)
        if form == S_IFREG:
            total += size
        elif form == S_IFDIR:
            subdirectories.append(name)
            continue
        if nlink > 1:
            major, minor = STATX_DEVICE.unpack_from(data)
            place = len(keys) - KEY_BYTES
            linked.append(LinkedName(major << 32 | minor, ino, place, size if form == S_IFREG else 0))
    if keys != cache.keys(record):
        return None
    return Unchanged(keys, subdirectories, linked, total, sockets)


def _hash(names: list[bytes]) -> bytes:
    return blake3(b"\0".join(names)).digest(NAME_HASH_BYTES)


def _count_sockets(fd: int, names: list[bytes], record: CachedDirectory, buffer: StatxBuffer) -> int | None:
    """Return how many of the names are sockets, when the others are those of the cache; else None."""
    if len(names) <= record[5]:
        return None
    kept = []
    for name in names:
        if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, buffer.address) != 0:
            return None
        if STATX.unpack_from(buffer.data)[MODE] & FORM_MASK != S_IFSOCK:
            kept.append(name)
    return len(names) - len(kept) if _hash(kept) == record[2] else None
