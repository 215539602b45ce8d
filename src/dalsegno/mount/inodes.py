"""What a writable mount remembers of the files that were changed since it began, and of the names that were."""

from typing import Final

import msgspec

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.trees.edit import Patches

SOCKET: Final = 0
"""The kind of a socket: it lives as long as the mount, and no tree holds it."""
STORED: Final = 0
"""In place of a node: the name is as the newest commit stored it, and the kernel knows nothing of it."""

COMPACTED_MIN: Final = 64


class Inode:
    """One file, directory or whatever, after a change: `base` is what is stored, `patches` what was written since.

    While a commit stores them, the patches of that commit are `frozen`, and new ones are made over them.
    """

    __slots__ = (
        "atime_ns",
        "base",
        "btime_ns",
        "counted_bytes",
        "ctime_ns",
        "device",
        "frozen",
        "gid",
        "kind",
        "link_count",
        "linked",
        "lookup_count",
        "mode",
        "mtime_ns",
        "node",
        "number",
        "patches",
        "places",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(self, node: int, entry: Entry, *, xattrs: dict[bytes, bytes]) -> None:
        self.node = node
        """The kernel's number."""
        self.number = entry.node
        """The number that stays with the file: Entry.node."""
        self.kind = entry.kind
        self.mode = entry.mode
        self.uid = entry.uid
        self.gid = entry.gid
        self.mtime_ns = entry.mtime_ns
        self.ctime_ns = entry.mtime_ns
        self.atime_ns = entry.mtime_ns
        self.btime_ns = entry.btime_ns
        self.device = entry.device
        self.target = entry.content if entry.kind in (objects.ENTRY_SYMLINK, objects.ENTRY_MOUNT) else b""
        self.xattrs = xattrs
        self.link_count = 1
        self.lookup_count = 0
        """How often the kernel was told of it and has not forgotten; counted for what is new in this mount."""
        self.linked = False
        """Whether it lives in the table of links."""
        self.places: set[tuple[int, bytes]] | None = set()
        """(folder number, name) of all its names; None when not all are known."""
        self.base = entry
        self.patches: Patches | None = None
        self.frozen: Patches | None = None
        self.counted_bytes = entry.size if entry.kind == objects.ENTRY_FILE else 0
        """How much of the revision's total is this file's."""

    @property
    def size(self) -> int:
        """Bytes of the file now."""
        if self.patches is not None:
            return self.patches.size
        return self.frozen.size if self.frozen is not None else self.base.size

    def edited(self) -> Patches:
        """Return the patches to write into."""
        if self.patches is None:
            self.patches = Patches(self.size)
        return self.patches

    def entry(self, name: bytes, *, owner: bytes, group: bytes, xattrs: bytes) -> Entry:
        """Return its entry under a name, with the content as it was stored last."""
        content_kind, content, size = self.base.content_kind, self.base.content, self.base.size
        if self.kind in (objects.ENTRY_SYMLINK, objects.ENTRY_MOUNT):
            content_kind, content, size = objects.CONTENT_INLINE, self.target, len(self.target)
        elif self.kind != objects.ENTRY_FILE:
            size = 0
        return msgspec.structs.replace(
            self.base,
            name=name,
            kind=self.kind,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            owner=owner,
            group=group,
            mtime_ns=self.mtime_ns,
            btime_ns=self.btime_ns,
            size=size,
            node=self.number,
            content_kind=content_kind,
            content=content,
            device=self.device,
            xattrs=xattrs,
        )


class Overlay:
    """The names of one directory that are not as they were when the mount began.

    `changes` is for as long as the mount lasts, since the rows of the directory as it was stay the base of everything;
    `dirty` are those that the next commit must store. Names that the directory had then keep their rows, whatever they
    lead to now; all others have a position behind all rows.
    """

    __slots__ = ("changes", "dirty", "listed_ns", "order", "positions", "stored")

    def __init__(self, stored: bytes) -> None:
        self.changes: dict[bytes, int | None] = {}
        """Name: node, STORED, or None for a name that is gone."""
        self.order: list[bytes | None] = []
        self.positions: dict[bytes, int] = {}
        self.dirty: set[bytes] = set()
        self.listed_ns = 0
        """When a list of it was begun that has not come to its end, as far as we know; else 0."""
        self.stored = stored
        """The directory as the newest commit stored it; empty before the first."""

    def set(self, name: bytes, node: int, *, in_base: bool) -> None:
        """Let a name lead to a node; `in_base`: the directory had the name when the mount began, and it has a row."""
        if not in_base and name not in self.positions:
            self.positions[name] = len(self.order)
            self.order.append(name)
        self.changes[name] = node
        self.dirty.add(name)

    def compact(self) -> None:
        """Number the names anew when most of those that had a position are gone: nobody may be listing them."""
        if len(self.order) >= COMPACTED_MIN and 2 * len(self.positions) < len(self.order):
            names = [name for name in self.order if name is not None]
            self.order = list(names)
            self.positions = {name: position for position, name in enumerate(names)}

    def remove(self, name: bytes, *, in_base: bool) -> None:
        """Let a name be gone; `in_base`: the directory had it when the mount began."""
        position = self.positions.pop(name, None)
        if position is not None:
            self.order[position] = None
        if in_base:
            self.changes[name] = None
        else:
            self.changes.pop(name, None)
        self.dirty.add(name)
