"""Give oneself the right to change what is locked or one's own, and take it back.

Root is kept out by the immutable and append-only flags alone; the owner of a file by its mode, which he may change.
"""

import contextlib
import functools
import os
import stat as modes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dalsegno.host import attributes

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FOWNER: Final = 3
CAP_LINUX_IMMUTABLE: Final = 9
OWNER_ALL: Final = 0o700
OWNER_READS: Final = 0o400
OWNER_WRITES: Final = 0o200
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def has_capability(number: int) -> bool:
    """Tell whether this process has a capability: root in a container may lack it, a service of a user may have it."""
    return _has_capability(number, os.getpid(), os.geteuid())


@functools.cache
def _has_capability(number: int, process: int, user: int) -> bool:
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> number & 1)
    except (OSError, ValueError, IndexError):
        pass
    return user == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was changed to get in; None is what was left as it was."""

    mode: int | None
    flags: int | None


def is_searchable(directory: int) -> bool:
    """Tell whether what lies in an open directory of ours can be reached."""
    return has_capability(CAP_DAC_OVERRIDE) or bool(os.fstat(directory).st_mode & modes.S_IXUSR)


def open_up(directory: int) -> Opened | None:
    """Make an open directory one that may be changed, if that is ours to do; None when nothing was in the way."""
    mode = flags = None
    if has_capability(CAP_LINUX_IMMUTABLE):
        found = attributes.get_flags(directory)
        if found and found & attributes.FLAGS_LOCKING:
            with contextlib.suppress(OSError):  # what is to be changed there then says why it cannot be
                attributes.set_flags(directory, found & ~attributes.FLAGS_LOCKING)
                flags = found
    if not has_capability(CAP_DAC_OVERRIDE):
        stat = os.fstat(directory)
        if stat.st_uid == os.geteuid() and stat.st_mode & OWNER_ALL != OWNER_ALL:
            with contextlib.suppress(OSError):
                os.fchmod(directory, modes.S_IMODE(stat.st_mode) | OWNER_ALL)
                mode = modes.S_IMODE(stat.st_mode)
    return None if mode is None and flags is None else Opened(mode=mode, flags=flags)


def close_again(directory: int, opened: Opened | None) -> None:
    """Take back what `open_up` did."""
    if opened is None:
        return
    if opened.mode is not None:
        os.fchmod(directory, opened.mode)
    if opened.flags is not None:
        attributes.set_flags(directory, opened.flags)


def lend(directory: int, name: bytes, rights: int) -> int | None:
    """Add rights to the mode of a file or directory of ours; return its mode before, or None when that was no help."""
    fd = os.open(name, _PATH_FLAGS, dir_fd=directory)
    try:
        stat = os.fstat(fd)
        if stat.st_uid != os.geteuid() or stat.st_mode & rights == rights or modes.S_ISLNK(stat.st_mode):
            return None
        os.chmod(b"/proc/self/fd/%d" % fd, modes.S_IMODE(stat.st_mode) | rights)
        return modes.S_IMODE(stat.st_mode)
    finally:
        os.close(fd)


@contextlib.contextmanager
def unlocked(directory: int, name: bytes) -> Iterator[None]:
    """Clear the locking flags of a file or directory for the time being.

    They are set again when it is still there afterwards, under whatever name: it may have some outside the target.
    """
    fd = -1
    flags = 0
    try:
        try:
            if modes.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode) in (
                modes.S_IFREG,
                modes.S_IFDIR,
            ):
                fd = os.open(name, _OPEN_FLAGS, dir_fd=directory)
                flags = attributes.get_flags(fd) or 0
                if flags & attributes.FLAGS_LOCKING:
                    attributes.set_flags(fd, flags & ~attributes.FLAGS_LOCKING)
        except OSError:
            flags = 0  # what is to be done with it then says why it cannot be
        yield
    finally:
        try:
            if flags & attributes.FLAGS_LOCKING and os.fstat(fd).st_nlink:
                attributes.set_flags(fd, flags)
        finally:
            if fd >= 0:
                os.close(fd)
