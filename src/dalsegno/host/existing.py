"""A file that is there already, beside the entry it should be: what differs of its attributes, and setting them."""

import os
import stat as modes

from dalsegno.formats.objects import Entry
from dalsegno.host import attributes
from dalsegno.host.access import CAP_DAC_OVERRIDE, OWNER_WRITES, Opened, has_capability
from dalsegno.host.kept import KeptTimes, clamp
from dalsegno.host.losses import FLAGS, GROUP, MODE, OWNER, TIME, XATTR
from dalsegno.host.setting import (
    Lose,
    Xattrs,
    attainable,
    mode_without_acl,
    say_set_id,
    say_time,
    set_flags,
    set_mode,
    set_owner,
    set_times,
    set_xattrs,
    verify,
)


class Existing:
    """A file in an open directory: open itself, or (a symlink, FIFO, device, or not readable) only named.

    `opened` is what was changed of it to get in: mode and flags are as they were before.
    """

    __slots__ = ("directory", "fd", "flags", "is_open", "mode", "name", "stat", "target")

    def __init__(
        self,
        fd: int,
        stat: os.stat_result,
        *,
        directory: int,
        name: bytes = b"",
        is_open: bool = True,
        opened: Opened | None = None,
    ) -> None:
        self.fd = fd
        self.directory = directory
        self.name = name
        self.is_open = is_open
        self.target: int | bytes = fd if is_open else attributes.path_beneath(directory, name)
        self.stat = stat
        self.mode = modes.S_IMODE(stat.st_mode) if opened is None or opened.mode is None else opened.mode
        self.flags = opened.flags if opened is not None else None
        if self.flags is None and is_open:
            self.flags = attributes.get_flags(fd) or 0


def is_plainly_equal(fd: int, stat: os.stat_result, entry: Entry, owner: tuple[int, int]) -> bool:
    """Tell at little cost whether an open file is what the entry says, as nearly all are; False is no answer."""
    return (
        stat.st_mtime_ns == entry.mtime_ns
        and stat.st_uid == owner[0]
        and stat.st_gid == owner[1]
        and stat.st_mode & 0o7777 == entry.mode
        and not entry.xattrs
        and not attributes.list_xattrs(fd)
        and (attributes.get_flags(fd) or 0) == entry.flags
    )


def compare(file: Existing, entry: Entry, owner: tuple[int, int], wanted: Xattrs, times: KeptTimes) -> set[str]:
    """Return which attributes of a file differ from the entry's, of those that it can be given."""
    stat = file.stat
    uid, gid, mode = attainable(entry.mode, *owner, stat)
    difference = set()
    if (uid, gid) != (stat.st_uid, stat.st_gid):
        difference.add(OWNER)
    if not modes.S_ISLNK(stat.st_mode) and file.mode != mode:
        difference.add(MODE)
    if attributes.read_xattrs(file.target) != wanted:
        difference.add(XATTR)
    if not times.is_same(file.directory, stat.st_mtime_ns, entry.mtime_ns):
        difference.add(TIME)
    if file.is_open and file.flags != entry.flags:
        difference.add(FLAGS)
    return difference


def say_unattainable(stat: os.stat_result, entry: Entry, owner: tuple[int, int], lose: Lose) -> None:
    """Say what a file that does not differ lacks all the same, because it cannot be given."""
    if stat.st_uid != owner[0]:
        lose(OWNER, f"{owner[0]}: the file belongs to {stat.st_uid}")
    if stat.st_gid != owner[1]:
        lose(GROUP, f"{owner[1]}: the file belongs to group {stat.st_gid}")
    say_set_id(entry.mode, owner, (stat.st_uid, stat.st_gid), lose)
    if clamp(stat.st_mtime_ns) != entry.mtime_ns:
        say_time(entry.mtime_ns, stat.st_mtime_ns, lose)


def change(
    file: Existing,
    entry: Entry,
    owner: tuple[int, int],
    wanted: Xattrs,
    difference: set[str],
    lose: Lose,
    *,
    is_native: bool,
) -> None:
    """Set the attributes of a file, in the order of `setting`."""
    stat, fd = file.stat, file.fd
    if file.flags and file.flags & attributes.FLAGS_LOCKING:
        attributes.set_flags(fd, file.flags & ~attributes.FLAGS_LOCKING)
    directory = None if file.is_open else file.directory
    named: int | bytes = fd if file.is_open else file.name
    mode = set_owner(named, entry.mode, *owner, lose, directory=directory)
    if difference & {XATTR, OWNER}:
        if file.is_open and not has_capability(CAP_DAC_OVERRIDE):
            os.fchmod(fd, modes.S_IMODE(stat.st_mode) | OWNER_WRITES)
        mode = mode_without_acl(mode, wanted, set_xattrs(file.target, wanted, lose))
    if not modes.S_ISLNK(stat.st_mode):
        set_mode(fd if file.is_open else b"/proc/self/fd/%d" % fd, mode, lose)
    set_times(named, stat.st_atime_ns, entry.mtime_ns, lose, directory=directory)
    if file.is_open:
        set_flags(fd, entry.flags, lose)
        if not is_native:
            verify(fd, mode, owner, entry.mtime_ns, lose)
