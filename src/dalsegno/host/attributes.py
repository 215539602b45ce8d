"""What Linux keeps about a file beyond its bytes: statx, inode flags, extended attributes, owner names."""

import ctypes
import errno
import fcntl
import grp
import os
import pwd
import struct
from pathlib import Path
from typing import Final, NamedTuple

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EMPTY_PATH: Final = 0x1000
AT_NO_AUTOMOUNT: Final = 0x800
STATX_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
STATX_MASK: Final = 0xFFF  # basic stats and birth time
STATX_BYTES: Final = 256
STATX_ATTRIBUTE_NODUMP: Final = 0x40
STATX_MOUNT_ID: Final = 0x1000
_STATX_MOUNT_ID_OFFSET: Final = 0x90

STATX: Final = struct.Struct("<8xQIIIH2xQQQ8x16xqI4xqI4xqI4xIIII")
"""attributes, nlink, uid, gid, mode, ino, size, blocks, btime (s, ns), ctime (s, ns), mtime (s, ns),
rdev major, minor, dev major, minor: include/uapi/linux/stat.h, struct statx (little-endian hosts)."""
assert STATX.size == 0x90
STATX_DEVICE: Final = struct.Struct("<136xII")
"""dev major, minor."""
STATX_SHORT: Final = struct.Struct("<16xI8xH2xQQ32xqI4xqI4xqI")
"""nlink, mode, ino, size, btime (s, ns), ctime (s, ns), mtime (s, ns): all that tells whether a file changed."""

_libc = ctypes.CDLL(None, use_errno=True)
libc_statx = _libc.statx
"""`libc_statx(dir_fd, name, STATX_FLAGS, STATX_MASK, buffer.address)` returns 0 or -1 (then see `statx_error`)."""
libc_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
libc_statx.restype = ctypes.c_int

_HOST_CLOCK_MAGICS: Final = {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # xfs
    0x9123683E,  # btrfs
    0xCA451A4E,  # bcachefs
    0xF2F52010,  # f2fs
    0x2FC12FC1,  # zfs
    0x01021994,  # tmpfs
    0x858458F6,  # ramfs
    0x794C7630,  # overlayfs
}
"""File systems (statfs, f_type) whose times this host's kernel sets; a server's clock may be behind ours."""
_STATFS_BYTES: Final = 256
libc_fstatfs = _libc.fstatfs
libc_fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)
libc_fstatfs.restype = ctypes.c_int

FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602
FLAG_COMPRESS: Final = 0x4
FLAG_SYNC: Final = 0x8
FLAG_IMMUTABLE: Final = 0x10
FLAG_APPEND: Final = 0x20
FLAG_NODUMP: Final = 0x40
FLAG_NOATIME: Final = 0x80
FLAG_DIRSYNC: Final = 0x10000
FLAG_TOPDIR: Final = 0x20000
FLAG_NOCOW: Final = 0x800000
FLAG_PROJINHERIT: Final = 0x20000000
FLAG_CASEFOLD: Final = 0x40000000
FLAG_LETTERS: Final = {
    FLAG_COMPRESS: "c",
    FLAG_SYNC: "S",
    FLAG_NODUMP: "d",
    FLAG_NOATIME: "A",
    FLAG_DIRSYNC: "D",
    FLAG_TOPDIR: "T",
    FLAG_NOCOW: "C",
    FLAG_PROJINHERIT: "P",
    FLAG_CASEFOLD: "F",
    FLAG_APPEND: "a",
    FLAG_IMMUTABLE: "i",
}
"""Flags that can be set, as chattr(1) calls them; those that keep a file from being changed come last."""
FLAGS_SETTABLE: Final = sum(FLAG_LETTERS)
FLAGS_INHERITED: Final = (
    FLAG_COMPRESS
    | FLAG_SYNC
    | FLAG_NODUMP
    | FLAG_NOATIME
    | FLAG_DIRSYNC
    | FLAG_NOCOW
    | FLAG_PROJINHERIT
    | FLAG_CASEFOLD
)
"""Flags of a directory that what is made in it begins with."""
FLAGS_LOCKING: Final = FLAG_IMMUTABLE | FLAG_APPEND
"""Flags that keep even root from changing the file."""

ETC: Final = Path("/etc")
USERDB: Final = Path("/run/systemd/userdb")
"""Where programs offer systemd users of their own."""
NOBODY: Final = 65534
"""A user that systemd knows without any file."""
SECOND_NS: Final = 1_000_000_000
TIME_SECONDS_MAX: Final = 9_223_372_035
"""Instants are 64-bit nanoseconds: 1677 to 2262; times beyond are stored as the nearest of these."""
_NO_FLAGS_ERRORS = {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_NO_XATTRS_ERRORS = {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOSYS}


def statx_error(path: bytes) -> OSError:
    """Return the error of the last failed `libc_statx`."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


class StatxBuffer:
    """What `libc_statx` fills through `address`: read `data` before the next call. Each thread needs one of its own."""

    __slots__ = ("_array", "address", "data")

    def __init__(self) -> None:
        self.data = bytearray(STATX_BYTES)
        self._array = (ctypes.c_char * STATX_BYTES).from_buffer(self.data)
        self.address = ctypes.addressof(self._array)

    def statx(self, directory: int, name: bytes) -> tuple[int, ...]:
        """Return the fields of `STATX` for `name` in an open directory, not following a symlink; of `directory` itself
        without a name. OSError."""
        if libc_statx(directory, name, STATX_FLAGS | (0 if name else AT_EMPTY_PATH), STATX_MASK, self.address) != 0:
            raise statx_error(name)
        return STATX.unpack_from(self.data)


class Place(NamedTuple):
    """Where a file lies: in which mount, and on which device (a btrfs subvolume has one of its own)."""

    mount: int
    """0 when the kernel (before 5.8) does not tell."""
    device: int


def place_of(directory: int, name: bytes = b"") -> Place:
    """Return where `name` in an open directory lies, or the open file itself; a symlink is not followed.

    Two mounts of one file system differ in the mount alone: `mount --bind` keeps the device.
    """
    flags = STATX_FLAGS | (0 if name else AT_EMPTY_PATH)
    buffer = StatxBuffer()
    if libc_statx(directory, name, flags, STATX_MASK | STATX_MOUNT_ID, buffer.address) != 0:
        raise statx_error(name)
    fields = STATX.unpack_from(buffer.data)
    known = int.from_bytes(buffer.data[:4], "little") & STATX_MOUNT_ID
    offset = _STATX_MOUNT_ID_OFFSET
    mount = int.from_bytes(buffer.data[offset : offset + 8], "little") if known else 0
    return Place(mount, os.makedev(fields[-2], fields[-1]))


def file_system_magic(fd: int) -> int:
    """Return the type of an open file's file system as statfs(2) tells it, 0 when unknown."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc_fstatfs(fd, buffer) != 0:
        return 0
    word = ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(buffer.raw[:word], "little") & 0xFFFFFFFF


def has_host_clock(fd: int) -> bool:
    """Tell whether the times of an open file's file system are set by this host's clock; False when unknown."""
    return is_native(fd)


def is_native(fd: int) -> bool:
    """Tell whether an open file lies on a file system of Linux itself: it keeps modes and owners, or says that not."""
    return file_system_magic(fd) in _HOST_CLOCK_MAGICS


def join_time_ns(seconds: int, nanoseconds: int) -> int:
    """Return one 64-bit number of nanoseconds."""
    if seconds > TIME_SECONDS_MAX:
        seconds = TIME_SECONDS_MAX
    elif seconds < -TIME_SECONDS_MAX:
        seconds = -TIME_SECONDS_MAX
    return seconds * SECOND_NS + nanoseconds


def get_flags(fd: int) -> int | None:
    """Return the settable inode flags of an open file; None when its file system keeps none."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0\0\0\0\0\0\0\0")[:4], "little") & FLAGS_SETTABLE
    except OSError as error:
        if error.errno in _NO_FLAGS_ERRORS:
            return None
        raise


def set_flags(fd: int, flags: int) -> None:
    """Set the settable inode flags of an open file and keep the others."""
    old = int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4], "little")
    new = (old & ~FLAGS_SETTABLE) | (flags & FLAGS_SETTABLE)
    if new != old:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, new.to_bytes(8, "little"))


def single_flags(flags: int) -> list[int]:
    """Return the settable flags in a set of them, in the order of FLAG_LETTERS."""
    return [bit for bit in FLAG_LETTERS if flags & bit]


def flag_letters(flags: int) -> str:
    """Return flags as chattr(1) and lsattr(1) write them."""
    return "".join(FLAG_LETTERS[bit] for bit in single_flags(flags))


def path_beneath(directory: int, name: bytes) -> bytes:
    """Return a path for calls that take no directory fd; use it without following symlinks."""
    return b"/proc/self/fd/%d/%s" % (directory, name)


def list_xattrs(target: int | bytes) -> list[str]:
    """Return the names of extended attributes; none where a file system (FAT) has no such thing."""
    try:
        return os.listxattr(target) if isinstance(target, int) else os.listxattr(target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTRS_ERRORS:
            return []
        raise


def read_xattrs(target: int | bytes) -> list[tuple[bytes, bytes]]:
    """Return all readable extended attributes of an open file, or of a path (symlinks not followed)."""
    found = []
    for name in list_xattrs(target):
        try:
            if isinstance(target, int):
                value = os.getxattr(target, name)
            else:
                value = os.getxattr(target, name, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_XATTRS_ERRORS:
                continue
            raise
        found.append((os.fsencode(name), value))
    found.sort()
    return found


def parse_names(data: bytes) -> dict[int, bytes]:
    """Return the names by number of a passwd(5) or group(5) file; of two with one number the first counts."""
    found: dict[int, bytes] = {}
    for line in data.splitlines():
        fields = line.split(b":")
        if len(fields) > 2 and fields[2].isdigit() and fields[0]:
            found.setdefault(int(fields[2]), fields[0])
    return found


def is_all_in_files(switch: bytes, database: bytes, *, has_userdb: bool) -> bool:
    """Tell from nsswitch.conf(5) whether a file holds all names of a database: no directory service has more."""
    for line in switch.splitlines():
        name, _, rest = line.partition(b"#")[0].partition(b":")
        if name.strip() == database:
            return rest.split() in ([b"files"], *([] if has_userdb else [[b"files", b"systemd"]]))
    return False


class OwnerNames:
    """Names of users and groups by number, each looked up once.

    Where plain files hold all names they are read once: the C library reads them again for every number, 50 us each.
    """

    def __init__(self) -> None:
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}
        self._all_users = self._read_all(b"passwd")
        self._all_groups = self._read_all(b"group")

    @staticmethod
    def _read_all(database: bytes) -> dict[int, bytes] | None:
        try:
            switch = (ETC / "nsswitch.conf").read_bytes()
            if is_all_in_files(switch, database, has_userdb=USERDB.exists()):
                return parse_names((ETC / os.fsdecode(database)).read_bytes())
        except OSError:
            pass  # the C library knows more about it
        return None

    def user(self, uid: int) -> bytes:
        """Return the name of a user, or nothing when the host does not know it."""
        if self._all_users is not None and uid != NOBODY:
            return self._all_users.get(uid, b"")
        name = self._users.get(uid)
        if name is None:
            try:
                name = os.fsencode(pwd.getpwuid(uid).pw_name)
            except (KeyError, OverflowError):
                name = b""
            self._users[uid] = name
        return name

    def group(self, gid: int) -> bytes:
        """Return the name of a group, or nothing when the host does not know it."""
        if self._all_groups is not None and gid != NOBODY:
            return self._all_groups.get(gid, b"")
        name = self._groups.get(gid)
        if name is None:
            try:
                name = os.fsencode(grp.getgrgid(gid).gr_name)
            except (KeyError, OverflowError):
                name = b""
            self._groups[gid] = name
        return name
