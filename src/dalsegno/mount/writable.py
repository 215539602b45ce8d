"""A native volume as a file system that is written: what changed lies over the tree as it was when the mount began.

Nodes of files that were there are those of `ReadOnly` (folder, row); what is new has numbers from NEW_NODE on. Changed
files are Inodes, changed names are Overlays, written bytes wait in the Spool. A commit takes all of it at one moment,
under the lock; what it then stores nobody changes, since new writes go elsewhere; so it takes its time without it.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dalsegno.chunks.cut import Cutter
from dalsegno.formats import fuse, objects
from dalsegno.formats.fuse import Attr, Dirent, EntryReply, Header, StatfsReply
from dalsegno.formats.objects import Entry
from dalsegno.host.attributes import OwnerNames
from dalsegno.mount import acl
from dalsegno.mount.inodes import SOCKET, UNKNOWN_TIME, Inode, Overlay
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
from dalsegno.mount.spool import Spool
from dalsegno.pool.contract import Sink
from dalsegno.terms.errors import DalError
from dalsegno.trees.edit import BASE, HOLE, Patches, edit_content, edit_directory
from dalsegno.trees.extents import find_data, find_hole
from dalsegno.trees.read import entry_xattrs, links_key
from dalsegno.world.chance import random_node
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import new_lock

NEW_NODE: Final = 1 << 62
NEW_OFFSET: Final = 1 << 40
"""Where in a directory the positions of new names begin, behind all rows."""
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 0x10
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
LASTING: Final = 1 << 60
"""Places from here on are in the lasting spool."""
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


def fail(code: int) -> OSError:
    """Return the error that the caller of a system call gets."""
    return OSError(code, os.strerror(code))


@dataclass(slots=True)
class FileJob:
    """A file whose bytes a commit stores: as it was stored before, and what was written over it."""

    inode: Inode
    base: Entry
    patches: Patches
    content_kind: int = 0
    content: bytes = b""


@dataclass(slots=True)
class Draft:
    """An entry that a commit stores; its content comes from a job, or from a directory that is stored before it."""

    entry: Entry
    job: FileJob | None = None
    folder: int = 0


@dataclass(slots=True)
class DirectoryJob:
    """A directory whose changed names a commit stores."""

    number: int
    stored: bytes
    drafts: dict[bytes, Draft | None]
    depth: int
    result: bytes = b""


@dataclass(slots=True)
class Snapshot:
    """Everything that one commit stores, taken at one moment."""

    files: list[FileJob]
    directories: list[DirectoryJob]
    links: DirectoryJob | None
    linked: dict[int, Inode]
    root: Entry
    entry_count: int
    total_bytes: int
    spool_end: int
    began_ns: int


class Writable:
    """A volume's tree, written. All that is not in it (clones, mount points) is answered by `still`."""

    def __init__(
        self, still: ReadOnly, *, spool: Spool, lasting: Spool, disk: Callable[[], os.statvfs_result]
    ) -> None:
        layer = still.root.layer
        assert layer is not None
        self.flags = WRITABLE_FLAGS
        self.dirty_since_ns = 0
        """When the first change was made that no commit has; 0 when there is none."""
        self.change_count = 0
        """How many changes were made since the mount began."""
        self._still = still
        self._layer = layer
        self._listings = layer.listings
        self._spool = spool
        self._lasting = lasting
        """The bytes of files that have lost their last name and are still open: no commit empties it."""
        self._disk = disk
        self._lock = new_lock()
        self._owners = OwnerNames()
        self._hot: dict[int, Inode] = {}
        self._overlays: dict[int, Overlay] = {}
        self._links_stored = layer.picture.links
        self._dirty_links: dict[int, Inode] = {}
        self._dirty_files: dict[int, Inode] = {}
        self._orphans: dict[int, Inode] = {}
        self._removed_folders: set[int] = set()
        self._next_node = NEW_NODE
        self._entry_count = layer.picture.entry_count
        self._total_bytes = layer.picture.total_bytes
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
            return method(header, body) if self.is_ours(header.node) else still(header, body)

        return answer

    def describe(self, node: int) -> str:
        """Return a node's path, for the log."""
        inode = self._hot.get(node)
        if inode is not None and inode.places:
            number, name = next(iter(inode.places))
            folder = self._still.folder_by_number(number)
            above = self._still.describe(folder.node).rstrip("/")
            return f"{above}/{name.decode(errors='backslashreplace')}"
        return self._still.describe(node)

    # Nodes

    def is_ours(self, node: int) -> bool:
        """Tell whether a node belongs to the tree that is written."""
        folder = self._still.known_folder(node)
        if folder is not None:
            return folder.layer is self._layer
        if node in self._hot or node >= NEW_NODE:
            return True
        return self._still.place(node)[0].layer is self._layer

    def _folder(self, node: int) -> Folder:
        folder = self._still.known_folder(node)
        if folder is None:
            if node in self._hot and self._hot[node].kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.ENOTDIR)
            folder = self._still.folder(node)
        return folder

    def _overlay(self, folder: Folder) -> Overlay:
        overlay = self._overlays.get(folder.number)
        if overlay is None:
            overlay = self._overlays[folder.number] = Overlay(folder.content)
        return overlay

    def _child(self, folder: Folder, name: bytes) -> int | None:
        """Return the node that a name leads to, or None."""
        overlay = self._overlays.get(folder.number)
        if overlay is not None and name in overlay.changes:
            return overlay.changes[name]
        return self._base_child(folder, name)

    def _base_child(self, folder: Folder, name: bytes) -> int | None:
        if not folder.content:
            return None
        found = self._listings.find(folder.content, name)
        return None if found is None else self._still.resolve_row(folder, *found)[0]

    def _inode(self, node: int) -> Inode:
        """Return a node as something that can be changed."""
        inode = self._hot.get(node)
        if inode is not None:
            return inode
        if node >= NEW_NODE:
            raise fail(errno.ESTALE)
        entry, layer = self._still.entry(node)
        if entry is None or layer is not self._layer or entry.kind == objects.ENTRY_MOUNT:
            raise fail(errno.EROFS)
        xattrs = dict(entry_xattrs(self._listings.source, entry))
        inode = Inode(node, entry, xattrs=xattrs)
        if node != fuse.ROOT_NODE:
            above, _ = self._still.place(node)
            if self._layer.links is not None and above is self._layer.links:
                inode.linked, inode.places = True, None
                inode.link_count = self._layer.link_count(entry.node)
            else:
                inode.places = {(above.number, entry.name)}
        self._hot[node] = inode
        return inode

    def _touched(self, inode: Inode) -> None:
        """Remember that the next commit must store an inode's entry."""
        self._changed()
        if inode.link_count == 0:
            return
        if inode.linked:
            self._dirty_links[inode.node] = inode
        elif inode.kind == objects.ENTRY_DIRECTORY:
            folder = self._folder(inode.node)
            if folder.parent is not None and folder.number not in self._removed_folders:
                self._overlay(folder.parent).dirty.add(folder.name)
        else:
            for number, name in inode.places or ():
                self._overlay(self._still.folder_by_number(number)).dirty.add(name)

    def _changed(self) -> None:
        self.change_count += 1
        if not self.dirty_since_ns:
            self.dirty_since_ns = now_ns() or 1

    def _touch_directory(self, folder: Folder, at_ns: int) -> None:
        inode = self._inode(folder.node)
        inode.mtime_ns = inode.ctime_ns = at_ns
        self._touched(inode)

    # What stat shows

    def _attr(self, node: int) -> Attr:
        inode = self._hot.get(node)
        if inode is None:
            entry, layer = self._still.entry(node)
            return self._still.attr(node, entry, layer)
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
            inode.mtime_ns if inode.atime_ns == UNKNOWN_TIME else inode.atime_ns,
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
        used = sum(piece[1] - piece[0] for piece in self._pieces(inode, 0, inode.size) if piece[2] != HOLE)
        return (used + 511) // 512

    def _entry_reply(self, node: int) -> EntryReply:
        return EntryReply(node, 0, FOREVER_NS, FOREVER_NS, self._attr(node))

    def _lookup(self, header: Header, body: fuse.Name) -> Answer:
        name = body.name
        if len(name) > fuse.NAME_BYTES_MAX:
            raise fail(errno.ENAMETOOLONG)
        with self._lock:
            folder = self._folder(header.node)
            node = self._child(folder, name)
            if node is not None:
                inode = self._hot.get(node)
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
        with self._lock:
            return fuse.encode_attr_reply(FOREVER_NS, self._attr(header.node))

    def _forget(self, header: Header, body: fuse.Forget) -> Answer:
        self._forget_node(header.node)
        return None

    def _forget_all(self, header: Header, body: fuse.BatchForget) -> Answer:
        for node, _ in body.nodes:
            self._forget_node(node)
        return None

    def _forget_node(self, node: int) -> None:
        """Drop a file without names: the kernel forgets it when its last user has closed it."""
        if node in self._orphans:
            with self._lock:
                self._orphans.pop(node, None)
                self._hot.pop(node, None)
                self._dirty_files.pop(node, None)
                if not self._orphans and self._lasting.tail:
                    self._lasting.free(self._lasting.tail)

    def _readlink(self, header: Header, body: fuse.Empty) -> Answer:
        inode = self._hot.get(header.node)
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
        folder = self._folder(node)
        if folder.number in self._removed_folders:
            raise fail(errno.ENOENT)
        if folder is self._still.root and name == CLONES_NAME:
            raise fail(errno.EEXIST)
        return folder

    def _make(
        self, header: Header, name: bytes, kind: int, mode: int, *, umask: int = 0, device: int = 0, target: bytes = b""
    ) -> Answer:
        with self._lock:
            folder = self._place_for(header.node, name)
            if self._child(folder, name) is not None:
                raise fail(errno.EEXIST)
            at_ns = now_ns()
            parent = self._inode(folder.node)
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
            node = self._next_node
            self._next_node += 1
            inode = Inode(node, entry, xattrs=xattrs)
            inode.places = {(folder.number, name)}
            self._hot[node] = inode
            if kind == objects.ENTRY_DIRECTORY:
                self._still.add_folder(node, Folder(folder, name, layer=self._layer, content=b""))
            self._overlay(folder).set(name, node)
            self._entry_count += kind != SOCKET
            self._touch_directory(folder, at_ns)
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
        with self._lock:
            if not self.is_ours(body.node):
                raise fail(errno.EXDEV)
            folder = self._place_for(header.node, body.name)
            if self._child(folder, body.name) is not None:
                raise fail(errno.EEXIST)
            inode = self._inode(body.node)
            if inode.kind in (objects.ENTRY_DIRECTORY, objects.ENTRY_MOUNT):
                raise fail(errno.EPERM)
            if inode.link_count == 0:
                raise fail(errno.ENOENT)
            at_ns = now_ns()
            if not inode.linked and inode.kind != SOCKET:
                self._touched(inode)
                inode.linked = True
            inode.link_count += 1
            inode.ctime_ns = at_ns
            if inode.places is not None:
                inode.places.add((folder.number, body.name))
            self._overlay(folder).set(body.name, inode.node)
            self._entry_count += 1
            self._touched(inode)
            self._touch_directory(folder, at_ns)
            return fuse.encode_entry(self._entry_reply(inode.node))

    def _movable(self, node: int) -> Inode:
        """Return the inode behind a name that may be moved or removed; a mount point is not by these means."""
        if not self.is_ours(node):
            raise fail(errno.EBUSY)
        if node not in self._hot:
            entry, _ = self._still.entry(node)
            if entry is not None and entry.kind == objects.ENTRY_MOUNT:
                raise fail(errno.EBUSY)
        inode = self._inode(node)
        if inode.kind == objects.ENTRY_MOUNT:
            raise fail(errno.EBUSY)
        return inode

    def _drop_name(self, folder: Folder, name: bytes) -> None:
        self._overlay(folder).remove(name, in_base=self._base_child(folder, name) is not None)

    def _drop_inode(self, inode: Inode, folder: Folder, name: bytes, at_ns: int) -> None:
        """Take one name from a file, and with the last one the file."""
        inode.ctime_ns = at_ns
        inode.link_count -= 1
        self._entry_count -= inode.kind != SOCKET
        if inode.places is not None:
            inode.places.discard((folder.number, name))
        if inode.linked:
            self._dirty_links[inode.node] = inode
            if inode.link_count == 1 and inode.places is not None:
                inode.linked = False
                self._touched(inode)
        if inode.link_count == 0:
            self._total_bytes -= inode.counted_bytes
            inode.counted_bytes = 0
            self._orphans[inode.node] = inode

    def _unlink(self, header: Header, body: fuse.Name) -> Answer:
        with self._lock:
            folder = self._folder(header.node)
            node = self._child(folder, body.name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._movable(node)
            if inode.kind == objects.ENTRY_DIRECTORY:
                raise fail(errno.EISDIR)
            at_ns = now_ns()
            self._drop_name(folder, body.name)
            self._drop_inode(inode, folder, body.name, at_ns)
            self._touch_directory(folder, at_ns)
        return None

    def _is_empty(self, folder: Folder) -> bool:
        overlay = self._overlays.get(folder.number)
        if overlay is None:
            return not folder.content or self._listings.count(folder.content) == 0
        if overlay.positions:
            return False
        if not folder.content:
            return True
        return all(entry.name in overlay.changes for entry in self._listings.iterate(folder.content, 0))

    def _remove_directory(self, inode: Inode) -> None:
        folder = self._folder(inode.node)
        inode.link_count = 0
        self._removed_folders.add(folder.number)
        self._overlays.pop(folder.number, None)
        self._entry_count -= 1
        self._orphans[inode.node] = inode

    def _rmdir(self, header: Header, body: fuse.Name) -> Answer:
        with self._lock:
            folder = self._folder(header.node)
            node = self._child(folder, body.name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._movable(node)
            if inode.kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.ENOTDIR)
            if not self._is_empty(self._folder(node)):
                raise fail(errno.ENOTEMPTY)
            at_ns = now_ns()
            self._drop_name(folder, body.name)
            self._remove_directory(inode)
            self._touch_directory(folder, at_ns)
        return None

    def _rename(self, header: Header, to: int, name: bytes, new_name: bytes, flags: int) -> Answer:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise fail(errno.EINVAL)
        with self._lock:
            if not self.is_ours(to):
                raise fail(errno.EXDEV)
            source, target = self._folder(header.node), self._place_for(to, new_name)
            node = self._child(source, name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._movable(node)
            there = self._child(target, new_name)
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
                self._drop_name(target, new_name)
                if displaced.kind == objects.ENTRY_DIRECTORY:
                    self._remove_directory(displaced)
                else:
                    self._drop_inode(displaced, target, new_name, at_ns)
            self._drop_name(source, name)
            self._move(inode, source, name, target, new_name, at_ns)
            if displaced is not None and flags & RENAME_EXCHANGE:
                self._move(displaced, target, new_name, source, name, at_ns)
            self._touch_directory(source, at_ns)
            if target is not source:
                self._touch_directory(target, at_ns)
        return None

    def _check_replaceable(self, inode: Inode, displaced: Inode) -> None:
        if displaced.kind == objects.ENTRY_DIRECTORY:
            if inode.kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.EISDIR)
            if not self._is_empty(self._folder(displaced.node)):
                raise fail(errno.ENOTEMPTY)
        elif inode.kind == objects.ENTRY_DIRECTORY:
            raise fail(errno.ENOTDIR)

    def _move(self, inode: Inode, source: Folder, name: bytes, target: Folder, new_name: bytes, at_ns: int) -> None:
        """Let a name at `target` lead to an inode whose name at `source` was taken away."""
        self._overlay(target).set(new_name, inode.node)
        if inode.places is not None:
            inode.places.discard((source.number, name))
            inode.places.add((target.number, new_name))
        if inode.kind == objects.ENTRY_DIRECTORY:
            folder = self._folder(inode.node)
            folder.parent, folder.name = target, new_name
        inode.ctime_ns = at_ns
        self._changed()

    # Attributes

    def _setattr(self, header: Header, body: fuse.SetAttr) -> Answer:
        with self._lock:
            inode = self._inode(header.node)
            at_ns = now_ns()
            valid = body.valid
            if valid & fuse.SET_SIZE:
                self._truncate(inode, body.size, at_ns)
            if valid & fuse.SET_MODE:
                inode.mode = body.mode & 0o7777
                acl.change_mode(inode.xattrs, inode.mode)
            if valid & (fuse.SET_UID | fuse.SET_GID):
                inode.uid = body.uid if valid & fuse.SET_UID else inode.uid
                inode.gid = body.gid if valid & fuse.SET_GID else inode.gid
            # A request that sets nothing is chown(-1, -1), which clears them too.
            if valid & fuse.SET_KILL_SUIDGID or (
                (valid & (fuse.SET_UID | fuse.SET_GID) or not valid & SETS_SOMETHING) and not valid & fuse.SET_MODE
            ):
                _kill_privileges(inode)
            for flag, now_flag, field, seconds, rest in (
                (fuse.SET_ATIME, fuse.SET_ATIME_NOW, "atime_ns", body.atime_seconds, body.atime_rest),
                (fuse.SET_MTIME, fuse.SET_MTIME_NOW, "mtime_ns", body.mtime_seconds, body.mtime_rest),
            ):
                if valid & (flag | now_flag):
                    setattr(inode, field, at_ns if valid & now_flag else seconds * fuse.SECOND_NS + rest)
            inode.ctime_ns = at_ns
            self._touched(inode)
            return fuse.encode_attr_reply(FOREVER_NS, self._attr(header.node))

    def _truncate(self, inode: Inode, size: int, at_ns: int) -> None:
        if inode.kind != objects.ENTRY_FILE:
            raise fail(errno.EISDIR if inode.kind == objects.ENTRY_DIRECTORY else errno.EINVAL)
        if size > FILE_BYTES_MAX:
            raise fail(errno.EFBIG)
        inode.edited().truncate(size)
        self._dirty_files[inode.node] = inode
        inode.mtime_ns = at_ns

    def _setxattr(self, header: Header, body: fuse.SetXattr) -> Answer:
        with self._lock:
            inode = self._inode(header.node)
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
            self._touched(inode)
        return None

    def _xattrs(self, node: int) -> dict[bytes, bytes]:
        inode = self._hot.get(node)
        if inode is not None:
            return inode.xattrs
        entry, layer = self._still.entry(node)
        return dict(entry_xattrs(self._listings.source, entry)) if entry is not None and layer is not None else {}

    def _getxattr(self, header: Header, body: fuse.GetXattr) -> Answer:
        value = self._xattrs(header.node).get(body.name)
        if value is None:
            raise fail(errno.ENODATA)
        return sized(value, body.size)

    def _listxattr(self, header: Header, body: fuse.ListXattr) -> Answer:
        names = sorted(self._xattrs(header.node))
        return sized(b"".join(name + b"\0" for name in names), body.size)

    def _removexattr(self, header: Header, body: fuse.Name) -> Answer:
        with self._lock:
            inode = self._inode(header.node)
            if inode.xattrs.pop(body.name, None) is None and body.name not in (acl.ACCESS, acl.DEFAULT):
                raise fail(errno.ENODATA)
            inode.ctime_ns = now_ns()
            self._touched(inode)
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

    def _pieces(self, inode: Inode, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, place) of a file's bytes: written now, over what is being stored, over the base."""
        upper = inode.patches
        lower = inode.frozen
        if upper is None:
            upper, lower = lower, None
        if upper is None:
            if start < min(end, inode.base.size):
                yield start, min(end, inode.base.size), BASE
            return
        for piece in upper.pieces(start, end):
            if piece.place != BASE or lower is None:
                yield piece.start, piece.end, piece.place
                continue
            for under in lower.pieces(piece.start, piece.end):
                yield under.start, under.end, under.place

    def _spooled(self, place: int, length: int) -> bytes:
        return (
            self._lasting.read(place - LASTING, length) if place >= LASTING else self._spool.read(place, length)
        )

    def _read(self, header: Header, body: fuse.Read) -> Answer:
        with self._lock:
            inode = self._hot.get(header.node)
            if inode is None:
                parts = None
            else:
                if inode.kind != objects.ENTRY_FILE:
                    raise fail(errno.EISDIR)
                base = inode.base
                # Spooled bytes are taken under the lock: a commit that ends gives their places back.
                parts = [
                    (start, end, place, self._spooled(place, end - start) if place >= 0 else b"")
                    for start, end, place in self._pieces(inode, body.offset, body.offset + body.size)
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
        with self._lock:
            inode = self._inode(header.node)
            if inode.kind != objects.ENTRY_FILE:
                raise fail(errno.EISDIR)
            end = body.offset + len(body.data)
            if end > FILE_BYTES_MAX:
                raise fail(errno.EFBIG)
            if len(body.data):
                if inode.link_count:
                    place = self._spool.append(body.data)
                else:
                    place = self._lasting.append(body.data) + LASTING
                inode.edited().put(body.offset, end, place)
                self._dirty_files[inode.node] = inode
            inode.xattrs.pop(CAPABILITY, None)
            if body.write_flags & fuse.WRITE_KILL_SUIDGID:
                _kill_privileges(inode)
            inode.mtime_ns = inode.ctime_ns = now_ns()
            self._touched(inode)
        return fuse.encode_size(len(body.data))

    def _fallocate(self, header: Header, body: fuse.Fallocate) -> Answer:
        mode = body.mode
        if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            raise fail(errno.EOPNOTSUPP)
        with self._lock:
            inode = self._inode(header.node)
            if inode.kind != objects.ENTRY_FILE:
                raise fail(errno.EISDIR)
            end = body.offset + body.length
            if end > FILE_BYTES_MAX:
                raise fail(errno.EFBIG)
            patches = inode.edited()
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                stop = end if not mode & FALLOC_KEEP_SIZE else min(end, patches.size)
                if body.offset < stop:
                    patches.put(body.offset, stop, HOLE)
            elif not mode & FALLOC_KEEP_SIZE and end > patches.size:
                patches.truncate(end)
            self._dirty_files[inode.node] = inode
            inode.mtime_ns = inode.ctime_ns = now_ns()
            self._touched(inode)
        return None

    def _seek(self, header: Header, body: fuse.Seek) -> Answer:
        inode = self._hot.get(header.node)
        if inode is None:
            return self._still.methods[fuse.LSEEK](header, body)
        with self._lock:
            size, base = inode.size, inode.base
            if inode.kind != objects.ENTRY_FILE or body.offset >= size:
                raise fail(errno.ENXIO)
            pieces = list(self._pieces(inode, body.offset, size))
        wants_hole = body.whence == os.SEEK_HOLE
        for start, end, place in pieces:
            if place == BASE:
                source = self._listings.source
                found = find_hole(source, base, start) if wants_hole else find_data(source, base, start)
                if found is not None and found < end:
                    return fuse.encode_offset(found)
            elif (place == HOLE) == wants_hole:
                return fuse.encode_offset(start)
        if wants_hole:
            return fuse.encode_offset(size)
        raise fail(errno.ENXIO)

    # Directories

    def _read_directory(self, node: int, body: fuse.Read, *, plus: bool) -> Answer:
        with self._lock:
            folder = self._folder(node)
            overlay = self._overlays.get(folder.number)
            pieces: list[bytes] = []
            room = body.size
            for piece in self._dirents(folder, overlay, body.offset, plus):
                room -= len(piece)
                if room < 0:
                    break
                pieces.append(piece)
            return b"".join(pieces)

    def _dirents(self, folder: Folder, overlay: Overlay | None, offset: int, plus: bool) -> Iterator[bytes]:
        if offset < NEW_OFFSET:
            yield from self._still.dots(folder, offset, plus)
            row = max(0, offset - 2)
            changes = overlay.changes if overlay is not None else {}
            for entry in self._listings.iterate(folder.content, row) if folder.content else ():
                if entry.name not in changes:
                    node, shown = self._still.resolve_row(folder, row, entry)
                    yield self._dirent(node, entry.name, row + 3, plus, shown)
                row += 1
        if overlay is None:
            return
        for position in range(max(0, offset - NEW_OFFSET), len(overlay.order)):
            name = overlay.order[position]
            if name is not None and overlay.positions.get(name) == position:
                child = overlay.changes[name]
                assert child is not None
                yield self._dirent(child, name, NEW_OFFSET + position + 1, plus, None)

    def _dirent(self, node: int, name: bytes, offset: int, plus: bool, entry: Entry | None) -> bytes:
        """Return one name; `entry` is what the base says of it."""
        inode = self._hot.get(node)
        kind = inode.kind if inode is not None else entry.kind if entry is not None else SOCKET
        if kind == objects.ENTRY_MOUNT:
            dirent = Dirent(node, offset, stat.S_IFDIR >> 12, name)
            return encode_name(dirent, plus)
        attr = self._attr(node) if inode is not None else self._still.attr(node, entry, self._layer)
        dirent = Dirent(attr.ino, offset, stat.S_IFMT(attr.mode) >> 12, name)
        if not plus:
            return fuse.encode_dirent(dirent)
        reply = EntryReply(node, 0, FOREVER_NS, FOREVER_NS, attr)
        return fuse.encode_dirent_plus(reply, dirent)

    # Mount points

    def make_point(self, path: bytes, target: bytes, *, uid: int, gid: int) -> tuple[int, bytes]:
        """Put a mount point at a path; return its parent's node and its name, for the kernel to look again."""
        with self._lock:
            folder, name = self._walk_to(path)
            if self._child(folder, name) is not None:
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
            node = self._next_node
            self._next_node += 1
            inode = Inode(node, entry, xattrs={})
            inode.places = {(folder.number, name)}
            self._hot[node] = inode
            self._overlay(folder).set(name, node)
            self._entry_count += 1
            self._touch_directory(folder, at_ns)
            return folder.node, name

    def remove_point(self, path: bytes) -> tuple[int, bytes]:
        """Take a mount point away; what it leads to stays."""
        with self._lock:
            folder, name = self._walk_to(path)
            node = self._child(folder, name)
            if node is None:
                raise fail(errno.ENOENT)
            inode = self._hot.get(node)
            base = self._listings.find(folder.content, name) if folder.content else None
            is_point = inode.kind == objects.ENTRY_MOUNT if inode is not None else (
                base is not None and base[1].kind == objects.ENTRY_MOUNT
            )
            if not is_point:
                raise fail(errno.EINVAL)
            self._drop_name(folder, name)
            self._hot.pop(node, None)
            self._entry_count -= 1
            self._touch_directory(folder, now_ns())
            return folder.node, name

    def _walk_to(self, path: bytes) -> tuple[Folder, bytes]:
        *above, name = [part for part in path.split(b"/") if part] or [b""]
        if not name or len(name) > fuse.NAME_BYTES_MAX:
            raise fail(errno.EINVAL)
        folder = self._still.root
        for part in above:
            node = self._child(folder, part)
            if node is None:
                raise fail(errno.ENOENT)
            if not self.is_ours(node):
                raise fail(errno.EROFS)
            folder = self._folder(node)
        return folder, name

    # Commits

    @property
    def spooled_bytes(self) -> int:
        """How many written bytes wait for a commit."""
        return self._spool.held_bytes

    def freeze(self) -> Snapshot | None:
        """Take everything that changed, at this moment; None when nothing did. `thaw` or `restore` must follow."""
        with self._lock:
            if not self.dirty_since_ns:
                return None
            began_ns = self.dirty_since_ns
            self._save_orphans()
            files: dict[int, FileJob] = {}
            for node, inode in self._dirty_files.items():
                if inode.link_count == 0 or inode.patches is None:
                    continue
                assert inode.frozen is None
                inode.frozen, inode.patches = inode.patches, None
                self._total_bytes += inode.frozen.size - inode.counted_bytes
                inode.counted_bytes = inode.frozen.size
                files[node] = FileJob(inode, inode.base, inode.frozen)
                self._touched(inode)
            self._dirty_files = {node: inode for node, inode in self._dirty_files.items() if inode.link_count == 0}
            directories = self._freeze_directories(files)
            snapshot = Snapshot(
                files=list(files.values()),
                directories=directories,
                links=self._freeze_links(files),
                linked=self._dirty_links,
                root=self._draft_root(),
                entry_count=self._entry_count,
                total_bytes=self._total_bytes,
                spool_end=self._spool.tail,
                began_ns=began_ns,
            )
            self._dirty_links = {}
            self.dirty_since_ns = 0
            return snapshot

    def _save_orphans(self) -> None:
        """Move what files without names wrote to where no commit empties it."""
        for inode in self._orphans.values():
            if inode.patches is None:
                continue
            for start, end, place in list(inode.patches.places()):
                if place < LASTING:
                    at = self._lasting.append(self._spool.read(place, end - start))
                    inode.patches.put(start, end, at + LASTING)

    def _freeze_directories(self, files: dict[int, FileJob]) -> list[DirectoryJob]:
        pending = [number for number, overlay in self._overlays.items() if overlay.dirty]
        depths: dict[int, int] = {}
        for number in pending:
            chain = []
            folder: Folder | None = self._still.folder_by_number(number)
            while folder is not None and folder.number not in depths:
                chain.append(folder)
                if folder.parent is not None:
                    self._overlay(folder.parent).dirty.add(folder.name)
                folder = folder.parent
            depth = depths[folder.number] if folder is not None else -1
            for each in reversed(chain):
                depth += 1
                depths[each.number] = depth
        jobs = []
        for number, depth in sorted(depths.items(), key=lambda item: -item[1]):
            folder = self._still.folder_by_number(number)
            overlay = self._overlay(folder)
            drafts = {name: self._draft(folder, name, files, depths) for name in overlay.dirty}
            overlay.dirty = set()
            jobs.append(DirectoryJob(number, overlay.stored, drafts, depth))
        return jobs

    def _draft(
        self, folder: Folder, name: bytes, files: dict[int, FileJob], stored: Mapping[int, int]
    ) -> Draft | None:
        node = self._child(folder, name)
        if node is None:
            return None
        inode = self._hot.get(node)
        if inode is None:
            base = self._listings.find(folder.content, name)
            assert base is not None
            if base[1].kind != objects.ENTRY_DIRECTORY:
                return Draft(base[1])
            return self._draft_directory(base[1], node, stored)
        if inode.kind == SOCKET:
            return None
        if inode.linked:
            return Draft(Entry(name=name, kind=objects.ENTRY_LINK, link=inode.number))
        entry = self._entry_of(inode, name)
        if inode.kind == objects.ENTRY_DIRECTORY:
            return self._draft_directory(entry, node, stored)
        return Draft(entry, job=files.get(node))

    def _draft_directory(self, entry: Entry, node: int, stored: Mapping[int, int]) -> Draft:
        folder = self._folder(node)
        entry = msgspec.structs.replace(entry, content_kind=objects.CONTENT_DIRECTORY, name=folder.name)
        if folder.number in stored:
            return Draft(entry, folder=folder.number)
        overlay = self._overlays.get(folder.number)
        content = overlay.stored if overlay is not None else folder.content
        # A directory that was made and never written into is stored by its own job, without changes.
        return Draft(msgspec.structs.replace(entry, content=content), folder=0 if content else folder.number)

    def _entry_of(self, inode: Inode, name: bytes) -> Entry:
        return inode.entry(
            name,
            owner=self._owners.user(inode.uid),
            group=self._owners.group(inode.gid),
            xattrs=b"\x01" + objects.encode_xattrs(list(inode.xattrs.items())) if inode.xattrs else b"",
        )

    def _draft_root(self) -> Entry:
        inode = self._hot.get(fuse.ROOT_NODE)
        return self._entry_of(inode, b"") if inode is not None else self._layer.picture.root

    def _freeze_links(self, files: dict[int, FileJob]) -> DirectoryJob | None:
        if not self._dirty_links:
            return None
        drafts: dict[bytes, Draft | None] = {}
        for node, inode in self._dirty_links.items():
            key = links_key(inode.number)
            if inode.linked and inode.link_count:
                drafts[key] = Draft(self._entry_of(inode, key), job=files.get(node))
            else:
                drafts[key] = None
        return DirectoryJob(0, self._links_stored, drafts, 0)

    def store(self, snapshot: Snapshot, sink: Sink, cutter: Cutter) -> tuple[Entry, bytes]:
        """Store what was frozen; return the root and the id of the table of links. Takes its time; holds no lock."""
        source = self._listings.source
        for job in snapshot.files:
            base, patches = job.base, job.patches

            def read(offset: int, length: int, base: Entry = base, patches: Patches = patches) -> bytes:
                return self._frozen_bytes(base, patches, offset, length)

            job.content_kind, job.content = edit_content(source, sink, cutter, base, patches, read)
        results: dict[int, bytes] = {}
        for directory in snapshot.directories:
            self._store_directory(directory, sink, results)
        links = self._links_stored
        if snapshot.links is not None:
            self._store_directory(snapshot.links, sink, results)
            links = snapshot.links.result
            if links == edit_directory(source, sink, b"", {}):
                links = snapshot.links.result = b""
        content = results.get(self._still.root.number) or self._overlay(self._still.root).stored
        root = msgspec.structs.replace(
            _settle_xattrs(snapshot.root, sink),
            content_kind=objects.CONTENT_DIRECTORY,
            content=content or edit_directory(source, sink, b"", {}),
        )
        return root, links

    def thaw(self, snapshot: Snapshot) -> None:
        """Let what a commit stored be the base of what comes."""
        with self._lock:
            for job in snapshot.files:
                inode = job.inode
                inode.base = msgspec.structs.replace(
                    inode.base, content_kind=job.content_kind, content=job.content, size=job.patches.size
                )
                inode.frozen = None
            for directory in snapshot.directories:
                overlay = self._overlays.get(directory.number)
                if overlay is not None:
                    overlay.stored = directory.result
            if snapshot.links is not None:
                self._links_stored = snapshot.links.result
            self._spool.free(snapshot.spool_end)

    def restore(self, snapshot: Snapshot) -> None:
        """Take back what could not be stored, so that the next commit tries again."""
        with self._lock:
            for job in snapshot.files:
                inode = job.inode
                assert inode.frozen is not None
                inode.patches = inode.patches.over(inode.frozen) if inode.patches is not None else inode.frozen
                inode.frozen = None
                self._dirty_files[inode.node] = inode
            for directory in snapshot.directories:
                if directory.number not in self._removed_folders:
                    self._overlay(self._still.folder_by_number(directory.number)).dirty.update(directory.drafts)
            if snapshot.links is not None:
                self._dirty_links.update(snapshot.linked)
            self.dirty_since_ns = snapshot.began_ns

    def _frozen_bytes(self, base: Entry, patches: Patches, offset: int, length: int) -> bytes:
        parts: list[bytes | memoryview] = []
        for piece in patches.pieces(offset, offset + length):
            size = piece.end - piece.start
            if piece.place == HOLE:
                parts.append(bytes(size))
            elif piece.place == BASE:
                parts += read_pieces(self._listings.source, base, offset=piece.start, size=size)
            else:
                parts.append(self._spooled(piece.place, size))
        return b"".join(parts)

    def _store_directory(self, job: DirectoryJob, sink: Sink, results: dict[int, bytes]) -> None:
        changes: dict[bytes, Entry | None] = {}
        for name, draft in job.drafts.items():
            if draft is None:
                changes[name] = None
                continue
            entry = draft.entry
            if draft.job is not None:
                size = draft.job.patches.size
                entry = msgspec.structs.replace(
                    entry, content_kind=draft.job.content_kind, content=draft.job.content, size=size
                )
            elif draft.folder:
                content = results.get(draft.folder)
                if content is None:
                    content = edit_directory(self._listings.source, sink, b"", {})
                entry = msgspec.structs.replace(entry, content=content)
            changes[name] = _settle_xattrs(entry, sink)
        job.result = results[job.number] = edit_directory(self._listings.source, sink, job.stored, changes)


def _settle_xattrs(entry: Entry, sink: Sink) -> Entry:
    """Return an entry whose attributes, when they are many, are in a chunk of their own."""
    if entry.xattrs[:1] != b"\x01" or len(entry.xattrs) - 1 <= objects.XATTRS_INLINE_BYTES_MAX:
        return entry
    identity = sink.put(objects.KIND_CHUNK, entry.xattrs[1:])
    return msgspec.structs.replace(entry, xattrs=b"\x02" + identity)


def _kill_privileges(inode: Inode) -> None:
    """Clear what lets a program run with others' rights: its bytes or its owner changed."""
    inode.xattrs.pop(CAPABILITY, None)
    if inode.kind != objects.ENTRY_DIRECTORY:
        inode.mode &= ~stat.S_ISUID
        if inode.mode & stat.S_IXGRP:
            inode.mode &= ~stat.S_ISGID
