"""Directories by row: the entry at a row, the row of a name; decoded nodes are kept, those used last.

A row is the place of a name in its directory, from 0 on. A directory object never changes, so neither do its rows.
"""

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.trees.read import directory_node
from dalsegno.world.workers import Workers, new_lock

ENTRIES_KEPT_MAX: Final = 32 * 1024
PAYLOAD_BYTES_KEPT_MAX: Final = 16 * MIB
CHUNK_BYTES_KEPT_MAX: Final = 32 * MIB
NODES_A_NAME: Final = 3
LINK_ENTRIES_A_STEP: Final = 10_000
"""How far the walk that counts hard links goes for one question: some 10 ms."""


class KindSource(Protocol):
    """A source for several threads that also tells an object's kind: a pool, a chain of dumps."""

    def view_kind(self, identity: bytes, /) -> tuple[int, bytes | memoryview]:
        """Return kind and payload; a view holds a whole block, so it is not for keeping."""
        ...

    def read_ahead(self, workers: Workers | None, /) -> None:
        """Let `workers` open what comes next to who reads in order; None, before they end, ends it."""
        ...


class Kept:
    """A source that keeps what it gave last, in bounded memory: data and what leads to it apart from each other."""

    def __init__(self, source: KindSource) -> None:
        self.source = source
        self._lock = new_lock()
        self._kept: dict[bool, OrderedDict[bytes, bytes]] = {False: OrderedDict(), True: OrderedDict()}
        self._sizes = {False: 0, True: 0}
        self._bytes_max = {False: PAYLOAD_BYTES_KEPT_MAX, True: CHUNK_BYTES_KEPT_MAX}

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object, and keep it."""
        payload = self._find(identity)
        if payload is not None:
            return payload
        kind, view = self.source.view_kind(identity)
        return self._keep(identity, kind, bytes(view))

    def view(self, identity: ObjectId, /) -> bytes | memoryview:
        """Return the payload of an object that is wanted whole and once: the kernel keeps data, this does not."""
        payload = self._find(identity)
        if payload is not None:
            return payload
        kind, view = self.source.view_kind(identity)
        return view if kind == objects.KIND_CHUNK else self._keep(identity, kind, bytes(view))

    def _find(self, identity: ObjectId) -> bytes | None:
        with self._lock:
            for kept in self._kept.values():
                payload = kept.get(identity)
                if payload is not None:
                    kept.move_to_end(identity)
                    return payload
        return None

    def _keep(self, identity: ObjectId, kind: int, payload: bytes) -> bytes:
        data = kind == objects.KIND_CHUNK
        with self._lock:
            kept = self._kept[data]
            if identity not in kept:
                kept[identity] = payload
                self._sizes[data] += len(payload)
                while self._sizes[data] > self._bytes_max[data] and len(kept) > 1:
                    self._sizes[data] -= len(kept.popitem(last=False)[1])
        return payload


class Listings:
    """The directories of one source."""

    def __init__(self, source: Kept) -> None:
        self.source = source
        self._lock = new_lock()
        self._nodes: OrderedDict[bytes, DirectoryLeaf | DirectoryList] = OrderedDict()
        self._entry_count = 0

    def node(self, identity: bytes) -> DirectoryLeaf | DirectoryList:
        """Return one decoded node."""
        with self._lock:
            node = self._nodes.get(identity)
            if node is not None:
                self._nodes.move_to_end(identity)
                return node
        node = objects.decode_directory(self.source.get(ObjectId(identity)))
        with self._lock:
            if identity not in self._nodes:
                self._nodes[identity] = node
                self._entry_count += _item_count(node)
                while self._entry_count > ENTRIES_KEPT_MAX and len(self._nodes) > 1:
                    self._entry_count -= _item_count(self._nodes.popitem(last=False)[1])
        return node

    def _below(self, node: DirectoryList, child: DirectoryChild) -> DirectoryLeaf | DirectoryList:
        """Return a node below another; Damaged when it is not of the level there, or not of so many entries.

        A list below itself has no end, and nodes without entries can be passed for ever.
        """
        found = self.node(child.id)
        if (found.level if isinstance(found, DirectoryList) else 0) != node.level - 1:
            raise Damaged(f"directory {child.id[:6].hex()}: a node at another level than {node.level - 1}")
        if _entry_count(found) != child.entry_count:
            raise Damaged(f"directory {child.id[:6].hex()}: it has not the {child.entry_count} entries that it should")
        return found

    def at(self, identity: bytes, row: int) -> Entry:
        """Return the entry in a row of a directory."""
        node = self.node(identity)
        while True:
            if isinstance(node, DirectoryLeaf):
                if row >= len(node.entries):
                    raise Damaged(f"directory {identity[:6].hex()}: it has no row {row}")
                return node.entries[row]
            for child in node.children:
                if row < child.entry_count:
                    identity, node = child.id, self._below(node, child)
                    break
                row -= child.entry_count
            else:
                raise Damaged(f"directory {identity[:6].hex()}: it has no row {row}")

    def find(self, identity: bytes, name: bytes) -> tuple[int, Entry] | None:
        """Return row and entry of a name, or None."""
        before = 0
        node = self.node(identity)
        while True:
            if isinstance(node, DirectoryLeaf):
                row = bisect_left(node.entries, name, key=_entry_name)
                if row == len(node.entries) or node.entries[row].name != name:
                    return None
                return before + row, node.entries[row]
            number = bisect_left(node.children, name, key=lambda child: child.last_name)
            if number == len(node.children):
                return None
            before += sum(child.entry_count for child in node.children[:number])
            node = self._below(node, node.children[number])

    def iterate(self, identity: bytes, row: int) -> Iterator[Entry]:
        """Yield the entries of a directory from a row on."""
        yield from self._iterate(self.node(identity), row)

    def _iterate(self, node: DirectoryLeaf | DirectoryList, row: int) -> Iterator[Entry]:
        if isinstance(node, DirectoryLeaf):
            yield from node.entries[row:] if row else node.entries
            return
        for child in node.children:
            if row < child.entry_count:
                yield from self._iterate(self._below(node, child), row)
                row = 0
            else:
                row -= child.entry_count

    def leaves(self, identity: bytes, row: int) -> Iterator[tuple[int, list[Entry]]]:
        """Yield the leaves of a directory from the one that holds a row on: (its first row, all entries)."""
        yield from self._leaves(self.node(identity), row)

    def _leaves(self, node: DirectoryLeaf | DirectoryList, row: int) -> Iterator[tuple[int, list[Entry]]]:
        if isinstance(node, DirectoryLeaf):
            yield 0, node.entries
            return
        before = 0
        for child in node.children:
            if row < before + child.entry_count:
                for first, entries in self._leaves(self._below(node, child), row - before):
                    yield before + first, entries
            before += child.entry_count

    def count(self, identity: bytes) -> int:
        """Return how many entries a directory has."""
        return _entry_count(self.node(identity))


class LinkCounts:
    """How many names each hard-linked file of a tree has: one walk of everything, made in steps by those who ask."""

    def __init__(self, source: Kept, tree: bytes, *, entries_max: int) -> None:
        """`entries_max`: as many names as the tree has at most; the walk ends as Damaged beyond."""
        self.is_complete = False
        self._source = source
        self._pending: list[tuple[bytes, int | None]] = [(tree, None)] if tree else []
        # Each leaf has a name, and each list another node: no tree has more nodes than names and directories.
        self._left = NODES_A_NAME * entries_max
        # A word for each name while the walk goes on, then two for each file: there may be millions.
        self._seen = array("Q")
        self._links = array("Q")
        self._counts = array("Q")
        self._lock = new_lock()

    def count(self, link: int, *, exact: bool) -> int:
        """Return how many names a file has; before the walk is complete, and unless `exact`, two.

        Damaged for a tree that is far larger than it should be.
        """
        with self._lock:
            entries_left = LINK_ENTRIES_A_STEP
            while self._pending and (exact or entries_left > 0):
                if self._left < 0:
                    raise Damaged(
                        "the tree goes on beyond what its revision says: made wrong, or made to keep one busy"
                    )
                count = self._count_node(*self._pending.pop())
                entries_left -= count
                self._left -= count
            if self._pending:
                return 2
            if not self.is_complete:
                links, counts = np.unique(np.frombuffer(self._seen, np.uint64), return_counts=True)
                self._links.frombytes(links.tobytes())
                self._counts.frombytes(counts.astype(np.uint64).tobytes())
                self._seen = array("Q")
                self.is_complete = True
            row = bisect_left(self._links, link)
            return self._counts[row] if row < len(self._links) and self._links[row] == link else 1

    def _count_node(self, identity: bytes, level: int | None) -> int:
        node = directory_node(self._source, identity, level)
        if isinstance(node, DirectoryList):
            self._pending += [(child.id, node.level - 1) for child in node.children]
            return 1
        for entry in node.entries:
            if entry.kind == objects.ENTRY_DIRECTORY:
                self._pending.append((entry.content, None))
            elif entry.kind == objects.ENTRY_LINK:
                self._seen.append(entry.link)
        return max(1, len(node.entries))


def _entry_count(node: DirectoryLeaf | DirectoryList) -> int:
    if isinstance(node, DirectoryLeaf):
        return len(node.entries)
    return sum(child.entry_count for child in node.children)


def _item_count(node: DirectoryLeaf | DirectoryList) -> int:
    return len(node.entries) if isinstance(node, DirectoryLeaf) else len(node.children)


def _entry_name(entry: Entry) -> bytes:
    return entry.name
