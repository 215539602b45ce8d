"""POSIX access control lists, as Linux keeps them in extended attributes: what the mode and the list say to each other.

The value is version 2 and (tag, permissions, id) of each entry: include/uapi/linux/posix_acl_xattr.h. The kernel checks
access; what follows from a change of mode, and what a new file inherits, is the file system's to do (POSIX 1003.1e).
"""

import errno
import os
import struct
from typing import Final

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
USER_OBJ: Final = 0x01
USER: Final = 0x02
GROUP_OBJ: Final = 0x04
GROUP: Final = 0x08
MASK: Final = 0x10
OTHER: Final = 0x20
_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")

Entries = list[tuple[int, int, int]]
"""(tag, permissions, id)"""


def decode_acl(value: bytes) -> Entries:
    """Return the entries of a list; EINVAL when it is none."""
    if value[:4] != _VERSION or (len(value) - 4) % _ENTRY.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return list(_ENTRY.iter_unpack(value[4:]))


def encode_acl(entries: Entries) -> bytes:
    """Return a list as its attribute's value."""
    return _VERSION + b"".join(_ENTRY.pack(*each) for each in entries)


def _is_minimal(entries: Entries) -> bool:
    """Tell whether the mode says all that the list does."""
    return all(tag in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in entries)


def mode_of(entries: Entries, mode: int) -> int:
    """Return a mode with the permission bits that a list stands for: the mask's, where there is one, for the group."""
    found = {tag: permissions & 7 for tag, permissions, _ in entries if tag not in (USER, GROUP)}
    group = found.get(MASK, found.get(GROUP_OBJ, 0))
    return mode & ~0o777 | found.get(USER_OBJ, 0) << 6 | group << 3 | found.get(OTHER, 0)


def _with_mode(entries: Entries, mode: int) -> Entries:
    """Return a list with the permission bits of a mode."""
    has_mask = any(tag == MASK for tag, _, _ in entries)
    group_tag = MASK if has_mask else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return [(tag, bits.get(tag, permissions), identity) for tag, permissions, identity in entries]


def change_mode(xattrs: dict[bytes, bytes], mode: int) -> None:
    """Let an access list follow a chmod."""
    value = xattrs.get(ACCESS)
    if value is not None:
        xattrs[ACCESS] = encode_acl(_with_mode(decode_acl(value), mode))


def set_access(xattrs: dict[bytes, bytes], value: bytes, mode: int) -> int:
    """Set an access list and return the mode that follows; a list that says no more than the mode is not kept."""
    entries = decode_acl(value)
    if _is_minimal(entries):
        xattrs.pop(ACCESS, None)
    else:
        xattrs[ACCESS] = value
    return mode_of(entries, mode) if entries else mode


def inherit(default: bytes, mode: int, *, directory: bool) -> tuple[int, dict[bytes, bytes]]:
    """Return mode and attributes of what is made with `mode` in a directory with a default list."""
    entries = decode_acl(default)
    asked = {USER_OBJ: mode >> 6 & 7, OTHER: mode & 7}
    asked[MASK if any(tag == MASK for tag, _, _ in entries) else GROUP_OBJ] = mode >> 3 & 7
    given = [(tag, permissions & asked.get(tag, 7), identity) for tag, permissions, identity in entries]
    xattrs = {} if _is_minimal(given) else {ACCESS: encode_acl(given)}
    if directory:
        xattrs[DEFAULT] = default
    return mode_of(given, mode), xattrs
