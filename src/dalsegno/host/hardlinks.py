"""Files with several names that a scan meets: each is stored once, in the links table; its names point there."""

from collections.abc import Iterator
from stat import S_IFREG
from typing import NamedTuple

from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.formats.scan_cache import KEY, KEY_BYTES
from dalsegno.host.baseline import Baseline
from dalsegno.host.cache import CacheBuilder
from dalsegno.host.entries import EntryMaker
from dalsegno.host.fields import FORM_MASK, INO, KINDS, MODE, SIZE, Leaf, birth_of, device_number
from dalsegno.host.findings import Findings
from dalsegno.host.linked import LinkedFiles
from dalsegno.host.nodes import NodeHistory
from dalsegno.host.unchanged import LinkedName
from dalsegno.pool.contract import Sink
from dalsegno.terms.errors import NotFound
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import iterate_directory, links_key


class _Carried(NamedTuple):
    """The node that a file with several names carries on, 0 for a new one, and its entry before."""

    node: int
    before: Entry | None


class HardLinks:
    """The files with several names of one scan."""

    def __init__(self, baseline: Baseline | None, nodes: NodeHistory, entries: EntryMaker, findings: Findings) -> None:
        self._baseline = baseline
        self._cache = baseline.cache if baseline is not None else None
        self._nodes = nodes
        self._entries = entries
        self._findings = findings
        self._files = LinkedFiles()

    def keep(self, names: list[LinkedName], keys: bytearray) -> int | None:
        """Note the names of a directory, whose keys are `keys`, when all their files are as cached.

        Return how many bytes are of files that were met before; None, and nothing noted, when one is not as cached.
        """
        met_bytes = 0
        found: list[tuple[LinkedName, int, bytes]] = []
        for linked in names:
            key = keys[linked.place : linked.place + KEY_BYTES]
            row = self._files.find(linked.device, linked.inode)
            if row is not None:
                if self._files.key(row) != key:
                    return None
                met_bytes += linked.size
                continue
            known = self._cached(linked.device, linked.inode)
            if known is None or known[1] != key:
                return None
            found.append((linked, *known))
        for linked, node, cached_key in found:
            if self._files.find(linked.device, linked.inode) is None:
                self._files.add(linked.device, linked.inode, node=node, key=cached_key, entry=None)
            else:
                met_bytes += linked.size
        return met_bytes

    def add(self, leaf: Leaf, old: Entry | None, old_key: bytes) -> tuple[Entry, bytes] | None:
        """Return the link entry and key of one name; the file goes to the links table once. None: it is not readable.

        `old` and `old_key` are what the revision before has under this name.
        """
        device, inode, key = device_number(leaf.fields), leaf.fields[INO], leaf.key
        row = self._files.find(device, inode)
        if row is not None:
            node = self._files.node(row)
        else:
            known = self._cached(device, inode)
            if known is not None and (
                KEY.unpack(known[1])[6] != birth_of(leaf.fields) or self._files.has_node(known[0])
            ):
                known = None
            if known is not None and known[1] == key:
                node = known[0]
                self._files.add(device, inode, node=node, key=key, entry=None)
                self._findings.total_bytes += leaf.fields[SIZE] if leaf.fields[MODE] & FORM_MASK == S_IFREG else 0
            else:
                node, before = self._carried(leaf, known[0] if known is not None else None, old, old_key)
                made = self._entries.leaf(leaf, before)
                if made is None:
                    return None
                entry, key = made
                node = node or entry.node
                named = replace(entry, name=links_key(node), node=node)
                self._files.add(device, inode, node=node, key=key, entry=named)
                self._findings.total_bytes += entry.size if entry.kind == objects.ENTRY_FILE else 0
        if old is not None and old.kind == objects.ENTRY_LINK and old.link == node:
            return old, key
        return Entry(name=leaf.name, kind=objects.ENTRY_LINK, link=node), key

    def finish(self, sink: Sink, builder: CacheBuilder) -> bytes:
        """Store the links table and return its id, or nothing without links."""
        files = self._files
        builder.add_links(files.records, count=len(files))
        if not len(files):
            return b""
        if not files.new_count and self._cache is not None and self._cache.link_count == len(files):
            assert self._baseline is not None
            return self._baseline.revision.links
        return store_directory(sink, self._table())

    def _cached(self, device: int, inode: int) -> tuple[int, bytes] | None:
        """Return (node, key) of a file as the cache has it; None when its content may be lost."""
        return self._cache.link(device, inode) if self._cache is not None and not self._nodes.links_unsound else None

    def _carried(self, leaf: Leaf, cached_node: int | None, old: Entry | None, old_key: bytes) -> _Carried:
        """Decide which node a file carries on that is to be stored; `cached_node` is that of the cache."""
        node: int | None = None
        before: Entry | None = None
        if cached_node is not None:
            node = cached_node
            before = self._nodes.link(node)
        elif self._cache is not None:
            kind = KINDS[leaf.fields[MODE] & FORM_MASK]
            before = self._nodes.carried(leaf.directory, leaf.fields, kind, old, old_key)
            # A node that the cache knows may belong to a directory that is yet to be found unchanged.
            if before is not None and (self._nodes.links_unsound or not self._cache.knows_link(before.node)):
                node = before.node
        elif old is not None:
            node = old.link if old.kind == objects.ENTRY_LINK else old.node
            before = self._nodes.link(node) or old
        if node is None or self._files.has_node(node):
            return _Carried(0, None)
        return _Carried(node, before)

    def _table(self) -> Iterator[Entry]:
        """Yield the files of the links table in its order: new ones, and from the old table what is as before."""
        known_before: Iterator[Entry] = iter(())
        if self._baseline is not None and self._baseline.revision.links:
            known_before = iterate_directory(self._baseline.source, self._baseline.revision.links)
        for row in self._files.rows_by_node():
            entry = self._files.entry(row)
            if entry is None:
                name = links_key(self._files.node(row))
                entry = next((known for known in known_before if known.name >= name), None)
                if entry is None or entry.name != name:
                    raise NotFound(
                        f"links table: no file {name.decode()} in the revision before: remove the scan cache, run again"
                    )
            yield entry
