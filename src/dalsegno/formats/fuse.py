"""The FUSE protocol: what Linux asks of a file system that is a program, and what it may answer.

Source: include/uapi/linux/fuse.h of Linux 5.10 to 6.18 (protocol 7.31 to 7.45). Bytes only: no file, no clock. Integers
are in host order. Every request is a header and a body; a body is a fixed struct, and often names or data after it.
Names end with a zero byte. A reply is a header with a negative errno or 0, and a payload.

REQUESTS is the table of all requests that we understand; others are answered ENOSYS, which the kernel remembers.
Times are nanoseconds here and (seconds, nanoseconds) there.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

VERSION_MAJOR: Final = 7
VERSION_MINOR_MIN: Final = 31
VERSION_MINOR: Final = 38
ROOT_NODE: Final = 1

LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
SYMLINK: Final = 6
MKNOD: Final = 8
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
LINK: Final = 13
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FSYNC: Final = 20
SETXATTR: Final = 21
GETXATTR: Final = 22
LISTXATTR: Final = 23
REMOVEXATTR: Final = 24
FLUSH: Final = 25
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
FSYNCDIR: Final = 30
ACCESS: Final = 34
CREATE: Final = 35
INTERRUPT: Final = 36
DESTROY: Final = 38
BATCH_FORGET: Final = 42
FALLOCATE: Final = 43
READDIRPLUS: Final = 44
RENAME2: Final = 45
LSEEK: Final = 46
SYNCFS: Final = 50

# What the two sides agree on in INIT. Those from 1 << 32 on travel in `flags2`.
ASYNC_READ: Final = 1 << 0
BIG_WRITES: Final = 1 << 5
DONT_MASK: Final = 1 << 6
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
READDIRPLUS_AUTO: Final = 1 << 14
NO_OPEN_SUPPORT: Final = 1 << 17
PARALLEL_DIROPS: Final = 1 << 18
POSIX_ACL: Final = 1 << 20
MAX_PAGES: Final = 1 << 22
CACHE_SYMLINKS: Final = 1 << 23
NO_OPENDIR_SUPPORT: Final = 1 << 24
EXPLICIT_INVAL_DATA: Final = 1 << 25
HANDLE_KILLPRIV_V2: Final = 1 << 28
SETXATTR_EXT: Final = 1 << 29
INIT_EXT: Final = 1 << 30

# Which fields of SETATTR count.
SET_MODE: Final = 1 << 0
SET_UID: Final = 1 << 1
SET_GID: Final = 1 << 2
SET_SIZE: Final = 1 << 3
SET_ATIME: Final = 1 << 4
SET_MTIME: Final = 1 << 5
SET_ATIME_NOW: Final = 1 << 7
SET_MTIME_NOW: Final = 1 << 8
SET_CTIME: Final = 1 << 10
SET_KILL_SUIDGID: Final = 1 << 11

WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KEEP_CACHE: Final = 1 << 1
OPEN_CACHE_DIR: Final = 1 << 3
FSYNC_DATA_ONLY: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0

NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3
NOTIFY_STORE: Final = 4
NOTIFY_PRUNE: Final = 9

NAME_BYTES_MAX: Final = 255
SECOND_NS: Final = 1_000_000_000

HEADER: Final = struct.Struct("=IIQQIIIHxx")
REPLY: Final = struct.Struct("=IiQ")
ATTR: Final = struct.Struct("=QQQqqqIIIIIIIIII")
ENTRY: Final = struct.Struct("=QQQQII")
ATTR_VALID: Final = struct.Struct("=QIxxxx")
DIRENT: Final = struct.Struct("=QQII")
DIRENT_PLUS: Final = struct.Struct(ENTRY.format + ATTR.format[1:] + DIRENT.format[1:])
STATFS_REPLY: Final = struct.Struct("=QQQQQIII4x24x")
INIT_REPLY: Final = struct.Struct("=IIIIHHIIHHI28x")
OPEN_REPLY: Final = struct.Struct("=QIxxxx")
SIZE_REPLY: Final = struct.Struct("=Ixxxx")
OFFSET_REPLY: Final = struct.Struct("=Q")
INVAL_INODE: Final = struct.Struct("=Qqq")
INVAL_ENTRY: Final = struct.Struct("=QIxxxx")
STORE: Final = struct.Struct("=QQIxxxx")
PRUNE: Final = struct.Struct("=Ixxxx8x")
assert HEADER.size == 40 and REPLY.size == 16 and ATTR.size == 88 and ENTRY.size == 40 and DIRENT.size == 24
assert DIRENT_PLUS.size == ENTRY.size + ATTR.size + DIRENT.size
assert STATFS_REPLY.size == 80 and INIT_REPLY.size == 64


class ProtocolError(Exception):
    """A message that the kernel of our source would not have written."""


class Header(NamedTuple):
    """What every request begins with: `length` counts it too."""

    length: int
    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    extension_units: int = 0
    """Extensions stand behind the body, in units of 8 bytes; we ask for none."""


class Empty(NamedTuple):
    """A request that says nothing more."""


class Name(NamedTuple):
    """LOOKUP, UNLINK, RMDIR, REMOVEXATTR."""

    name: bytes


class Forget(NamedTuple):
    lookup_count: int


class BatchForget(NamedTuple):
    nodes: tuple[tuple[int, int], ...]
    """(node, lookup count)"""


class GetAttr(NamedTuple):
    flags: int
    handle: int


class SetAttr(NamedTuple):
    """`valid` tells which fields count."""

    valid: int
    handle: int
    size: int
    lock_owner: int
    atime_seconds: int
    mtime_seconds: int
    ctime_seconds: int
    atime_rest: int
    mtime_rest: int
    ctime_rest: int
    mode: int
    uid: int
    gid: int


class Symlink(NamedTuple):
    name: bytes
    target: bytes


class MakeNode(NamedTuple):
    mode: int
    device: int
    umask: int
    name: bytes


class MakeDirectory(NamedTuple):
    mode: int
    umask: int
    name: bytes


class Rename(NamedTuple):
    directory: int
    name: bytes
    new_name: bytes


class Rename2(NamedTuple):
    directory: int
    flags: int
    name: bytes
    new_name: bytes


class Link(NamedTuple):
    node: int
    name: bytes


class Open(NamedTuple):
    """OPEN, OPENDIR."""

    flags: int
    open_flags: int


class Read(NamedTuple):
    """READ, READDIR, READDIRPLUS; of a directory `offset` is what a dirent said."""

    handle: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int


class Write(NamedTuple):
    handle: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    data: memoryview


class Release(NamedTuple):
    """RELEASE, RELEASEDIR."""

    handle: int
    flags: int
    release_flags: int
    lock_owner: int


class Fsync(NamedTuple):
    """FSYNC, FSYNCDIR."""

    handle: int
    flags: int


class SetXattr(NamedTuple):
    size: int
    flags: int
    setxattr_flags: int
    name: bytes
    value: bytes


class GetXattr(NamedTuple):
    """A size of 0 asks how large the value is."""

    size: int
    name: bytes


class ListXattr(NamedTuple):
    size: int


class Flush(NamedTuple):
    handle: int
    lock_owner: int


class Init(NamedTuple):
    major: int
    minor: int
    readahead_bytes_max: int
    flags: int
    """Both words of flags as one number."""


class Access(NamedTuple):
    mask: int


class Interrupt(NamedTuple):
    unique: int


class Fallocate(NamedTuple):
    handle: int
    offset: int
    length: int
    mode: int


class Seek(NamedTuple):
    handle: int
    offset: int
    whence: int


class Shape(NamedTuple):
    """How a body is laid out: the fixed part, and what comes behind it."""

    make: Callable[..., Any]
    fixed: struct.Struct
    name_count: int = 0
    """Names behind the fixed part, each ended by a zero byte."""
    data: bool = False
    """All the rest, behind the names, as it is."""


_NONE = struct.Struct("=")
_NAME = Shape(Name, _NONE, 1)
_OPEN = Shape(Open, struct.Struct("=II"))
_READ = Shape(Read, struct.Struct("=QQIIQIxxxx"))
_RELEASE = Shape(Release, struct.Struct("=QIIQ"))
_FSYNC = Shape(Fsync, struct.Struct("=QIxxxx"))

REQUESTS: Final[Mapping[int, Shape]] = {
    LOOKUP: _NAME,
    FORGET: Shape(Forget, struct.Struct("=Q")),
    GETATTR: Shape(GetAttr, struct.Struct("=IxxxxQ")),
    SETATTR: Shape(SetAttr, struct.Struct("=IxxxxQQQqqqIIII4xII4x")),
    READLINK: Shape(Empty, _NONE),
    SYMLINK: Shape(Symlink, _NONE, 2),
    MKNOD: Shape(MakeNode, struct.Struct("=IIIxxxx"), 1),
    MKDIR: Shape(MakeDirectory, struct.Struct("=II"), 1),
    UNLINK: _NAME,
    RMDIR: _NAME,
    RENAME: Shape(Rename, struct.Struct("=Q"), 2),
    LINK: Shape(Link, struct.Struct("=Q"), 1),
    OPEN: _OPEN,
    READ: _READ,
    WRITE: Shape(Write, struct.Struct("=QQIIQIxxxx"), data=True),
    STATFS: Shape(Empty, _NONE),
    RELEASE: _RELEASE,
    FSYNC: _FSYNC,
    SETXATTR: Shape(SetXattr, struct.Struct("=IIIxxxx"), 1, data=True),
    GETXATTR: Shape(GetXattr, struct.Struct("=Ixxxx"), 1),
    LISTXATTR: Shape(ListXattr, struct.Struct("=Ixxxx")),
    REMOVEXATTR: _NAME,
    FLUSH: Shape(Flush, struct.Struct("=QxxxxxxxxQ")),
    INIT: Shape(Init, struct.Struct("=IIIQ")),
    OPENDIR: _OPEN,
    READDIR: _READ,
    RELEASEDIR: _RELEASE,
    FSYNCDIR: _FSYNC,
    ACCESS: Shape(Access, struct.Struct("=Ixxxx")),
    INTERRUPT: Shape(Interrupt, struct.Struct("=Q")),
    DESTROY: Shape(Empty, _NONE),
    BATCH_FORGET: Shape(BatchForget, struct.Struct("=Ixxxx")),
    FALLOCATE: Shape(Fallocate, struct.Struct("=QQQIxxxx")),
    READDIRPLUS: _READ,
    RENAME2: Shape(Rename2, struct.Struct("=QIxxxx"), 2),
    LSEEK: Shape(Seek, struct.Struct("=QQIxxxx")),
    SYNCFS: Shape(Empty, _NONE),
}

_SETXATTR_SHORT = struct.Struct("=II")
_FORGET_ONE = struct.Struct("=QQ")
_INIT_SHORT = struct.Struct("=IIII")
_INIT_LONG = struct.Struct("=IIIII44x")
_READLIKE: Final = frozenset((READ, READDIR, READDIRPLUS))

Body = Any
"""One of the named tuples above, as REQUESTS says for the opcode."""


def decode_header(message: bytes | bytearray | memoryview) -> Header:
    """Return a request's header; ProtocolError when the message is not as long as it says."""
    if len(message) < HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes")
    header = Header(*HEADER.unpack_from(message))
    if header.length != len(message):
        raise ProtocolError(f"a message of {len(message)} bytes that says {header.length}")
    return header


def decode_body(header: Header, message: bytes | bytearray | memoryview, *, setxattr_extended: bool = True) -> Body:
    """Return the body of a request whose opcode is in REQUESTS; WRITE's data stays a view of `message`.

    `setxattr_extended` is whether SETXATTR_EXT was agreed on: SETXATTR is longer then.
    """
    opcode = header.opcode
    shape = REQUESTS[opcode]
    at = HEADER.size
    try:
        if opcode == INIT:
            return _decode_init(message)
        if opcode == SETXATTR and not setxattr_extended:
            fixed: tuple[int, ...] = (*_SETXATTR_SHORT.unpack_from(message, at), 0)
            at += _SETXATTR_SHORT.size
        else:
            fixed = shape.fixed.unpack_from(message, at)
            at += shape.fixed.size
    except struct.error as error:
        raise ProtocolError(f"request {opcode}: {error}") from None
    if opcode == BATCH_FORGET:
        return BatchForget(_decode_forgets(fixed[0], message, at))
    if not shape.name_count and not shape.data:
        return shape.make(*fixed)
    if opcode == WRITE:
        data = memoryview(message)[at : at + fixed[2]]
        if len(data) != fixed[2]:
            raise ProtocolError(f"WRITE of {fixed[2]} bytes with {len(data)}")
        return shape.make(*fixed, data)
    parts = bytes(message[at:]).split(b"\0", shape.name_count)
    if len(parts) <= shape.name_count:
        raise ProtocolError(f"request {opcode}: a name without an end")
    if not shape.data:
        return shape.make(*fixed, *parts[:-1])
    value = parts[-1][: fixed[0]]
    if len(value) != fixed[0]:
        raise ProtocolError(f"SETXATTR of {fixed[0]} bytes with {len(value)}")
    return shape.make(*fixed, *parts[:-1], value)


def _decode_init(message: bytes | bytearray | memoryview) -> Init:
    major, minor, readahead, low = _INIT_SHORT.unpack_from(message, HEADER.size)
    high = _INIT_LONG.unpack_from(message, HEADER.size)[4] if low & INIT_EXT else 0
    return Init(major, minor, readahead, low | high << 32)


def _decode_forgets(count: int, message: bytes | bytearray | memoryview, at: int) -> tuple[tuple[int, int], ...]:
    if len(message) - at < count * _FORGET_ONE.size:
        raise ProtocolError(f"BATCH_FORGET of {count} nodes in {len(message)} bytes")
    return tuple(_FORGET_ONE.iter_unpack(message[at : at + count * _FORGET_ONE.size]))


def encode_request(header: Header, body: Body, *, setxattr_extended: bool = True) -> bytes:
    """Return a request as the kernel writes it; the header's length is filled in."""
    shape = REQUESTS[header.opcode]
    values = list(body)
    if header.opcode == INIT:
        init = [body.major, body.minor, body.readahead_bytes_max, body.flags & 0xFFFFFFFF, body.flags >> 32]
        fixed = _INIT_LONG.pack(*init) if body.flags & INIT_EXT else _INIT_SHORT.pack(*init[:4])
        tail = b""
    elif header.opcode == BATCH_FORGET:
        fixed = shape.fixed.pack(len(body.nodes))
        tail = b"".join(_FORGET_ONE.pack(*each) for each in body.nodes)
    else:
        behind = shape.name_count + shape.data
        numbers, rest = values[: len(values) - behind], values[len(values) - behind :]
        if header.opcode == SETXATTR and not setxattr_extended:
            fixed = _SETXATTR_SHORT.pack(*numbers[:2])
        else:
            fixed = shape.fixed.pack(*numbers)
        names, data = rest[: shape.name_count], rest[shape.name_count :]
        tail = b"".join(name + b"\0" for name in names) + b"".join(bytes(each) for each in data)
    length = HEADER.size + len(fixed) + len(tail)
    return HEADER.pack(*header._replace(length=length)) + fixed + tail


# Replies


class Attr(NamedTuple):
    """What stat shows; `mode` with the file type."""

    ino: int
    size: int
    blocks: int
    """Of 512 bytes."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    link_count: int
    uid: int
    gid: int
    device: int
    block_bytes: int = 4096


class EntryReply(NamedTuple):
    """LOOKUP and all that makes a name; node 0 says that the name is not there, and may be remembered."""

    node: int
    generation: int
    entry_valid_ns: int
    attr_valid_ns: int
    attr: Attr


class StatfsReply(NamedTuple):
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    block_bytes: int
    name_bytes_max: int
    fragment_bytes: int


class InitReply(NamedTuple):
    major: int
    minor: int
    readahead_bytes_max: int
    flags: int
    background_max: int
    congestion_threshold: int
    write_bytes_max: int
    time_granularity_ns: int
    pages_max: int


class Dirent(NamedTuple):
    """One name of a directory; `offset` is where the next READDIR goes on, `type` the file type of the mode >> 12."""

    ino: int
    offset: int
    type: int
    name: bytes


_PADDING: Final = [bytes(-count % 8) for count in range(8)]
_PACK_PLUS: Final = DIRENT_PLUS.pack
NO_ATTR: Final = Attr(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
NO_ENTRY: Final = EntryReply(0, 0, 0, 0, NO_ATTR)


def encode_reply(unique: int, payload: bytes = b"") -> bytes:
    """Return the answer to a request that succeeded."""
    return REPLY.pack(REPLY.size + len(payload), 0, unique) + payload


def encode_reply_header(unique: int, payload_bytes: int) -> bytes:
    """Return the header of an answer whose payload is written behind it."""
    return REPLY.pack(REPLY.size + payload_bytes, 0, unique)


def encode_error(unique: int, errno: int) -> bytes:
    """Return the answer to a request that failed."""
    assert errno > 0
    return REPLY.pack(REPLY.size, -errno, unique)


def decode_reply(message: bytes) -> tuple[int, int, bytes]:
    """Return (unique, errno or 0, payload) of an answer."""
    length, error, unique = REPLY.unpack_from(message)
    if length != len(message):
        raise ProtocolError(f"an answer of {len(message)} bytes that says {length}")
    return unique, -error, message[REPLY.size :]


def encode_attr(attr: Attr) -> bytes:
    """Return what stat shows as the kernel reads it."""
    atime, atime_rest = divmod(attr.atime_ns, SECOND_NS)
    mtime, mtime_rest = divmod(attr.mtime_ns, SECOND_NS)
    ctime, ctime_rest = divmod(attr.ctime_ns, SECOND_NS)
    return ATTR.pack(
        attr.ino,
        attr.size,
        attr.blocks,
        atime,
        mtime,
        ctime,
        atime_rest,
        mtime_rest,
        ctime_rest,
        attr.mode,
        attr.link_count,
        attr.uid,
        attr.gid,
        attr.device,
        attr.block_bytes,
        0,
    )


def decode_attr(data: bytes) -> Attr:
    """Return what stat shows."""
    ino, size, blocks, *times, mode, link_count, uid, gid, device, block_bytes, _ = ATTR.unpack(data)
    atime, mtime, ctime = (times[i] * SECOND_NS + times[i + 3] for i in range(3))
    return Attr(ino, size, blocks, atime, mtime, ctime, mode, link_count, uid, gid, device, block_bytes)


def encode_attr_reply(valid_ns: int, attr: Attr) -> bytes:
    """Return the payload of GETATTR and SETATTR: `attr`, and how long it may be remembered."""
    return ATTR_VALID.pack(*divmod(valid_ns, SECOND_NS)) + encode_attr(attr)


def decode_attr_reply(data: bytes) -> tuple[int, Attr]:
    """Return (valid_ns, attr)."""
    seconds, rest = ATTR_VALID.unpack_from(data)
    return seconds * SECOND_NS + rest, decode_attr(data[ATTR_VALID.size :])


def encode_entry(entry: EntryReply) -> bytes:
    """Return the payload of LOOKUP, MKNOD, MKDIR, SYMLINK and LINK."""
    entry_seconds, entry_rest = divmod(entry.entry_valid_ns, SECOND_NS)
    attr_seconds, attr_rest = divmod(entry.attr_valid_ns, SECOND_NS)
    fixed = ENTRY.pack(entry.node, entry.generation, entry_seconds, attr_seconds, entry_rest, attr_rest)
    return fixed + encode_attr(entry.attr)


def decode_entry(data: bytes) -> EntryReply:
    """Return what a name was answered with."""
    node, generation, entry_seconds, attr_seconds, entry_rest, attr_rest = ENTRY.unpack_from(data)
    entry_valid_ns = entry_seconds * SECOND_NS + entry_rest
    attr_valid_ns = attr_seconds * SECOND_NS + attr_rest
    return EntryReply(node, generation, entry_valid_ns, attr_valid_ns, decode_attr(data[ENTRY.size :]))


def encode_dirent(dirent: Dirent) -> bytes:
    """Return one name of READDIR's payload, filled up to 8 bytes."""
    fixed = DIRENT.pack(dirent.ino, dirent.offset, len(dirent.name), dirent.type)
    return fixed + dirent.name + _PADDING[len(dirent.name) % 8]


def encode_dirent_plus(entry: EntryReply, dirent: Dirent) -> bytes:
    """Return one name of READDIRPLUS' payload; `entry` is NO_ENTRY for `.`, `..` and what was not looked up."""
    node, generation, entry_valid_ns, attr_valid_ns, attr = entry
    ino, size, blocks, atime_ns, mtime_ns, ctime_ns, mode, link_count, uid, gid, device, block_bytes = attr
    name = dirent.name
    # In one piece, since a walk makes one of these for every file.
    mtime, mtime_rest = divmod(mtime_ns, SECOND_NS)
    atime, atime_rest = divmod(atime_ns, SECOND_NS) if atime_ns != mtime_ns else (mtime, mtime_rest)
    ctime, ctime_rest = divmod(ctime_ns, SECOND_NS) if ctime_ns != mtime_ns else (mtime, mtime_rest)
    entry_seconds, entry_rest = divmod(entry_valid_ns, SECOND_NS)
    attr_seconds, attr_rest = divmod(attr_valid_ns, SECOND_NS)
    fixed = DIRENT_PLUS.pack(
        node,
        generation,
        entry_seconds,
        attr_seconds,
        entry_rest,
        attr_rest,
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        atime_rest,
        mtime_rest,
        ctime_rest,
        mode,
        link_count,
        uid,
        gid,
        device,
        block_bytes,
        0,
        dirent.ino,
        dirent.offset,
        len(name),
        dirent.type,
    )
    return fixed + name + _PADDING[len(name) % 8]


def encode_known_name(
    node: int,
    ino: int,
    offset: int,
    name: bytes,
    mode: int,
    size: int,
    blocks: int,
    time_ns: int,
    uid: int,
    gid: int,
    device: int,
    valid_seconds: int,
) -> bytes:
    """Return encode_dirent_plus of a name with one link and one time, without the tuples: walks make millions."""
    seconds, rest = divmod(time_ns, SECOND_NS)
    name_bytes = len(name)
    return (
        _PACK_PLUS(
            node,
            0,
            valid_seconds,
            valid_seconds,
            0,
            0,
            ino,
            size,
            blocks,
            seconds,
            seconds,
            seconds,
            rest,
            rest,
            rest,
            mode,
            1,
            uid,
            gid,
            device,
            4096,
            0,
            ino,
            offset,
            name_bytes,
            mode >> 12,
        )
        + name
        + _PADDING[name_bytes % 8]
    )


def decode_dirents(data: bytes) -> list[Dirent]:
    """Return the names in READDIR's payload."""
    found = []
    at = 0
    while at < len(data):
        ino, offset, name_bytes, kind = DIRENT.unpack_from(data, at)
        at += DIRENT.size
        found.append(Dirent(ino, offset, kind, data[at : at + name_bytes]))
        at += name_bytes + -name_bytes % 8
    return found


def decode_dirents_plus(data: bytes) -> list[tuple[EntryReply, Dirent]]:
    """Return the names in READDIRPLUS' payload with what is known of each."""
    found = []
    at = 0
    while at < len(data):
        entry = decode_entry(data[at : at + ENTRY.size + ATTR.size])
        at += ENTRY.size + ATTR.size
        length = DIRENT.size + DIRENT.unpack_from(data, at)[2]
        length += -length % 8
        found.append((entry, decode_dirents(data[at : at + length])[0]))
        at += length
    return found


def encode_statfs(reply: StatfsReply) -> bytes:
    """Return the payload of STATFS."""
    return STATFS_REPLY.pack(*reply)


def decode_statfs(data: bytes) -> StatfsReply:
    """Return what statfs shows."""
    return StatfsReply(*STATFS_REPLY.unpack(data))


def encode_init(reply: InitReply) -> bytes:
    """Return the payload of INIT."""
    low, high = reply.flags & 0xFFFFFFFF, reply.flags >> 32
    return INIT_REPLY.pack(
        reply.major,
        reply.minor,
        reply.readahead_bytes_max,
        low,
        reply.background_max,
        reply.congestion_threshold,
        reply.write_bytes_max,
        reply.time_granularity_ns,
        reply.pages_max,
        0,
        high,
    )


def decode_init(data: bytes) -> InitReply:
    """Return what INIT was answered with."""
    major, minor, readahead, low, background, congestion, write, granularity, pages, _, high = INIT_REPLY.unpack(data)
    flags = low | high << 32
    return InitReply(major, minor, readahead, flags, background, congestion, write, granularity, pages)


def encode_open(handle: int, flags: int) -> bytes:
    """Return the payload of OPEN and OPENDIR."""
    return OPEN_REPLY.pack(handle, flags)


def decode_open(data: bytes) -> tuple[int, int]:
    """Return (handle, flags)."""
    handle, flags = OPEN_REPLY.unpack(data)
    return handle, flags


def encode_size(size: int) -> bytes:
    """Return the payload of WRITE, and of GETXATTR and LISTXATTR that asked for a size."""
    return SIZE_REPLY.pack(size)


def decode_size(data: bytes) -> int:
    """Return how many bytes were written or would be needed."""
    size: int = SIZE_REPLY.unpack(data)[0]
    return size


def encode_offset(offset: int) -> bytes:
    """Return the payload of LSEEK."""
    return OFFSET_REPLY.pack(offset)


def decode_offset(data: bytes) -> int:
    """Return where LSEEK went."""
    offset: int = OFFSET_REPLY.unpack(data)[0]
    return offset


def encode_inval_inode(node: int, offset: int, length: int) -> bytes:
    """Return the notice that what the kernel keeps of a node is old; offset -1: only its attributes, length 0: all."""
    payload = INVAL_INODE.pack(node, offset, length)
    return REPLY.pack(REPLY.size + len(payload), NOTIFY_INVAL_INODE, 0) + payload


def encode_inval_entry(parent: int, name: bytes) -> bytes:
    """Return the notice that a name may have changed."""
    payload = INVAL_ENTRY.pack(parent, len(name)) + name + b"\0"
    return REPLY.pack(REPLY.size + len(payload), NOTIFY_INVAL_ENTRY, 0) + payload


def encode_store_header(node: int, offset: int, length: int) -> bytes:
    """Return the head of the notice that a node has these bytes, which are written behind it, from `offset` on."""
    total = REPLY.size + STORE.size + length
    return REPLY.pack(total, NOTIFY_STORE, 0) + STORE.pack(node, offset, length)


def encode_prune(nodes: Sequence[int]) -> bytes:
    """Return the notice that the kernel may forget nodes which nobody uses; from Linux 6.18 on."""
    payload = PRUNE.pack(len(nodes)) + struct.pack(f"={len(nodes)}Q", *nodes)
    return REPLY.pack(REPLY.size + len(payload), NOTIFY_PRUNE, 0) + payload
