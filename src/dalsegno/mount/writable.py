"""A native volume as a file system that is written: each request of the kernel as a change of its tree.

Everything is done under one lock, but what may take its time: base bytes are read without it, and commits are stored
without it.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from dalsegno.formats import fuse, objects
from dalsegno.formats.fuse import Attr, Dirent, EntryReply, Header, StatfsReply
from dalsegno.formats.objects import Entry
from dalsegno.host.attributes import join_time_ns
from dalsegno.mount import acl
from dalsegno.mount.changes import Changes, fail
from dalsegno.mount.inodes import SOCKET, STORED, Inode, Overlay
from dalsegno.mount.readonly import (
    CLONES_NAME,
    DIRECTORY_BYTES,
    FLAGS,
    FOREVER_NS,
    FORMS,
    NOT_THERE,
    PIECES_MAX,
    ZEROS,
    Folder,
    ReadOnly,
    encode_name,
    read_pieces,
    sized,
)
from dalsegno.mount.session import Answer, Method
from dalsegno.terms.errors import DalError
from dalsegno.trees.edit import BASE, HOLE
from dalsegno.trees.extents import find_data, find_hole
from dalsegno.trees.read import entry_xattrs
from dalsegno.world.chance import random_node
from dalsegno.world.clock import now_ns

NEW_OFFSET: Final = 1 << 31
"""Where in a directory the positions of new names begin, behind all rows."""
LIMIT_BITS: Final = 32
"""An offset's upper part says how many positions there were when the list was begun: without it, who renames what it
finds would find it again, and never come to the end."""
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 0x10
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
SEEK_PIECES_MAX: Final = 64
FILE_BYTES_MAX: Final = (1 << 63) - 1
SETS_SOMETHING: Final = (
    fuse.SET_MODE
    | fuse.SET_UID
    | fuse.SET_GID
    | fuse.SET_SIZE
    | fuse.SET_ATIME
    | fuse.SET_MTIME
    | fuse.SET_ATIME_NOW
    | fuse.SET_MTIME_NOW
)
CAPABILITY: Final = b"security.capability"
XATTR_NAMESPACES: Final = frozenset((b"user.", b"trusted.", b"security."))
_KINDS: Final = {
    stat.S_IFREG: objects.ENTRY_FILE,
    stat.S_IFIFO: objects.ENTRY_FIFO,
    stat.S_IFCHR: objects.ENTRY_CHAR_DEVICE,
    stat.S_IFBLK: objects.ENTRY_BLOCK_DEVICE,
    stat.S_IFSOCK: SOCKET,
}
_FORMS: Final[Mapping[int, int]] = {**FORMS, SOCKET: stat.S_IFSOCK}
WRITABLE_FLAGS: Final = (
    FLAGS | fuse.BIG_WRITES | fuse.DONT_MASK | fuse.HANDLE_KILLPRIV_V2 | fuse.SETXATTR_EXT | fuse.POSIX_ACL
)


class Writable:
    """A volume's tree, written. All that is not in it (clones, mount points) is answered by `still`."""

    def __init__(self, still: ReadOnly, changes: Changes, *, disk: Callable[[], os.statvfs_result]) -> None:
        layer = still.root.layer
        assert layer is not None
        self.flags = WRITABLE_FLAGS
        self._still = still
        self._changes = changes
        self._layer = layer
        self._listings = layer.listings
        self._disk = disk
        own: dict[int, Method] = {
            fuse.LOOKUP: self._lookup,
            fuse.FORGET: self._forget,
            fuse.BATCH_FORGET: self._forget_all,
            fuse.GETATTR: self._getattr,
            fuse.SETATTR: self._setattr,
            fuse.READLINK: self._readlink,
            fuse.SYMLINK: self._symlink,
            fuse.MKNOD: self._mknod,
            fuse.MKDIR: self._mkdir,
            fuse.UNLINK: self._unlink,
            fuse.RMDIR: self._rmdir,
            fuse.RENAME: lambda header, body: self._rename(header, body.directory, body.name, body.new_name, 0),
            fuse.RENAME2: lambda header, body: self._rename(
                header, body.directory, body.name, body.new_name, body.flags
            ),
            fuse.LINK: self._link,
            fuse.READ: self._read,
            fuse.WRITE: self._write,
            fuse.READDIR: lambda header, body: self._read_directory(header.node, body, plus=False),
            fuse.READDIRPLUS: lambda header, body: self._read_directory(header.node, body, plus=True),
            fuse.SETXATTR: self._setxattr,
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.REMOVEXATTR: self._removexattr,
            fuse.STATFS: self._statfs,
            fuse.FALLOCATE: self._fallocate,
            fuse.LSEEK: self._seek,
        }
        self.methods: dict[int, Method] = {opcode: self._guard(opcode, method) for opcode, method in own.items()}

    def _guard(self, opcode: int, method: Method) -> Method:
        """Return `method` for what is ours, and what the read-only tree does for all else."""
        if opcode in (fuse.FORGET, fuse.BATCH_FORGET, fuse.STATFS):
            return method
        still = self._still.methods[opcode]

        def answer(header: Header, body: Any) -> Answer:
            if self._changes.is_kept(header.node):
                with self._changes.lock:
                    self._changes.wake(header.node)
            return method(header, body) if self._changes.is_ours(header.node) else still(header, body)

        return answer

    def describe(self, node: int) -> str:
        """Return a node's path, for the log."""
        inode = self._changes.hot.get(node)
        if inode is not None and inode.places:
            number, name = next(iter(inode.places))
            folder = self._still.folder_by_number(number)
            above = self._still.describe(folder.node).rstrip("/")
            return f"{above}/{name.decode(errors='backslashreplace')}"
        if inode is not None and inode.linked:
            return f"a file with {inode.link_count} names"
        return self._still.describe(node)

    # Nodes

    # What stat shows

    def _attr(self, node: int) -> Attr:
        inode = self._changes.hot.get(node)
        if inode is None:
            entry, layer = self._still.entry(node)
            return self._still.attr(node, entry, layer)
        if inode.kind == objects.ENTRY_MOUNT:
            return self._attr_of_link(inode)  # one that leads somewhere is a folder of `still`
        if inode.kind == objects.ENTRY_DIRECTORY:
            size, blocks = DIRECTORY_BYTES, 8
        elif inode.kind == objects.ENTRY_SYMLINK:
            size, blocks = len(inode.target), 0
        elif inode.kind == objects.ENTRY_FILE:
            size = inode.size
            blocks = self._block_count(inode)
        else:
            size = blocks = 0
        return Attr(
            inode.number or node,
            size,
            blocks,
            inode.atime_ns,
            inode.mtime_ns,
            inode.ctime_ns,
            _FORMS[inode.kind] | inode.mode,
            inode.link_count,
            inode.uid,
            inode.gid,
            inode.device & 0xFFFFFFFF,
        )

    def _block_count(self, inode: Inode) -> int:
        if inode.patches is None and inode.frozen is None:
            return self._still.block_count(inode.base, self._layer, inode.base.size)
        used = sum(piece[1] - piece[0] for piece in self._changes.pieces(inode, 0, inode.size) if piece[2] != HOLE)
        return (used + 511) // 512

    def _entry_reply(self, node: int) -> EntryReply:
        """Return what the kernel is told of a node; it counts how often."""
        inode = self._changes.hot.get(node)
        if inode is not None:
            inode.lookup_count += 1
        attr = self._attr(node)
        return EntryReply(node, 0, FOREVER_NS, self._valid_ns(node), attr)

    def _valid_ns(self, node: int) -> int:
        return FOREVER_NS if node in self._changes.hot else self._still.valid_ns(node, self._layer)

    def _lookup(self, header: Header, body: fuse.Name) -> Answer:
        name = body.name
        if len(name) > fuse.NAME_BYTES_MAX:
            raise fail(errno.ENAMETOOLONG)
        with self._changes.lock:
            folder = self._changes.folder(header.node)
            node = self._changes.child(folder, name)
            if node is not None:
                inode = self._changes.hot.get(node)
                if inode is not None and inode.kind == objects.ENTRY_MOUNT:
                    return fuse.encode_entry(self._point_reply(inode, folder, name))
                return fuse.encode_entry(self._entry_reply(node))
        return fuse.encode_entry(self._still.find_clones(folder) if name == CLONES_NAME else NOT_THERE)

    def _point_reply(self, inode: Inode, folder: Folder, name: bytes) -> EntryReply:
        """Return what a mount point that is new in this mount leads to, or a link to nowhere."""
        try:
            point = self._still.open_point(inode.node, folder, name, inode.target)
        except DalError:
            attr = self._attr_of_link(inode)
            return EntryReply(inode.node, 0, 0, 0, attr)
        return EntryReply(point.node, 0, FOREVER_NS, FOREVER_NS, self._still.attr(point.node, point.entry, point.layer))

    def _attr_of_link(self, inode: Inode) -> Attr:
        at = inode.mtime_ns
        mode = stat.S_IFLNK | 0o777
        return Attr(inode.number, len(inode.target) + 1, 0, at, at, at, mode, 1, inode.uid, inode.gid, 0)

    def _getattr(self, header: Header, body: fuse.GetAttr) -> Answer:
        with self._changes.lock:
            attr = self._attr(header.node)
            return fuse.encode_attr_reply(self._valid_ns(header.node), attr)

    def _forget(self, header: Header, body: fuse.Forget) -> Answer:
        self._changes.forget(header.node, body.lookup_count)
        return None

    def _forget_all(self, header: Header, body: fuse.BatchForget) -> Answer:
        for node, count in body.nodes:
            self._changes.forget(node, count)
        return None

    def _readlink(self, header: Header, body: fuse.Empty) -> Answer:
        inode = self._changes.hot.get(header.node)
        if inode is None:
            return self._still.methods[fuse.READLINK](header, body)
        if inode.kind == objects.ENTRY_MOUNT:
            return b"#" + inode.target
        if inode.kind != objects.ENTRY_SYMLINK:
            raise fail(errno.EINVAL)
        return inode.target

    # Names

    def _place_for(self, node: int, name: bytes) -> Folder:
        """Return the folder in which a new name may stand."""
        if len(name) > fuse.NAME_BYTES_MAX:
            raise fail(errno.ENAMETOOLONG)
        folder = self._changes.folder(node)
        if folder.number in self._changes.removed_folders:
            raise fail(errno.ENOENT)
        if folder is self._still.root and name == CLONES_NAME:
            raise fail(errno.EEXIST)
        return folder

    def _make(
        self, header: Header, name: bytes, kind: int, mode: int, *, umask: int = 0, device: int = 0, target: bytes = b""
    ) -> Answer:
        with self._changes.lock:
            folder = self._place_for(header.node, name)
            if self._changes.child(folder, name) is not None:
                raise fail(errno.EEXIST)
            at_ns = now_ns()
            parent = self._changes.inode(folder.node)
            gid = header.gid
            mode &= 0o7777
            if parent.mode & stat.S_ISGID:
                gid = parent.gid
                if kind == objects.ENTRY_DIRECTORY:
                    mode |= stat.S_ISGID
            xattrs: dict[bytes, bytes] = {}
            default = parent.xattrs.get(acl.DEFAULT)
            if kind == objects.ENTRY_SYMLINK:
                mode = 0o777
            elif default is not None:
                mode, xattrs = acl.inherit(default, mode, directory=kind == objects.ENTRY_DIRECTORY)
            else:
                mode &= ~umask
            entry = Entry(
                name=name,
                kind=kind,
                mode=mode,
                uid=header.uid,
                gid=gid,
                mtime_ns=at_ns,
                btime_ns=at_ns,
                node=random_node(),
                device=device,
                size=len(target),
                content=target,
            )
            node = self._changes.new_node()
            inode = Inode(node, entry, xattrs=xattrs)
            inode.places = {(folder.number, name)}
            self._changes.hot[node] = inode
            if kind == objects.ENTRY_DIRECTORY:
                self._still.add_folder(node, Folder(folder, name, layer=self._layer, content=b"", ino=entry.node))
            self._changes.set_name(folder, name, node)
            self._changes.entry_count += kind != SOCKET
            self._changes.touch_directory(folder, at_ns)
            return fuse.encode_entry(self._entry_reply(node))

    def _mknod(self, header: Header, body: fuse.MakeNode) -> Answer:
        kind = _KINDS.get(stat.S_IFMT(body.mode) or stat.S_IFREG)
        if kind is None:
            raise fail(errno.EINVAL)
        return self._make(header, body.name, kind, body.mode, umask=body.umask, device=body.device)

    def _mkdir(self, header: Header, body: fuse.MakeDirectory) -> Answer:
        return self._make(header, body.name, objects.ENTRY_DIRECTORY, body.mode, umask=body.umask)

    def _symlink(self, header: Header, body: fuse.Symlink) -> Answer:
        return self._make(header, body.name, objects.ENTRY_SYMLINK, 0o777, target=body.target)

    def _link(self, header: Header, body: fuse.Link) -> Answer:
        with self._changes.lock:
            if not self._changes.is_ours(body.node):
                raise fail(errno.EXDEV)
            folder = self._place_for(header.node, body.name)
            if self._changes.child(folder, body.name) is not None:
                raise fail(errno.EEXIST)
            inode = self._changes.inode(body.node)
            if inode.kind in (objects.ENTRY_DIRECTORY, objects.ENTRY_MOUNT):
                raise fail(errno.EPERM)
            if inode.link_count == 0:
                raise fail(errno.ENOENT)
            at_ns = now_ns()
            if not inode.linked and inode.kind != SOCKET:
                self._changes.touched(inode)
                inode.linked = True
            inode.link_count += 1
            inode.ctime_ns = at_ns
            if inode.places is not None:
                inode.places.add((folder.number, body.name))
            self._changes.set_name(folder, body.name, inode.node)
            self._changes.entry_count += inode.kind != SOCKET
            self._changes.touched(inode)
            self._changes.touch_directory(folder, at_ns)
            return fuse.encode_entry(self._entry_reply(inode.node))

    def _movable(self, node: int) -> Inode:
        """Return the inode behind a name that may be moved or removed; a mount point is not by these means."""
        if not self._changes.is_ours(node):
            raise fail(errno.EBUSY)
        if node not in self._changes.hot:
            entry, _ = self._still.entry(node)
            if entry is not None and entry.kind == objects.ENTRY_MOUNT:
                raise fail(errno.EBUSY)
        inode = self._changes.inode(node)
        if inode.kind == objects.ENTRY_MOUNT:
            raise fail(errno.EBUSY)
        return inode

    def _unlink(self, header: Header, body: fuse.Name) -> Answer:
        with self._changes.lock:
            folder = self._changes.folder(header.node)
            node = self._changes.child(folder, body.name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._movable(node)
            if inode.kind == objects.ENTRY_DIRECTORY:
                raise fail(errno.EISDIR)
            at_ns = now_ns()
            self._changes.drop_name(folder, body.name)
            self._changes.drop_inode(inode, folder, body.name, at_ns)
            self._changes.touch_directory(folder, at_ns)
        return None

    def _rmdir(self, header: Header, body: fuse.Name) -> Answer:
        with self._changes.lock:
            folder = self._changes.folder(header.node)
            node = self._changes.child(folder, body.name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._movable(node)
            if inode.kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.ENOTDIR)
            if not self._changes.is_empty(self._changes.folder(node)):
                raise fail(errno.ENOTEMPTY)
            at_ns = now_ns()
            self._changes.drop_name(folder, body.name)
            self._changes.remove_directory(inode)
            self._changes.touch_directory(folder, at_ns)
        return None

    def _rename(self, header: Header, to: int, name: bytes, new_name: bytes, flags: int) -> Answer:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise fail(errno.EINVAL)
        with self._changes.lock:
            if not self._changes.is_ours(to):
                raise fail(errno.EXDEV)
            source, target = self._changes.folder(header.node), self._place_for(to, new_name)
            node = self._changes.child(source, name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._movable(node)
            there = self._changes.child(target, new_name)
            if there is None and flags & RENAME_EXCHANGE:
                raise fail(errno.ENOENT)
            if there is not None and flags & RENAME_NOREPLACE:
                raise fail(errno.EEXIST)
            if there == node:
                return None
            at_ns = now_ns()
            displaced = self._movable(there) if there is not None else None
            if displaced is not None and not flags & RENAME_EXCHANGE:
                self._check_replaceable(inode, displaced)
                if displaced.kind == objects.ENTRY_DIRECTORY:
                    self._changes.remove_directory(displaced)
                else:
                    self._changes.drop_inode(displaced, target, new_name, at_ns)
            # A name that stays, whatever it leads to, keeps its place in the list: who reads the list now must find it.
            self._changes.move(inode, source, name, target, new_name, at_ns)
            if displaced is None or not flags & RENAME_EXCHANGE:
                self._changes.drop_name(source, name)
            else:
                self._changes.move(displaced, target, new_name, source, name, at_ns)
            self._changes.touch_directory(source, at_ns)
            if target is not source:
                self._changes.touch_directory(target, at_ns)
        return None

    def _check_replaceable(self, inode: Inode, displaced: Inode) -> None:
        if displaced.kind == objects.ENTRY_DIRECTORY:
            if inode.kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.EISDIR)
            if not self._changes.is_empty(self._changes.folder(displaced.node)):
                raise fail(errno.ENOTEMPTY)
        elif inode.kind == objects.ENTRY_DIRECTORY:
            raise fail(errno.ENOTDIR)

    # Attributes

    def _setattr(self, header: Header, body: fuse.SetAttr) -> Answer:
        with self._changes.lock:
            inode = self._changes.inode(header.node)
            at_ns = now_ns()
            valid = body.valid
            if valid & fuse.SET_SIZE:
                self._truncate(inode, body.size, at_ns)
            if valid & fuse.SET_MODE:
                inode.mode = body.mode & 0o7777
                acl.change_mode(inode.xattrs, inode.mode)
            # A request that sets nothing is chown(-1, -1), by whomever, or comes before a write, which says it again.
            sets_nothing = not valid & SETS_SOMETHING
            chowns = (valid & (fuse.SET_UID | fuse.SET_GID) and not valid & fuse.SET_MODE) or (
                sets_nothing and header.uid in (0, inode.uid)
            )
            if valid & fuse.SET_KILL_SUIDGID or chowns:
                _kill_privileges(inode, header)
            if valid & (fuse.SET_UID | fuse.SET_GID):
                inode.uid = body.uid if valid & fuse.SET_UID else inode.uid
                inode.gid = body.gid if valid & fuse.SET_GID else inode.gid
            for flag, now_flag, field, seconds, rest in (
                (fuse.SET_ATIME, fuse.SET_ATIME_NOW, "atime_ns", body.atime_seconds, body.atime_rest),
                (fuse.SET_MTIME, fuse.SET_MTIME_NOW, "mtime_ns", body.mtime_seconds, body.mtime_rest),
            ):
                if valid & (flag | now_flag):
                    setattr(inode, field, at_ns if valid & now_flag else join_time_ns(seconds, rest))
            inode.ctime_ns = at_ns
            self._changes.touched(inode)
            return fuse.encode_attr_reply(FOREVER_NS, self._attr(header.node))

    def _truncate(self, inode: Inode, size: int, at_ns: int) -> None:
        if inode.kind != objects.ENTRY_FILE:
            raise fail(errno.EISDIR if inode.kind == objects.ENTRY_DIRECTORY else errno.EINVAL)
        if size > FILE_BYTES_MAX:
            raise fail(errno.EFBIG)
        inode.edited().truncate(size)
        self._changes.dirty_files[inode.node] = inode
        inode.mtime_ns = at_ns

    def _setxattr(self, header: Header, body: fuse.SetXattr) -> Answer:
        with self._changes.lock:
            _check_xattr_name(body.name)
            inode = self._changes.inode(header.node)
            there = body.name in inode.xattrs
            if body.flags & XATTR_CREATE and there:
                raise fail(errno.EEXIST)
            if body.flags & XATTR_REPLACE and not there:
                raise fail(errno.ENODATA)
            if body.name == acl.ACCESS:
                mode = acl.set_access(inode.xattrs, body.value, inode.mode)
                clears = body.setxattr_flags & fuse.SETXATTR_ACL_KILL_SGID
                inode.mode = mode & ~stat.S_ISGID if clears else mode
            elif body.name == acl.DEFAULT and inode.kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.EACCES)
            else:
                inode.xattrs[body.name] = body.value
            inode.ctime_ns = now_ns()
            self._changes.touched(inode)
        return None

    def _xattrs(self, node: int) -> dict[bytes, bytes]:
        inode = self._changes.hot.get(node)
        if inode is not None:
            return inode.xattrs
        entry, layer = self._still.entry(node)
        return dict(entry_xattrs(self._listings.source, entry)) if entry is not None and layer is not None else {}

    def _getxattr(self, header: Header, body: fuse.GetXattr) -> Answer:
        value = self._xattrs(header.node).get(body.name)
        if value is None:
            _check_xattr_name(body.name)
            raise fail(errno.ENODATA)
        return sized(value, body.size)

    def _listxattr(self, header: Header, body: fuse.ListXattr) -> Answer:
        names = sorted(self._xattrs(header.node))
        return sized(b"".join(name + b"\0" for name in names), body.size)

    def _removexattr(self, header: Header, body: fuse.Name) -> Answer:
        with self._changes.lock:
            inode = self._changes.inode(header.node)
            if inode.xattrs.pop(body.name, None) is None:
                if body.name in (acl.ACCESS, acl.DEFAULT):
                    return None
                _check_xattr_name(body.name)
                raise fail(errno.ENODATA)
            inode.ctime_ns = now_ns()
            self._changes.touched(inode)
        return None

    def _statfs(self, header: Header, body: fuse.Empty) -> Answer:
        disk = self._disk()
        reply = StatfsReply(
            disk.f_blocks,
            disk.f_bfree,
            disk.f_bavail,
            disk.f_files,
            disk.f_ffree,
            disk.f_bsize,
            fuse.NAME_BYTES_MAX,
            disk.f_frsize,
        )
        return fuse.encode_statfs(reply)

    # Bytes

    def _read(self, header: Header, body: fuse.Read) -> Answer:
        with self._changes.lock:
            inode = self._changes.hot.get(header.node)
            if inode is None:
                parts = None
            else:
                if inode.kind != objects.ENTRY_FILE:
                    raise fail(errno.EISDIR)
                base = inode.base
                # Spooled bytes are taken under the lock: a commit that ends gives their places back.
                parts = [
                    (start, end, place, self._changes.spooled(place, end - start) if place >= 0 else b"")
                    for start, end, place in self._changes.pieces(inode, body.offset, body.offset + body.size)
                ]
        if parts is None:
            return self._still.methods[fuse.READ](header, body)
        pieces: list[bytes | memoryview] = []
        for start, end, place, data in parts:
            if place == HOLE:
                pieces += [ZEROS[: min(len(ZEROS), end - at)] for at in range(start, end, len(ZEROS))]
            elif place == BASE:
                pieces += read_pieces(self._listings.source, base, offset=start, size=end - start)
            else:
                pieces.append(data)
        return pieces if len(pieces) <= PIECES_MAX else b"".join(pieces)

    def _write(self, header: Header, body: fuse.Write) -> Answer:
        with self._changes.lock:
            inode = self._changes.inode(header.node)
            if inode.kind != objects.ENTRY_FILE:
                raise fail(errno.EISDIR)
            end = body.offset + len(body.data)
            if end > FILE_BYTES_MAX:
                raise fail(errno.EFBIG)
            if len(body.data):
                place = self._changes.append(inode, body.data)
                inode.edited().put(body.offset, end, place)
                self._changes.dirty_files[inode.node] = inode
            inode.xattrs.pop(CAPABILITY, None)
            if body.write_flags & fuse.WRITE_KILL_SUIDGID:
                _kill_privileges(inode, header)
            inode.mtime_ns = inode.ctime_ns = now_ns()
            self._changes.touched(inode)
        return fuse.encode_size(len(body.data))

    def _fallocate(self, header: Header, body: fuse.Fallocate) -> Answer:
        mode = body.mode
        if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            raise fail(errno.EOPNOTSUPP)
        with self._changes.lock:
            inode = self._changes.inode(header.node)
            if inode.kind != objects.ENTRY_FILE:
                raise fail(errno.EISDIR)
            end = body.offset + body.length
            if end > FILE_BYTES_MAX:
                raise fail(errno.EFBIG)
            if not mode & FALLOC_PUNCH_HOLE and body.length > self._free_bytes():
                # Room is not set aside, but that there is none at all is said at once.
                raise fail(errno.ENOSPC)
            patches = inode.edited()
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                stop = end if not mode & FALLOC_KEEP_SIZE else min(end, patches.size)
                if body.offset < stop:
                    patches.put(body.offset, stop, HOLE)
            elif not mode & FALLOC_KEEP_SIZE and end > patches.size:
                patches.truncate(end)
            self._changes.dirty_files[inode.node] = inode
            if header.uid:
                _kill_privileges(inode, header)
            inode.mtime_ns = inode.ctime_ns = now_ns()
            self._changes.touched(inode)
        return None

    def _free_bytes(self) -> int:
        disk = self._disk()
        return disk.f_bavail * disk.f_frsize

    def _seek(self, header: Header, body: fuse.Seek) -> Answer:
        inode = self._changes.hot.get(header.node)
        if inode is None:
            return self._still.methods[fuse.LSEEK](header, body)
        wants_hole = body.whence == os.SEEK_HOLE
        at, size = body.offset, -1
        while at != size:
            with self._changes.lock:
                size, base = inode.size, inode.base
                if inode.kind != objects.ENTRY_FILE or at >= size:
                    raise fail(errno.ENXIO)
                # Some at a time: a file may have very many, and whoever copies it asks for each.
                pieces = list(islice(self._changes.pieces(inode, at, size), SEEK_PIECES_MAX))
            for start, at, place in pieces:
                if place == BASE:
                    source = self._listings.source
                    found = (
                        find_hole(source, base, start, end=at) if wants_hole else find_data(source, base, start, end=at)
                    )
                    if found is not None and found < at:
                        return fuse.encode_offset(found)
                elif (place == HOLE) == wants_hole:
                    return fuse.encode_offset(start)
        if wants_hole:
            return fuse.encode_offset(size)
        raise fail(errno.ENXIO)

    # Directories

    def _read_directory(self, node: int, body: fuse.Read, *, plus: bool) -> Answer:
        with self._changes.lock:
            folder = self._changes.folder(node)
            overlay = self._changes.known_overlay(folder)
            pieces: list[bytes] = []
            room = body.size
            limit, offset = divmod(body.offset, 1 << LIMIT_BITS)
            if not body.offset and overlay is not None:
                limit = len(overlay.order)
            for piece, inode in self._dirents(folder, overlay, offset, limit, plus):
                room -= len(piece)
                if room < 0:
                    break
                pieces.append(piece)
                if plus and inode is not None:
                    inode.lookup_count += 1
            if overlay is not None:
                overlay.listed_ns = now_ns() if pieces else 0
            return b"".join(pieces)

    def _dirents(
        self, folder: Folder, overlay: Overlay | None, offset: int, limit: int, plus: bool
    ) -> Iterator[tuple[bytes, Inode | None]]:
        """Yield names with the inodes that the kernel is told of by them, as far as they are counted."""
        begun = limit << LIMIT_BITS
        if offset < NEW_OFFSET:
            for dot in self._still.dots(folder, offset, plus, begun=begun):
                yield dot, None
        # Positions of a directory that was settled meanwhile: rather all names twice than one never.
        row = max(0, offset - 2) if offset < NEW_OFFSET else 0
        if (offset < NEW_OFFSET or overlay is None) and folder.content:
            changes = overlay.changes if overlay is not None else {}
            for entry in self._listings.iterate(folder.content, row):
                row += 1
                if overlay is None or entry.name not in changes:
                    node, shown = self._still.resolve_row(folder, row - 1, entry)
                    yield self._dirent(node, entry.name, begun | (row + 2), plus, shown)
                elif changes[entry.name] is not None:
                    node = self._changed_child(folder, overlay, entry.name)
                    yield self._dirent(node, entry.name, begun | (row + 2), plus, None)
        if overlay is None:
            return
        for position in range(max(0, offset - NEW_OFFSET), min(limit, len(overlay.order))):
            name = overlay.order[position]
            if name is not None and overlay.positions.get(name) == position:
                node = self._changed_child(folder, overlay, name)
                yield self._dirent(node, name, begun | (NEW_OFFSET + position + 1), plus, None)

    def _changed_child(self, folder: Folder, overlay: Overlay, name: bytes) -> int:
        node = overlay.changes[name]
        assert node is not None
        return self._changes.revive(folder, overlay, name).node if node == STORED else node

    def _dirent(
        self, node: int, name: bytes, offset: int, plus: bool, entry: Entry | None
    ) -> tuple[bytes, Inode | None]:
        """Return one name; `entry` is what the base says of it."""
        self._changes.wake(node)
        inode = self._changes.hot.get(node)
        kind = inode.kind if inode is not None else entry.kind if entry is not None else SOCKET
        if kind == objects.ENTRY_MOUNT:
            dirent = Dirent(node, offset, stat.S_IFDIR >> 12, name)
            return encode_name(dirent, plus), None
        attr = self._attr(node) if inode is not None else self._still.attr(node, entry, self._layer)
        dirent = Dirent(attr.ino, offset, stat.S_IFMT(attr.mode) >> 12, name)
        if not plus:
            return fuse.encode_dirent(dirent), None
        reply = EntryReply(node, 0, FOREVER_NS, self._valid_ns(node), attr)
        return fuse.encode_dirent_plus(reply, dirent), inode

    # Mount points

    def make_point(self, path: bytes, target: bytes, *, uid: int, gid: int) -> tuple[int, bytes]:
        """Put a mount point at a path; return its parent's node and its name, for the kernel to look again."""
        with self._changes.lock:
            folder, name = self._walk_to(path)
            if self._changes.child(folder, name) is not None:
                raise fail(errno.EEXIST)
            at_ns = now_ns()
            entry = Entry(
                name=name,
                kind=objects.ENTRY_MOUNT,
                mode=0o777,
                uid=uid,
                gid=gid,
                mtime_ns=at_ns,
                btime_ns=at_ns,
                node=random_node(),
                content=target,
            )
            node = self._changes.new_node()
            inode = Inode(node, entry, xattrs={})
            inode.places = {(folder.number, name)}
            self._changes.hot[node] = inode
            self._changes.set_name(folder, name, node)
            self._changes.entry_count += 1
            self._changes.touch_directory(folder, at_ns)
            return folder.node, name

    def why_nowhere(self, target: bytes) -> str:
        """Return why a mount point to an address leads nowhere now, or nothing when it leads there."""
        try:
            self._still.follow(target)
        except DalError as error:
            return str(error)
        return ""

    def remove_point(self, path: bytes) -> tuple[int, bytes]:
        """Take a mount point away; what it leads to stays."""
        with self._changes.lock:
            folder, name = self._walk_to(path)
            node = self._changes.child(folder, name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._changes.hot.get(node)
            base = self._listings.find(folder.content, name) if folder.content else None
            is_point = (
                inode.kind == objects.ENTRY_MOUNT
                if inode is not None
                else (base is not None and base[1].kind == objects.ENTRY_MOUNT)
            )
            if not is_point:
                raise fail(errno.EINVAL)
            self._changes.drop_name(folder, name)
            self._changes.hot.pop(node, None)
            self._changes.entry_count -= 1
            self._changes.touch_directory(folder, now_ns())
            return folder.node, name

    def _walk_to(self, path: bytes) -> tuple[Folder, bytes]:
        *above, name = [part for part in path.split(b"/") if part] or [b""]
        if not name or len(name) > fuse.NAME_BYTES_MAX:
            raise fail(errno.EINVAL)
        folder = self._still.root
        for part in above:
            node = self._changes.child(folder, part)
            if node is None:
                raise fail(errno.ENOENT)
            if not self._changes.is_ours(node):
                raise fail(errno.EROFS)
            folder = self._changes.folder(node)
        return folder, name


def _kill_privileges(inode: Inode, header: Header) -> None:
    """Clear what lets a program run with others' rights: its bytes or its owner changed."""
    inode.xattrs.pop(CAPABILITY, None)
    if inode.kind != objects.ENTRY_DIRECTORY:
        inode.mode &= ~stat.S_ISUID
        if inode.mode & stat.S_IXGRP or (header.uid and header.gid != inode.gid):
            inode.mode &= ~stat.S_ISGID


def _check_xattr_name(name: bytes) -> None:
    """Refuse names of attributes that no Linux file system keeps."""
    if name in (acl.ACCESS, acl.DEFAULT):
        return
    namespace, dot, rest = name.partition(b".")
    if namespace + dot not in XATTR_NAMESPACES:
        raise fail(errno.EOPNOTSUPP)
    if not rest:
        raise fail(errno.EINVAL)
