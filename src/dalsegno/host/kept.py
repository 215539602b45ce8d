"""What the places of a restore keep: times to the nanosecond, the second, or two, in what range; names with their case.

A place is asked by setting the time of a nameless file there. Equal is what the place would make of the time.
"""

import contextlib
import errno
import os
import unicodedata
from collections.abc import Iterator
from typing import Final

from dalsegno.host import attributes
from dalsegno.world.chance import random_bytes

STEP_NS_MAX: Final = 2 * attributes.SECOND_NS
TIME_NS_MIN: Final = 315_619_200 * attributes.SECOND_NS
TIME_NS_MAX: Final = 2_145_916_800 * attributes.SECOND_NS
"""1980-01-02 to 2038-01-01: every file system keeps these; other times are looked at after they were set."""
STEPS_NS: Final = {
    0x4D44: STEP_NS_MAX,  # vfat
    0x2011BAB0: 10_000_000,  # exfat
    0x5346544E: 100,  # ntfs
    0x7366746E: 100,  # ntfs3
    0xFF534D42: 100,  # cifs
    0xFE534D42: 100,  # smb2
}
"""By the type of the file system (statfs), for a place that may not be written to."""
_NO_NAMELESS_ERRORS: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS}
_FLAGS: Final = os.O_WRONLY | os.O_CLOEXEC


def clamp(time_ns: int) -> int:
    """Return the nearest time that a tree holds."""
    return attributes.join_time_ns(time_ns // attributes.SECOND_NS, time_ns % attributes.SECOND_NS)


def folds_names(directory: int, *, may_write: bool) -> bool:
    """Tell whether the file system of an open directory takes names that differ in case alone for one name."""
    if attributes.is_native(directory):
        return False  # but for directories with FLAG_CASEFOLD
    is_known = attributes.file_system_magic(directory) in STEPS_NS
    if is_known or not may_write:
        return is_known
    name = _probe_name()
    try:
        with _as_it_was(directory):
            return _is_found_in_capitals(directory, name)
    except OSError:
        return False


def _is_found_in_capitals(directory: int, name: bytes) -> bool:
    try:
        os.close(os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory))
        try:
            os.stat(name.upper(), dir_fd=directory, follow_symlinks=False)
        finally:
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _as_it_was(directory: int) -> Iterator[None]:
    """Put a directory's times back after a file was made in it and removed."""
    stat = os.fstat(directory)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.utime(directory, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def fold(name: bytes) -> str:
    """Return what names have in common that differ in case alone."""
    return unicodedata.normalize("NFC", os.fsdecode(name)).casefold()


def _probe_name() -> bytes:
    return b".dal-restore-" + random_bytes(8).hex().encode()


class KeptTimes:
    """Asks each file system once for a file to try times on. Owns these files' descriptors."""

    def __init__(self, *, may_write: bool) -> None:
        self._may_write = may_write
        self._probes: dict[int, int] = {}

    def kept(self, directory: int, wanted_ns: int) -> int:
        """Return what the file system of an open directory makes of a modification time."""
        device = os.fstat(directory).st_dev
        probe = self._probes.get(device)
        if probe is None:
            probe = self._probes[device] = self._open(directory)
        if probe >= 0:
            with contextlib.suppress(OSError):
                os.utime(probe, ns=(wanted_ns, wanted_ns))
                return os.fstat(probe).st_mtime_ns
        return wanted_ns - wanted_ns % STEPS_NS.get(attributes.file_system_magic(directory), 1)

    def is_same(self, directory: int, found_ns: int, wanted_ns: int) -> bool:
        """Tell whether a file's time is what its place would make of the wanted one."""
        if found_ns == wanted_ns or clamp(found_ns) == wanted_ns:
            return True
        if abs(found_ns - wanted_ns) > STEP_NS_MAX and TIME_NS_MIN <= wanted_ns < TIME_NS_MAX:
            return False
        return self.kept(directory, wanted_ns) == found_ns

    def close(self) -> None:
        """Give the descriptors back."""
        while self._probes:
            probe = self._probes.popitem()[1]
            if probe >= 0:
                os.close(probe)

    def _open(self, directory: int) -> int:
        try:
            return os.open(b".", _FLAGS | os.O_TMPFILE, 0o600, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NO_NAMELESS_ERRORS or not self._may_write:
                return -1
        name = _probe_name()
        try:
            with _as_it_was(directory):
                probe = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
                os.unlink(name, dir_fd=directory)
        except OSError:
            return -1
        return probe
