"""Store trees: directories and recipes cut by content into nodes (docs/formats/objects.md, "Nodes").

A node ends after an item whose key hashes to 0 modulo NODE_CUT, once it has NODE_ITEMS_MIN items, and in any case after
NODE_ITEMS_MAX; so one changed item changes one node on each level.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from dalsegno.chunks.cut import CHUNK_BYTES_AVERAGE, WINDOW_BYTES, Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry, RecipeLeaf, RecipeList
from dalsegno.pool.contract import Sink
from dalsegno.terms.ids import ObjectId

NODE_ITEMS_MIN: Final = 64
NODE_CUT: Final = 192
NODE_ITEMS_MAX: Final = 1024
assert NODE_ITEMS_MIN < NODE_CUT < NODE_ITEMS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where the nodes of a tree end: nodes hold about `items_min` + `modulus` items."""

    items_min: int
    modulus: int
    items_max: int
    lists: "Cut | None" = None
    """Where those above the leaves end, if not there."""

    def ends_node(self, key: bytes, *, level: int, count: int) -> bool:
        """Tell whether a node at `level` with `count` items ends behind the item with this key."""
        if level and self.lists is not None:
            return self.lists.ends_node(key, level=level, count=count)
        if count < self.items_min:
            return False
        return count >= self.items_max or crc32(key, level) % self.modulus == 0


DIRECTORY_CUT: Final = Cut(items_min=NODE_ITEMS_MIN, modulus=NODE_CUT, items_max=NODE_ITEMS_MAX)


class DirectoryBuilder:
    """Collects the entries of one directory in name order; the memory used is that of one node a level."""

    def __init__(self, sink: Sink, cut: Cut = DIRECTORY_CUT) -> None:
        self._sink = sink
        self._ends_node = cut.ends_node
        self._leaf: list[Entry] = []
        self._levels: list[list[DirectoryChild]] = []

    @property
    def at_boundary(self) -> bool:
        """Tell whether the next entry begins a leaf, so that a whole leaf may be added."""
        return not self._leaf

    def add(self, entry: Entry) -> None:
        """Add the next entry."""
        leaf = self._leaf
        leaf.append(entry)
        if self._ends_node(entry.name, level=0, count=len(leaf)):
            self._end_leaf()

    def add_leaf(self, child: DirectoryChild) -> None:
        """Add a leaf that is stored already; it must end where this builder would end it."""
        self.add_node(child, 0)

    def takes_node(self, level: int) -> bool:
        """Tell whether the next entry begins a node at `level`, so that a whole one may be added."""
        return not self._leaf and not any(self._levels[:level])

    def add_node(self, child: DirectoryChild, level: int) -> None:
        """Add a node at `level` that is stored already; it must end where this builder would end it."""
        assert self.takes_node(level)
        while level > len(self._levels):
            self._levels.append([])
        self._add(child, level + 1)

    def _end_leaf(self) -> None:
        leaf, self._leaf = self._leaf, []
        identity = self._sink.put(objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf(leaf)))
        self._add(DirectoryChild(leaf[-1].name, len(leaf), identity), 1)

    def _add(self, child: DirectoryChild, level: int) -> None:
        if level > len(self._levels):
            self._levels.append([])
        children = self._levels[level - 1]
        children.append(child)
        if self._ends_node(child.last_name, level=level, count=len(children)):
            self._close(level)

    def _close(self, level: int) -> None:
        children, self._levels[level - 1] = self._levels[level - 1], []
        identity = self._sink.put(objects.KIND_DIRECTORY, objects.encode(DirectoryList(level, children)))
        count = sum(child.entry_count for child in children)
        self._add(DirectoryChild(children[-1].last_name, count, identity), level + 1)

    def finish(self) -> ObjectId:
        """Return the directory's id."""
        if not self._levels:
            return self._sink.put(objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf(self._leaf)))
        if self._leaf:
            self._end_leaf()
        level = 1
        while True:
            children = self._levels[level - 1]
            top = all(not upper for upper in self._levels[level:])
            if top and len(children) == 1:
                return ObjectId(children[0].id)
            if children:
                self._close(level)
            level += 1


def store_directory(sink: Sink, entries: Iterable[Entry]) -> ObjectId:
    """Store a directory from its entries in name order and return its id; memory: one node a level."""
    if isinstance(entries, Sequence) and len(entries) < NODE_ITEMS_MIN:
        return sink.put(objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf(list(entries))))
    builder = DirectoryBuilder(sink)
    for entry in entries:
        builder.add(entry)
    return builder.finish()


class RecipeBuilder:
    """Collects the chunks and holes of one file; the memory used is that of one node a level."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._levels: list[tuple[list[int], list[bytes]]] = [([], [])]

    @property
    def at_boundary(self) -> bool:
        """Tell whether the next chunk begins a leaf, so that a whole leaf may be added."""
        return not self._levels[0][1]

    def add(self, length: int, identity: bytes) -> None:
        """Add the next chunk, or with an empty id a hole, of `length` bytes."""
        self._add(length, identity, 0)

    def add_leaf(self, length: int, identity: bytes) -> None:
        """Add a leaf of `length` bytes that is stored already; it must end where this builder would end it."""
        assert self.at_boundary
        self._add(length, identity, 1)

    def _add(self, length: int, identity: bytes, level: int) -> None:
        if level == len(self._levels):
            self._levels.append(([], []))
        ends, ids = self._levels[level]
        ends.append((ends[-1] if ends else 0) + length)
        ids.append(identity)
        if DIRECTORY_CUT.ends_node(identity, level=level, count=len(ids)):
            self._close(level)

    def _close(self, level: int) -> None:
        ends, ids = self._levels[level]
        self._levels[level] = ([], [])
        node = RecipeLeaf(ends, ids) if level == 0 else RecipeList(level, ends, ids)
        self._add(ends[-1], self._sink.put(objects.KIND_RECIPE, objects.encode(node)), level + 1)

    def finish(self) -> tuple[int, bytes]:
        """Return what Entry.content_kind and Entry.content must be."""
        _, ids = self._levels[0]
        if len(self._levels) == 1 and len(ids) == 1 and ids[0]:
            return objects.CONTENT_CHUNK, ids[0]
        if len(self._levels) == 1 and not ids:
            return objects.CONTENT_NONE, b""
        level = 0
        while True:
            _, ids = self._levels[level]
            top = all(not upper[1] for upper in self._levels[level + 1 :])
            if level > 0 and top and len(ids) == 1:
                return objects.CONTENT_RECIPE, ids[0]
            if ids:
                self._close(level)
            level += 1


def store_data(
    sink: Sink,
    cutter: Cutter,
    read: Callable[[int, int], bytes],
    extents: Sequence[tuple[int, int]],
    size: int,
) -> tuple[int, bytes]:
    """Store a file of `size` bytes whose data lies in `extents` (offset, length), ascending; the rest is holes.

    `read(offset, length)` may return less at the end of the file; what is missing then is stored as a hole.
    Returns what Entry.content_kind and Entry.content must be.
    """
    builder = RecipeBuilder(sink)
    position = 0
    for offset, length in extents:
        if offset > position:
            builder.add(offset - position, b"")
        position = offset
        end = offset + length
        pending = b""
        reading = offset
        while True:
            data = read(reading, min(WINDOW_BYTES, end - reading)) if reading < end else b""
            reading += len(data)
            final = reading >= end or not data
            buffer = pending + data if pending else data
            view = memoryview(buffer)
            start = 0
            # Never depends on the window, only on the extent: what is at most one average is one chunk.
            ends = [len(buffer)] if final and length <= CHUNK_BYTES_AVERAGE else cutter.cut(view, final=final)
            for cut in ends if buffer else ():
                builder.add(cut - start, sink.put(objects.KIND_CHUNK, bytes(view[start:cut])))
                start = cut
            pending = bytes(view[start:])
            position += start
            if final:
                break
    if size > position:
        builder.add(size - position, b"")
    if not extents and size == 0:
        return objects.CONTENT_NONE, b""
    return builder.finish()
