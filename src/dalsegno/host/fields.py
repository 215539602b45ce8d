"""The fields of statx by name, and what a scan concludes from them: a file's kind, its key, and what times prove."""

import os
from array import array
from bisect import bisect_left
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG
from typing import Final, NamedTuple

import numpy as np

from dalsegno.formats import objects
from dalsegno.formats.scan_cache import BIRTH_MASK, KEY
from dalsegno.host import attributes
from dalsegno.host.attributes import STATX, STATX_FLAGS, STATX_MASK, StatxBuffer, libc_statx

FORM_MASK: Final = 0o170000
"""The bits of a mode that tell what kind of file it is."""
KINDS: Final = {
    S_IFREG: objects.ENTRY_FILE,
    S_IFDIR: objects.ENTRY_DIRECTORY,
    S_IFLNK: objects.ENTRY_SYMLINK,
    S_IFIFO: objects.ENTRY_FIFO,
    S_IFCHR: objects.ENTRY_CHAR_DEVICE,
    S_IFBLK: objects.ENTRY_BLOCK_DEVICE,
}
RACY_NS: Final = 50_000_000
"""A file changed less than this before a scan is read again next time: the kernel stamps changes with the time of its
last tick (at most 10 ms ago), so that a second change shortly after the first may leave no trace in the times."""
RACY_COARSE_NS: Final = 2 * attributes.SECOND_NS + RACY_NS
"""The same for file systems with times in (two) seconds, or with a clock that is not this host's."""

Fields = tuple[int, ...]
# Positions in Fields: docstring of attributes.STATX.
ATTRIBUTES, NLINK, UID, GID, MODE, INO, SIZE, BLOCKS = range(8)
BTIME_S, BTIME_NS, CTIME_S, CTIME_NS, MTIME_S, MTIME_NS, RMAJOR, RMINOR, DMAJOR, DMINOR = range(8, 18)


def device_number(fields: Fields) -> int:
    """Return one number for the device that a file is on."""
    return fields[DMAJOR] << 32 | fields[DMINOR]


def birth_of(fields: Fields) -> int:
    """Return a file's birth time folded into 32 bits; 0 where the file system keeps none."""
    return (fields[BTIME_S] ^ fields[BTIME_NS]) & BIRTH_MASK


def key_of(fields: Fields) -> bytes:
    """Return the key of a file: as long as it is the same, the file is unchanged."""
    return KEY.pack(
        fields[INO],
        fields[SIZE],
        fields[CTIME_S],
        fields[CTIME_NS],
        fields[MTIME_S],
        fields[MTIME_NS],
        birth_of(fields),
    )


def is_at(fields: Fields, stat: os.stat_result) -> bool:
    """Tell whether a file has still the inode, size and times that `fields` says."""
    return (
        fields[SIZE] == stat.st_size
        and stat.st_mtime_ns == fields[MTIME_S] * attributes.SECOND_NS + fields[MTIME_NS]
        and stat.st_ctime_ns == fields[CTIME_S] * attributes.SECOND_NS + fields[CTIME_NS]
        and stat.st_ino == fields[INO]
    )


class OpenDirectory:
    """A directory that is open and listed: its fd, which is not this object's, its device, and the names in it."""

    __slots__ = ("_marks", "device", "fd", "names")

    def __init__(self, fd: int, device: int, names: list[bytes]) -> None:
        self.fd = fd
        self.device = device
        self.names = names
        self._marks: array[int] | None = None

    def holds(self, inode: int, birth: int, buffer: StatxBuffer) -> bool:
        """Tell whether a file with this inode and birth is in the directory now."""
        if inode == 0:
            return False
        marks = self._marks
        if marks is None:
            marks = self._marks = array("Q")
            for name in self.names:
                if libc_statx(self.fd, name, STATX_FLAGS, STATX_MASK, buffer.address) == 0:
                    fields = STATX.unpack_from(buffer.data)
                    marks.append(fields[INO] ^ birth_of(fields) << 32)
            np.frombuffer(marks, np.uint64).sort()
        mark = inode ^ birth << 32
        index = bisect_left(marks, mark)
        return index < len(marks) and marks[index] == mark


class Leaf(NamedTuple):
    """One name that is no directory, as a scan met it."""

    directory: OpenDirectory
    name: bytes
    path: bytes
    fields: Fields
    key: bytes


class RacyTimes:
    """Knows which times are so close to the start of a scan that the next change may not show in them."""

    def __init__(self, started_ns: int) -> None:
        self._racy_ns = started_ns - RACY_NS
        self._racy_seconds = (started_ns - RACY_COARSE_NS) // attributes.SECOND_NS
        self._exact_devices: dict[int, bool] = {}

    def is_racy(self, directory: OpenDirectory, fields: Fields) -> bool:
        """Tell whether a file in `directory` changed so shortly before the scan that its times prove nothing."""
        seconds, nanoseconds = fields[CTIME_S], fields[CTIME_NS]
        if seconds < self._racy_seconds:
            return False
        device = device_number(fields)
        if nanoseconds == 0 or device != directory.device:
            return True
        exact = self._exact_devices.get(device)
        if exact is None:
            exact = self._exact_devices[device] = attributes.has_host_clock(directory.fd)
        return not exact or seconds * attributes.SECOND_NS + nanoseconds >= self._racy_ns
