"""Set the attributes of one restored file; what its place cannot hold is a loss that is said, never an end.

The order is owner, extended attributes, mode, times, flags: a change of owner clears set-id bits and capabilities, and
an ordinary user can set attributes only while the mode lets him write.
"""

import contextlib
import errno
import os
import stat as modes
from collections.abc import Callable
from typing import Final

from dalsegno.formats.objects import Entry
from dalsegno.host import attributes
from dalsegno.host.access import CAP_CHOWN, has_capability
from dalsegno.host.kept import STEP_NS_MAX, TIME_NS_MAX, TIME_NS_MIN
from dalsegno.host.losses import ACL, FLAGS, GROUP, MODE, OWNER, SET_ID, TIME, XATTR
from dalsegno.terms.sizes import MIB

Lose = Callable[[str, str], None]
"""Takes what was lost (a word of `losses`), and which one and why."""
Xattrs = list[tuple[bytes, bytes]]

MODE_SET_ID: Final = modes.S_ISUID | modes.S_ISGID
FULL_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
FREE_BYTES_MIN: Final = 1 * MIB
"""With less than this a place is full; with more, what did not fit is too large for the place."""
FLAGS_WHILE_EMPTY: Final = attributes.FLAG_NOCOW | attributes.FLAG_COMPRESS | attributes.FLAG_CASEFOLD
"""Flags taken only without content (btrfs: no copy on write; ext4: names without case), or for later content."""
XATTRS_BEFORE_CONTENT: Final = frozenset({b"btrfs.compression"})
_XATTRS_OF_HOST: Final = frozenset({b"security.selinux", b"security.ima", b"security.evm", b"security.SMACK64"})
"""Given by the host's own policy: set when the tree has them, never removed."""
_ACL_ACCESS: Final = b"system.posix_acl_access"
_ACL_GROUP: Final = 0x04
_ACL_MASK: Final = 0x10
_ACL_HEADER_BYTES: Final = 4
_ACL_ENTRY_BYTES: Final = 8


def is_full(place: int | bytes) -> bool:
    """Tell whether the file system of an open file or a path has no room, or no inodes, left for us."""
    stat = os.statvfs(place)
    blocks = stat.f_bfree if os.geteuid() == 0 else stat.f_bavail
    return blocks * stat.f_frsize < FREE_BYTES_MIN or (stat.f_files > 0 and stat.f_favail == 0)


def why(error: Exception) -> str:
    """Return what an error says, without a name that the user does not know."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def attainable(mode: int, uid: int, gid: int, stat: os.stat_result) -> tuple[int, int, int]:
    """Return owner, group and mode that an existing file can be given of those it should have."""
    if has_capability(CAP_CHOWN):
        return uid, gid, mode
    is_ours = stat.st_uid == os.geteuid()
    group = gid if is_ours and (gid == os.getegid() or gid in os.getgroups()) else stat.st_gid
    return stat.st_uid, group, mode_for(mode, (uid, gid), (stat.st_uid, group))


def mode_for(mode: int, wanted: tuple[int, int], given: tuple[int, int]) -> int:
    """Return the mode without the set-id bit of an owner or group that was not given: nothing runs as another user."""
    if wanted[0] != given[0]:
        mode &= ~modes.S_ISUID
    return mode if wanted[1] == given[1] else mode & ~modes.S_ISGID


def set_owner(target: int | bytes, mode: int, uid: int, gid: int, lose: Lose, *, directory: int | None = None) -> int:
    """Set owner and group, or the one that can be set, and return the mode that the file may then have."""
    follow = directory is None
    try:
        os.chown(target, uid, gid, dir_fd=directory, follow_symlinks=follow)
        return mode
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in FULL_ERRORS:
            raise
        text = why(error)
    stat = os.stat(target, dir_fd=directory, follow_symlinks=follow)
    if stat.st_uid != uid:
        lose(OWNER, f"{uid}: {text}")
    group = stat.st_gid
    if group != gid:
        try:
            os.chown(target, -1, gid, dir_fd=directory, follow_symlinks=follow)
            group = gid
        except (OSError, OverflowError) as error:
            lose(GROUP, f"{gid}: {why(error)}")
    say_set_id(mode, (uid, gid), (stat.st_uid, group), lose)
    return mode_for(mode, (uid, gid), (stat.st_uid, group))


def say_set_id(mode: int, wanted: tuple[int, int], given: tuple[int, int], lose: Lose) -> None:
    """Say when a file has to do without a set-id bit, because it belongs to somebody else."""
    if mode_for(mode, wanted, given) != mode:
        lose(SET_ID, f"{mode:04o}: it is for owner {wanted[0]} and group {wanted[1]}")


def set_mode(target: int | bytes, mode: int, lose: Lose) -> None:
    """Set the mode of an open file or of a path that is no symlink."""
    try:
        os.chmod(target, mode)
    except OSError as error:
        if error.errno in FULL_ERRORS:
            raise
        lose(MODE, f"{mode:04o}: {why(error)}")
        return
    if mode & MODE_SET_ID and os.stat(target).st_mode & MODE_SET_ID != mode & MODE_SET_ID:
        lose(MODE, f"{mode:04o}: the set-id bits were not taken")


def set_times(target: int | bytes, atime_ns: int, mtime_ns: int, lose: Lose, *, directory: int | None = None) -> None:
    """Set the times of an open file, or of a name in a directory; say when the place keeps another one."""
    follow = directory is None
    try:
        os.utime(target, ns=(atime_ns, mtime_ns), dir_fd=directory, follow_symlinks=follow)
    except OSError as error:
        lose(TIME, f"{mtime_ns // attributes.SECOND_NS} s: {why(error)}")
        return
    if not TIME_NS_MIN <= mtime_ns < TIME_NS_MAX:
        say_time(mtime_ns, os.stat(target, dir_fd=directory, follow_symlinks=follow).st_mtime_ns, lose)


def say_time(wanted_ns: int, kept_ns: int, lose: Lose) -> None:
    """Say when a file's time is outside of what its place, or a backup, keeps."""
    wanted, kept = wanted_ns // attributes.SECOND_NS, kept_ns // attributes.SECOND_NS
    if abs(kept_ns - wanted_ns) >= STEP_NS_MAX:
        lose(TIME, f"{wanted} s: this file system keeps {kept} s instead")
    elif not -attributes.TIME_SECONDS_MAX < wanted < attributes.TIME_SECONDS_MAX:
        lose(TIME, "a backup holds the years 1677 to 2262: the nearest was set")


def set_xattrs(target: int | bytes, wanted: Xattrs, lose: Lose) -> set[bytes]:
    """Make the extended attributes of an open file or of a path be `wanted`; return the names that could not be set."""
    follow = isinstance(target, int)
    present = dict(attributes.read_xattrs(target))
    lost = set()
    for name, value in wanted:
        if present.pop(name, None) == value:
            continue
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            # ext4 says ENOSPC for what is larger than its inode and one block, too.
            room = target if isinstance(target, int) else os.path.dirname(target)
            if error.errno == errno.EDQUOT or (error.errno == errno.ENOSPC and is_full(room)):
                raise
            lost.add(name)
            kind = ACL if name.startswith(b"system.posix_acl_") else XATTR
            text = "too large for this file system" if error.errno in (errno.ENOSPC, errno.E2BIG) else why(error)
            lose(kind, f"{os.fsdecode(name)} ({len(value):,} bytes): {text}")
    for name in present:
        if name in _XATTRS_OF_HOST:
            continue
        try:
            os.removexattr(target, name, follow_symlinks=follow)
        except OSError as error:
            if not name.startswith(b"security."):
                lose(XATTR, f"{os.fsdecode(name)} not removed: {why(error)}")
    return lost


def mode_without_acl(mode: int, wanted: Xattrs, lost: set[bytes]) -> int:
    """Return the mode of a file whose access control list was lost.

    The mode's middle digit is the list's mask then, which may let the group do more than the list did.
    """
    acl = dict(wanted).get(_ACL_ACCESS, b"") if _ACL_ACCESS in lost else b""
    group = mask = 0o7
    for at in range(_ACL_HEADER_BYTES, len(acl) - _ACL_ENTRY_BYTES + 1, _ACL_ENTRY_BYTES):
        tag, rights = int.from_bytes(acl[at : at + 2], "little"), int.from_bytes(acl[at + 2 : at + 4], "little")
        if tag == _ACL_GROUP:
            group = rights
        elif tag == _ACL_MASK:
            mask = rights
    return mode & (~0o070 | (group & mask & 0o7) << 3)


def set_all(
    fd: int, entry: Entry, wanted: Xattrs, owner: tuple[int, int], lose: Lose, *, is_native: bool = True
) -> None:
    """Set all but the flags of an open file or directory that was made just now."""
    if not is_native:
        lose = once(lose)
    mode = set_owner(fd, entry.mode, *owner, lose)
    if wanted or attributes.list_xattrs(fd):  # a default ACL of the directory above may have given it some
        mode = mode_without_acl(mode, wanted, set_xattrs(fd, wanted, lose))
    set_mode(fd, mode, lose)
    set_times(fd, entry.mtime_ns, entry.mtime_ns, lose)
    if not is_native:
        verify(fd, mode, owner, entry.mtime_ns, lose)


def verify(fd: int, mode: int, owner: tuple[int, int], mtime_ns: int, lose: Lose) -> None:
    """Say what a foreign file system (FUSE, a network's) did not take, though it did not say so."""
    stat = os.fstat(fd)
    if modes.S_IMODE(stat.st_mode) != mode:
        lose(MODE, f"{mode:04o}: this file system keeps {modes.S_IMODE(stat.st_mode):04o} instead")
    if stat.st_uid != owner[0]:
        lose(OWNER, f"{owner[0]}: this file system keeps {stat.st_uid} instead")
    if stat.st_gid != owner[1]:
        lose(GROUP, f"{owner[1]}: this file system keeps {stat.st_gid} instead")
    if TIME_NS_MIN <= mtime_ns < TIME_NS_MAX:
        say_time(mtime_ns, stat.st_mtime_ns, lose)


def once(lose: Lose) -> Lose:
    """Return a listener that hears of each attribute once."""
    said: set[str] = set()

    def lose_once(attribute: str, text: str) -> None:
        if attribute in (XATTR, ACL) or attribute not in said:
            said.add(attribute)
            lose(attribute, text)

    return lose_once


def prepare_empty(fd: int, flags: int, inherited: int, wanted: Xattrs) -> None:
    """Set what has to be there before a file's content is, or before a directory's first name."""
    early = flags & FLAGS_WHILE_EMPTY
    if early or inherited & FLAGS_WHILE_EMPTY:
        set_flags(fd, early, _say_later)
    for name, value in wanted:
        if name in XATTRS_BEFORE_CONTENT:
            with contextlib.suppress(OSError):  # said when all attributes are set
                os.setxattr(fd, name, value)


def _say_later(attribute: str, text: str) -> None:
    """Drop a loss: all flags are set once more when the file is whole."""


def set_flags(fd: int, flags: int, lose: Lose) -> None:
    """Make the settable inode flags of an open file be `flags`, or as many of them as its file system keeps."""
    old = attributes.get_flags(fd)
    if old is None:
        if flags:
            lose(FLAGS, f"{attributes.flag_letters(flags)}: this file system keeps none")
        return
    if old == flags:
        return
    try:
        attributes.set_flags(fd, flags)
    except OSError as error:
        text = why(error)
        for bit in attributes.single_flags(old ^ flags):
            try:
                attributes.set_flags(fd, ((attributes.get_flags(fd) or 0) & ~bit) | (flags & bit))
            except OSError:
                pass
    else:
        text = "not taken"
    kept = attributes.get_flags(fd) or 0
    if flags & ~kept:
        lose(FLAGS, f"{attributes.flag_letters(flags & ~kept)}: {text}")
    if kept & ~flags:
        lose(FLAGS, f"{attributes.flag_letters(kept & ~flags)} not cleared: {text}")
