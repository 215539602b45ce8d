"""Immutable trees as a file system: everything is found by its place, so nothing need be remembered of a file.

A node is (number of its folder, row in the folder): both never change, so the kernel may keep what it knows and forget
it as it likes, and a walk over a million files leaves only the folders here. A *folder* is a directory that somebody
has looked into. A *shelf* is a folder whose names are clones or volumes; they open when they are entered.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dalsegno.formats import fuse, objects
from dalsegno.formats.fuse import Attr, Dirent, EntryReply, Header, StatfsReply
from dalsegno.formats.objects import Entry
from dalsegno.mount.listing import Kept, LinkCounts, Listings
from dalsegno.mount.session import Answer, Method
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.extents import find_data, find_hole, iterate_extents
from dalsegno.trees.limit import ENTRIES_MORE, TIMES
from dalsegno.trees.links import LinksTable
from dalsegno.trees.read import entry_xattrs
from dalsegno.world.workers import new_lock

CLONES_NAME: Final = b".clones"
FOREVER_NS: Final = 24 * 3600 * SECOND_NS
FOREVER_SECONDS: Final = FOREVER_NS // SECOND_NS
SHELF_NS: Final = SECOND_NS
ROW_BITS: Final = 32
DIRECTORY_BYTES: Final = 4096
PIECES_MAX: Final = 500
"""Of one answer: writev takes 1024."""
ZEROS: Final = bytes(128 * 1024)
FORMS: Final = {
    objects.ENTRY_FILE: stat.S_IFREG,
    objects.ENTRY_DIRECTORY: stat.S_IFDIR,
    objects.ENTRY_SYMLINK: stat.S_IFLNK,
    objects.ENTRY_FIFO: stat.S_IFIFO,
    objects.ENTRY_CHAR_DEVICE: stat.S_IFCHR,
    objects.ENTRY_BLOCK_DEVICE: stat.S_IFBLK,
    objects.ENTRY_MOUNT: stat.S_IFDIR,
    objects.ENTRY_CONFLICT: stat.S_IFREG,
}
FLAGS: Final = (
    fuse.ASYNC_READ
    # Always: what a name's attributes cost here is little beside the LOOKUP that they save.
    | fuse.DO_READDIRPLUS
    | fuse.NO_OPEN_SUPPORT
    | fuse.NO_OPENDIR_SUPPORT
    | fuse.PARALLEL_DIROPS
    | fuse.MAX_PAGES
    | fuse.CACHE_SYMLINKS
    | fuse.EXPLICIT_INVAL_DATA
    | fuse.POSIX_ACL
    | fuse.INIT_EXT
)
_POINT_LENGTH_MAX: Final = 1024
NOT_THERE: Final = EntryReply(0, 0, FOREVER_NS, 0, fuse.NO_ATTR)
"""A name that is not there, and will not be unless the kernel itself makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One directory of one revision, ready to be shown."""

    listings: Listings
    root: Entry
    tree: bytes
    """The directory of the whole revision, of which `root` may be a part: hard links have names in all of it."""
    links: bytes
    identity: bytes
    """The revision's id: equal pictures have equal inode numbers."""
    volume_id: bytes
    """The volume whose clones stand beside it; empty when there are none to show."""
    label: str
    total_bytes: int
    entry_count: int


class Shelf(Protocol):
    """Names that lead to pictures: the clones of a volume, or the volumes of a pool."""

    @property
    def listings(self) -> Listings:
        """Through what the pictures behind it are read."""
        ...

    def names(self) -> Mapping[bytes, int]:
        """Return the names there are now, with the time that each shows."""
        ...

    def open(self, name: bytes, /) -> "Picture | Shelf":
        """Return what a name leads to; NotFound when it leads nowhere."""
        ...


class Gallery(Protocol):
    """What is shown beside the tree itself."""

    def clones(self, volume_id: bytes, /) -> Shelf:
        """Return a volume's clones."""
        ...

    def follow(self, point: bytes, /) -> Picture:
        """Return the picture that a mount point names."""
        ...

    def keep(self) -> None:
        """Go on keeping what is shown; to be called now and then."""
        ...

    def close(self) -> None:
        """Let go of what was shown."""
        ...


class Owners:
    """Whose the files appear to be: as they are stored, or all the caller's own."""

    def __init__(self, *, uid: int | None = None, gid: int | None = None, is_trusted: bool = True) -> None:
        """What is not trusted is the mounter's own, has no set-id bits, no devices, and no attributes that count."""
        self.uid = uid
        self.gid = gid
        self.is_trusted = is_trusted
        self._mounter = (os.getuid(), os.getgid())

    def show(self, mode: int, uid: int, gid: int) -> tuple[int, int, int]:
        """Return mode, uid and gid to show; who sees all as his own may read all."""
        if not self.is_trusted:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            mode = stat.S_IFREG | stat.S_IMODE(mode) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else mode
            uid, gid = self._mounter
        if self.gid is None or self.uid is None:
            return mode, uid, gid
        readable = mode | stat.S_IRUSR | (stat.S_IXUSR if stat.S_ISDIR(mode) or mode & 0o111 else 0)
        return readable & ~(stat.S_ISUID | stat.S_ISGID), self.uid, self.gid


class Layer:
    """One picture in use: what all its folders share."""

    __slots__ = ("folders_left", "link_counts", "links", "links_table", "listings", "picture", "salt")

    def __init__(self, picture: Picture, *, salted: bool) -> None:
        self.picture = picture
        self.listings = picture.listings
        self.salt = int.from_bytes(picture.identity[:8], "big") >> 1 if salted else 0
        self.folders_left = entries_max = TIMES * picture.entry_count + ENTRIES_MORE
        """How many more directories may be looked into: a tree that goes on for ever ends there."""
        self.links: Folder | None = None
        self.links_table = LinksTable(picture.listings.source, picture.links)
        self.link_counts = LinkCounts(picture.listings.source, picture.tree, entries_max=entries_max)


class Folder:
    """A directory that was looked into. `content` is its object, or `shelf` gives its names."""

    __slots__ = (
        "content",
        "entry",
        "ino",
        "is_counted",
        "layer",
        "name",
        "node",
        "number",
        "parent",
        "shelf",
        "shelf_names",
        "shelf_rows",
    )

    def __init__(
        self,
        parent: "Folder | None",
        name: bytes,
        *,
        layer: Layer | None = None,
        content: bytes = b"",
        entry: Entry | None = None,
        shelf: Shelf | None = None,
        ino: int = 0,
    ) -> None:
        self.number = 0
        self.node = 0
        self.is_counted = False
        self.ino = ino
        """Entry.node of the directory, or 0 when it has none."""
        self.parent = parent
        self.name = name
        self.layer = layer
        self.content = content
        self.entry = entry
        """Of a picture's root, which no folder holds."""
        self.shelf = shelf
        self.shelf_rows: dict[bytes, int] = {} if shelf is not None else _NO_ROWS
        self.shelf_names: list[bytes] = [] if shelf is not None else _NO_NAMES


_NO_ROWS: Final[dict[bytes, int]] = {}
_NO_NAMES: Final[list[bytes]] = []


class ReadOnly:
    """A picture or a shelf as a file system, and whatever is reached from there."""

    def __init__(self, top: Picture | Shelf, gallery: Gallery | None, *, owners: Owners, now_ns: int) -> None:
        self.flags = FLAGS
        self.noticed: Callable[[int], None] | None = None
        """Is told of every file that is read at once."""
        self.top = top
        self._gallery = gallery
        self._owners = owners
        self._started_ns = now_ns
        self._lock = new_lock()
        self._folders: dict[int, Folder] = {}
        self._next_number = 1
        self._by_node: dict[int, Folder] = {}
        self._shelves_seen: dict[Folder, frozenset[bytes]] = {}
        self.root = self._open_folder(fuse.ROOT_NODE, None, b"", top, salted=False)
        self.methods: dict[int, Method] = {
            fuse.LOOKUP: self._lookup,
            fuse.GETATTR: self._getattr,
            fuse.READLINK: self._readlink,
            fuse.READ: self._read,
            fuse.READDIR: lambda header, body: self.read_directory(header.node, body.offset, body.size, plus=False),
            fuse.READDIRPLUS: lambda header, body: self.read_directory(header.node, body.offset, body.size, plus=True),
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.STATFS: self._statfs,
            fuse.LSEEK: self._seek,
            **dict.fromkeys(WRITING, _refuse),
        }

    # Folders

    def known_folder(self, node: int) -> Folder | None:
        """Return the folder of a node, if it was looked into."""
        return self._by_node.get(node)

    def folder_by_number(self, number: int) -> Folder:
        """Return a folder by its number."""
        return self._folders[number]

    def open_point(self, node: int, parent: Folder, name: bytes, point: bytes) -> Folder:
        """Return the folder that a mount point leads to."""
        known = self._by_node.get(node)
        return known if known is not None else self._open_folder(node, parent, name, self.follow(point))

    def add_folder(self, node: int, folder: Folder) -> Folder:
        """Give a folder its number, and its own node where none is given; another thread may have been first."""
        with self._lock:
            known = self._by_node.get(node)
            if known is not None:
                return known
            folder.number = self._next_number
            self._next_number += 1
            folder.node = node or folder.number << ROW_BITS
            self._folders[folder.number] = folder
            self._by_node[folder.node] = folder
            return folder

    def drop_folder(self, folder: Folder) -> None:
        """Let go of a folder that nobody uses; its number is not given out again."""
        with self._lock:
            del self._folders[folder.number]
            del self._by_node[folder.node]
            if folder.is_counted and folder.layer is not None:
                folder.layer.folders_left += 1

    def _open_folder(
        self, node: int, parent: Folder | None, name: bytes, what: Picture | Shelf, *, salted: bool = True
    ) -> Folder:
        if isinstance(what, Picture):
            layer, root = Layer(what, salted=salted), what.root
            folder = Folder(parent, name, layer=layer, content=root.content, entry=root, ino=root.node)
            return self.add_folder(node, folder)
        return self.add_folder(node, Folder(parent, name, shelf=what))

    def folder(self, node: int) -> Folder:
        """Return the folder of a directory's node."""
        folder = self._by_node.get(node)
        if folder is not None:
            return folder
        above, row = self.place(node)
        if above.shelf is not None:
            name = above.shelf_names[row]
            return self._open_folder(node, above, name, above.shelf.open(name))
        assert above.layer is not None
        entry = above.layer.listings.at(above.content, row)
        if entry.kind == objects.ENTRY_MOUNT:
            return self._open_folder(node, above, entry.name, self.follow(entry.content))
        if entry.kind != objects.ENTRY_DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return self._add_stored(node, above, entry)

    def _add_stored(self, node: int, above: Folder, entry: Entry) -> Folder:
        """Return the folder of a stored directory; Damaged when there are more than the revision speaks of."""
        layer = above.layer
        assert layer is not None
        if layer.folders_left <= 0:
            raise Damaged(f"{entry.name!r}: the tree goes on beyond what its revision speaks of")
        folder = Folder(above, entry.name, layer=layer, content=entry.content, ino=entry.node)
        added = self.add_folder(node, folder)
        if added is folder:
            folder.is_counted = True
            layer.folders_left -= 1
        return added

    def place(self, node: int) -> tuple[Folder, int]:
        """Return the folder and the row that a node stands for."""
        number = node >> ROW_BITS
        folder = self._folders.get(number)
        row = (node & ((1 << ROW_BITS) - 1)) - 1
        if folder is None or row < 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return folder, row

    def follow(self, point: bytes) -> Picture:
        """Return what a mount point names; NotFound and others when it leads nowhere."""
        if self._gallery is None:
            raise NotFound(f"mount point to {point!r}: there is no pool to look into")
        return self._gallery.follow(point[:_POINT_LENGTH_MAX])

    def _links_folder(self, layer: Layer) -> Folder:
        if layer.links is None:
            folder = self.add_folder(0, Folder(None, b"", layer=layer, content=layer.picture.links))
            with self._lock:
                layer.links = layer.links or folder
        return layer.links

    def describe(self, node: int) -> str:
        """Return a node's path, for the log."""
        parts: list[bytes] = []
        try:
            if node != fuse.ROOT_NODE:
                folder = self._by_node.get(node)
                if folder is None:
                    above, row = self.place(node)
                    parts.append(self._row_name(above, row))
                    folder = above
                while folder is not None and folder is not self.root:
                    parts.append(folder.name)
                    folder = folder.parent
        except (DalError, OSError, IndexError):
            parts.append(b"?")
        label = self.top.label if isinstance(self.top, Picture) else "volumes"
        return f"{label}:/{b'/'.join(reversed(parts)).decode(errors='backslashreplace')}"

    def _row_name(self, above: Folder, row: int) -> bytes:
        if above.shelf is not None:
            return above.shelf_names[row]
        assert above.layer is not None
        return above.layer.listings.at(above.content, row).name

    # Entries

    def entry(self, node: int) -> tuple[Entry | None, Layer | None]:
        """Return the entry of a node with its layer; None for a shelf."""
        folder = self._by_node.get(node)
        if folder is not None and (folder.entry is not None or folder.shelf is not None):
            return folder.entry, folder.layer
        above, row = self.place(node)
        if above.shelf is not None:
            opened = self.folder(node)
            return opened.entry, opened.layer
        layer = above.layer
        assert layer is not None
        return layer.links_table.at(row) if above is layer.links else layer.listings.at(above.content, row), layer

    def resolve_row(self, above: Folder, row: int, entry: Entry) -> tuple[int, Entry]:
        """Return the node of a row, and the entry that it shows: a hard link is its file, in the table of links."""
        if entry.kind != objects.ENTRY_LINK:
            return above.number << ROW_BITS | (row + 1), entry
        assert above.layer is not None
        table = self._links_folder(above.layer)
        found = above.layer.links_table.find(entry.link)
        if found is None:
            raise Damaged(f"{entry.name!r}: its file {entry.link:x} is not in the links table")
        return table.number << ROW_BITS | (found[0] + 1), found[1]

    def attr(self, node: int, entry: Entry | None, layer: Layer | None) -> Attr:
        """Return what stat shows of a node."""
        if entry is None or layer is None:
            folder = self._by_node[node]
            assert folder.shelf is not None
            newest = max(folder.shelf.names().values(), default=self._started_ns)
            mode, uid, gid = self._owners.show(stat.S_IFDIR | 0o555, 0, 0)
            return Attr(_ino(node, 0), DIRECTORY_BYTES, 8, newest, newest, newest, mode, 1, uid, gid, 0)
        kind = entry.kind
        form = FORMS.get(kind, stat.S_IFREG)
        size, link_count, permissions = entry.size, 1, entry.mode
        if kind == objects.ENTRY_DIRECTORY:
            size = DIRECTORY_BYTES
        elif kind == objects.ENTRY_SYMLINK:
            size = len(entry.content)
        elif kind == objects.ENTRY_MOUNT:
            shown = self._shown_point(node, entry)
            if shown is not None:
                return shown
            form, size, permissions = stat.S_IFLNK, len(entry.content) + 1, 0o777
        if self._is_linked(node, layer):
            link_count = layer.link_counts.count(entry.node, exact=False)
        mode, uid, gid = self._owners.show(form | permissions, entry.uid, entry.gid)
        mtime_ns = entry.mtime_ns
        return Attr(
            _ino(entry.node or node, layer.salt),
            size,
            self.block_count(entry, layer, size),
            mtime_ns,
            mtime_ns,
            mtime_ns,
            mode,
            link_count,
            uid,
            gid,
            entry.device & 0xFFFFFFFF,
        )

    def valid_ns(self, node: int, layer: Layer | None) -> int:
        """Return how long the kernel may remember what `attr` said of a node."""
        if layer is None:
            return SHELF_NS
        return SHELF_NS if self._is_linked(node, layer) and not layer.link_counts.is_complete else FOREVER_NS

    def _is_linked(self, node: int, layer: Layer) -> bool:
        return layer.links is not None and node >> ROW_BITS == layer.links.number

    def block_count(self, entry: Entry, layer: Layer, size: int) -> int:
        """Return how many blocks of 512 bytes a file has without its holes, as far as one look tells."""
        if entry.content_kind != objects.CONTENT_RECIPE:
            hole = entry.content_kind == objects.CONTENT_NONE and entry.kind == objects.ENTRY_FILE
            return 0 if hole else (size + 511) // 512
        node = objects.decode_recipe(layer.listings.source.get(ObjectId(entry.content)))
        if isinstance(node, objects.RecipeLeaf) and not all(node.ids):
            starts = [0, *node.ends[:-1]]
            used = sum(end - at for at, end, identity in zip(starts, node.ends, node.ids, strict=True) if identity)
            return (used + 511) // 512
        return (size + 511) // 512

    def _shown_point(self, node: int, entry: Entry) -> Attr | None:
        """Return what a mount point leads to, or None when it leads nowhere: it shows as a link to `#VOLUME` then."""
        try:
            folder = self.folder(node)
        except DalError:
            return None
        return self.attr(node, folder.entry, folder.layer)

    # Requests

    def find(self, node: int, name: bytes) -> EntryReply:
        """Return what a name in a directory is; node 0 when it is not there."""
        if len(name) > fuse.NAME_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        folder = self.folder(node)
        if folder.shelf is not None:
            return self._find_on_shelf(folder, name)
        assert folder.layer is not None
        found = folder.layer.listings.find(folder.content, name)
        if found is None:
            return self.find_clones(folder) if name == CLONES_NAME else NOT_THERE
        child, entry = self.resolve_row(folder, *found)
        attr = self.attr(child, entry, folder.layer)
        return EntryReply(child, 0, FOREVER_NS, self.valid_ns(child, folder.layer), attr)

    def find_clones(self, folder: Folder) -> EntryReply:
        """Return the hidden shelf of clones as a name in a folder, where it has one."""
        clones = self._clones_of(folder)
        if clones is None:
            return NOT_THERE
        return EntryReply(clones.node, 0, FOREVER_NS, SHELF_NS, self.attr(clones.node, None, None))

    def _clones_of(self, folder: Folder) -> Folder | None:
        """Return the hidden shelf of clones in the root of a volume."""
        if folder.entry is None or folder.layer is None or self._gallery is None:
            return None
        volume_id = folder.layer.picture.volume_id
        if not volume_id or (folder.parent is not None and folder.parent.shelf is not None):
            return None
        # One row behind all others: no directory has so many.
        node = folder.number << ROW_BITS | ((1 << ROW_BITS) - 1)
        return self._open_folder(node, folder, CLONES_NAME, self._gallery.clones(volume_id))

    def _find_on_shelf(self, folder: Folder, name: bytes) -> EntryReply:
        assert folder.shelf is not None
        if name not in folder.shelf.names():
            return fuse.NO_ENTRY
        node = folder.number << ROW_BITS | (self._shelf_row(folder, name) + 1)
        try:
            opened = self.folder(node)
        except NotFound:
            return fuse.NO_ENTRY
        valid_ns = SHELF_NS if opened.shelf is not None else FOREVER_NS
        return EntryReply(node, 0, SHELF_NS, valid_ns, self.attr(node, opened.entry, opened.layer))

    def _shelf_row(self, folder: Folder, name: bytes) -> int:
        with self._lock:
            row = folder.shelf_rows.get(name)
            if row is None:
                row = folder.shelf_rows[name] = len(folder.shelf_names)
                folder.shelf_names.append(name)
            return row

    def _lookup(self, header: Header, body: fuse.Name) -> Answer:
        return fuse.encode_entry(self.find(header.node, body.name))

    def _getattr(self, header: Header, body: fuse.GetAttr) -> Answer:
        entry, layer = self.entry(header.node)
        attr = self.attr(header.node, entry, layer)
        return fuse.encode_attr_reply(self.valid_ns(header.node, layer if entry is not None else None), attr)

    def _readlink(self, header: Header, body: fuse.Empty) -> Answer:
        entry, _ = self.entry(header.node)
        if entry is not None and entry.kind == objects.ENTRY_MOUNT:
            return b"#" + entry.content
        if entry is None or entry.kind != objects.ENTRY_SYMLINK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return entry.content

    def _read(self, header: Header, body: fuse.Read) -> Answer:
        entry, layer = self.entry(header.node)
        if entry is None or layer is None or entry.kind not in (objects.ENTRY_FILE, objects.ENTRY_CONFLICT):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if body.offset == 0 and self.noticed is not None and body.size >= entry.size:
            self.noticed(header.node)
        return read_pieces(layer.listings.source, entry, offset=body.offset, size=body.size)

    def _seek(self, header: Header, body: fuse.Seek) -> Answer:
        entry, layer = self.entry(header.node)
        if entry is None or layer is None or entry.kind != objects.ENTRY_FILE or body.offset >= entry.size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        source = layer.listings.source
        if body.whence == os.SEEK_HOLE:
            return fuse.encode_offset(find_hole(source, entry, body.offset))
        found = find_data(source, entry, body.offset)
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return fuse.encode_offset(found)

    def _getxattr(self, header: Header, body: fuse.GetXattr) -> Answer:
        entry, layer = self.entry(header.node)
        for name, value in self._xattrs(entry, layer):
            if name == body.name:
                return sized(value, body.size)
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    def _listxattr(self, header: Header, body: fuse.ListXattr) -> Answer:
        entry, layer = self.entry(header.node)
        return sized(b"".join(name + b"\0" for name, _ in self._xattrs(entry, layer)), body.size)

    def _xattrs(self, entry: Entry | None, layer: Layer | None) -> list[tuple[bytes, bytes]]:
        found = entry_xattrs(layer.listings.source, entry) if entry is not None and layer is not None else []
        if self._owners.is_trusted:
            return found
        return [(name, value) for name, value in found if not name.startswith((b"security.", b"trusted."))]

    def _statfs(self, header: Header, body: fuse.Empty) -> Answer:
        size = self.top.total_bytes if isinstance(self.top, Picture) else 0
        count = self.top.entry_count if isinstance(self.top, Picture) else 0
        blocks = (size + 4095) // 4096
        return fuse.encode_statfs(StatfsReply(blocks, 0, 0, count, 0, 4096, fuse.NAME_BYTES_MAX, 4096))

    def changed_shelves(self) -> list[int]:
        """Return the shelves that were looked at and have other names now than when this was asked last."""
        changed = []
        for folder, seen in list(self._shelves_seen.items()):
            assert folder.shelf is not None
            try:
                names = frozenset(folder.shelf.names())
            except DalError:
                continue
            if names != seen:
                self._shelves_seen[folder] = names
                changed.append(folder.node)
        return changed

    # Directories

    def read_directory(self, node: int, offset: int, size: int, *, plus: bool) -> bytes:
        """Return a READDIR's payload: offset 0 is `.`, 1 is `..`, and row + 2 an entry."""
        folder = self._by_node.get(node) or self._passing_folder(node)
        if folder.shelf is not None:
            names = self._shelf_dirents(folder, offset, plus)
        else:
            names = self._dirents(folder, offset, plus)
        pieces: list[bytes] = []
        room = size
        for piece in names:
            room -= len(piece)
            if room < 0:
                break
            pieces.append(piece)
        return b"".join(pieces)

    def _passing_folder(self, node: int) -> Folder:
        """Return the folder of a directory; one without names, to which no node can belong, is not kept."""
        above, row = self.place(node)
        if above.shelf is None and above.layer is not None:
            entry = above.layer.listings.at(above.content, row)
            if entry.kind == objects.ENTRY_DIRECTORY and not above.layer.listings.count(entry.content):
                folder = Folder(above, entry.name, layer=above.layer, content=entry.content, ino=entry.node)
                folder.node = node
                return folder
        return self.folder(node)

    def dots(self, folder: Folder, offset: int, plus: bool, *, begun: int = 0) -> Iterator[bytes]:
        """Yield `.` and `..`; `begun` is added to what they say of where they stand."""
        for position, (name, at) in enumerate(((b".", folder), (b"..", folder.parent or folder))):
            if offset <= position:
                ino = _ino(at.ino or at.node, at.layer.salt if at.layer is not None else 0)
                yield encode_name(Dirent(ino, begun | (position + 1), stat.S_IFDIR >> 12, name), plus)

    def _dirents(self, folder: Folder, offset: int, plus: bool) -> Iterator[bytes]:
        yield from self.dots(folder, offset, plus)
        layer = folder.layer
        assert layer is not None
        first_row = max(0, offset - 2)
        for before, entries in layer.listings.leaves(folder.content, first_row):
            at = max(0, first_row - before)
            yield from self.entry_names(folder, entries[at:] if at else entries, before + at, plus)

    def entry_names(self, folder: Folder, entries: Iterable[Entry], row: int, plus: bool) -> Iterator[bytes]:
        """Yield entries of a folder, from a row on, as READDIR's names."""
        layer = folder.layer
        assert layer is not None
        salt, owned = layer.salt, self._owners.gid is not None
        above = folder.number << ROW_BITS
        encode = fuse.encode_known_name
        for entry in entries:
            row += 1
            kind = entry.kind
            # Nearly everything is one of these: no function is called for it but the one that packs it.
            if plus and not owned and kind == objects.ENTRY_FILE and entry.content_kind <= objects.CONTENT_CHUNK:
                form, size, used = stat.S_IFREG, entry.size, entry.size if entry.content_kind else 0
            elif plus and not owned and kind == objects.ENTRY_DIRECTORY:
                form, size, used = stat.S_IFDIR, DIRECTORY_BYTES, DIRECTORY_BYTES
            elif plus and not owned and kind == objects.ENTRY_SYMLINK:
                form, size, used = stat.S_IFLNK, len(entry.content), len(entry.content)
            else:
                yield self._entry_name(folder, entry, row - 1, plus)
                continue
            node, mode = above | row, form | entry.mode
            ino = ((entry.node or node) ^ salt) or 1
            blocks, at_ns = (used + 511) >> 9, entry.mtime_ns
            yield encode(
                node, ino, row + 2, entry.name, mode, size, blocks, at_ns, entry.uid, entry.gid, 0, FOREVER_SECONDS
            )

    def _entry_name(self, folder: Folder, entry: Entry, row: int, plus: bool) -> bytes:
        layer = folder.layer
        assert layer is not None
        node, shown = self.resolve_row(folder, row, entry)
        form = FORMS.get(shown.kind, stat.S_IFREG) >> 12
        dirent = Dirent(_ino(shown.node or node, layer.salt), row + 3, form, entry.name)
        if not plus or shown.kind == objects.ENTRY_MOUNT:
            return encode_name(dirent, plus)
        attr = self.attr(node, shown, layer)
        return fuse.encode_dirent_plus(EntryReply(node, 0, FOREVER_NS, self.valid_ns(node, layer), attr), dirent)

    def _shelf_dirents(self, folder: Folder, offset: int, plus: bool) -> Iterator[bytes]:
        assert folder.shelf is not None
        if offset == 0:
            names = sorted(folder.shelf.names())
            for name in names:
                self._shelf_row(folder, name)
            self._shelves_seen[folder] = frozenset(names)
        yield from self.dots(folder, offset, plus)
        there = folder.shelf.names()
        for row, name in list(enumerate(folder.shelf_names))[max(0, offset - 2) :]:
            if name in there:
                node = folder.number << ROW_BITS | (row + 1)
                yield encode_name(Dirent(_ino(node, 0), row + 3, stat.S_IFDIR >> 12, name), plus)


WRITING: Final = (
    fuse.SETATTR,
    fuse.SYMLINK,
    fuse.MKNOD,
    fuse.MKDIR,
    fuse.UNLINK,
    fuse.RMDIR,
    fuse.RENAME,
    fuse.RENAME2,
    fuse.LINK,
    fuse.WRITE,
    fuse.SETXATTR,
    fuse.REMOVEXATTR,
    fuse.CREATE,
    fuse.FALLOCATE,
)


def _refuse(header: Header, body: Any) -> Answer:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def encode_name(dirent: Dirent, plus: bool) -> bytes:
    """Return a name that the kernel must look up if it wants to know more."""
    return fuse.encode_dirent_plus(fuse.NO_ENTRY, dirent) if plus else fuse.encode_dirent(dirent)


def _ino(node: int, salt: int) -> int:
    return (node ^ salt) or 1


def sized(value: bytes, size: int) -> bytes:
    """Return an attribute's value, or how large it is when the caller's size is 0."""
    if size == 0:
        return fuse.encode_size(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def read_pieces(source: Kept, entry: Entry, *, offset: int, size: int) -> list[bytes | memoryview]:
    """Return a file's bytes from `offset` on in pieces, holes as zeros; shorter only at its end."""
    end = min(entry.size, offset + size)
    if offset >= end:
        return []
    if entry.content_kind == objects.CONTENT_INLINE:
        return [entry.content[offset:end]]
    pieces: list[bytes | memoryview] = []
    for extent in iterate_extents(source, entry, start=offset, end=end):
        low, high = max(offset, extent.offset), min(end, extent.end)
        if not extent.id:
            pieces += [ZEROS[: min(len(ZEROS), high - at)] for at in range(low, high, len(ZEROS))]
            continue
        whole = high - low == extent.length
        data = source.view(ObjectId(extent.id)) if whole else source.get(ObjectId(extent.id))
        if len(data) != extent.length:
            raise Damaged(f"chunk {extent.id[:6].hex()}: its length and its file's word disagree")
        pieces.append(data if whole else memoryview(data)[low - extent.offset : high - extent.offset])
    return pieces if len(pieces) <= PIECES_MAX else [b"".join(pieces)]
