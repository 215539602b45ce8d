"""Which node number and birth time a file carries on from the revision before, under whatever name it is now."""

from array import array
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.formats.scan_cache import KEY
from dalsegno.host.attributes import StatxBuffer
from dalsegno.host.baseline import Baseline
from dalsegno.host.fields import INO, MTIME_NS, MTIME_S, SIZE, Fields, OpenDirectory, birth_of, device_number
from dalsegno.terms.errors import DalError
from dalsegno.trees.links import LinksTable
from dalsegno.trees.read import iterate_directory

FACTS_MAX: Final = 8
"""Directories of the revision before whose nodes are kept at hand for files that were renamed."""
Facts = tuple[bytearray, "array[int]", "array[int]"]
"""Kinds, nodes (links: link ids) and birth times of a directory's entries."""


class NodeHistory:
    """Finds the entries of the revision before that files carry on."""

    def __init__(self, baseline: Baseline | None, buffer: StatxBuffer) -> None:
        self._baseline = baseline
        self._cache = baseline.cache if baseline is not None else None
        self._buffer = buffer
        self._claimed: set[int] = set()
        """Nodes carried on to another name or another inode than before: no other file gets them."""
        self._facts: dict[bytes, Facts] = {}
        self._links: LinksTable | None = None
        self.links_unsound = False
        """Whether something in the links table is lost, so that all files with several names are read anew."""
        if baseline is not None and baseline.revision.links:
            links, relies = baseline.revision.links, baseline.relies
            self._links = LinksTable(baseline.source, links)
            self.links_unsound = relies is not None and not relies(links)

    @property
    def is_known(self) -> bool:
        """Whether there is a cache, without which no file is found again."""
        return self._cache is not None

    def carried(
        self, directory: OpenDirectory, fields: Fields, kind: int, old: Entry | None, old_key: bytes
    ) -> Entry | None:
        """Return the entry, of the same kind, that a file had at the last scan; None for a new file.

        An inode keeps its node under whatever name, as long as its birth time is the same. A new inode takes on the
        node of its path (`old`) when the old inode is gone (an editor saved the file), and not when it was renamed.
        """
        inode, _, _, _, _, _, birth = KEY.unpack(old_key)
        if old is not None and inode == fields[INO] and birth == birth_of(fields):
            was = self.link(old.link) if old.kind == objects.ENTRY_LINK else old
            if was is not None and was.kind == kind:
                return was
        found = self._trace(fields, kind)
        if found is None and old is not None and old.kind == kind and not directory.holds(inode, birth, self._buffer):
            found = old
        if found is None or found.node in self._claimed:
            return None
        self._claimed.add(found.node)
        return found

    def link(self, node: int) -> Entry | None:
        """Return the file that a node was in the revision before, under its name in the links table."""
        try:
            found = self._links.find(node) if self._links is not None else None
        except DalError:
            if not self.links_unsound:
                raise
            return None
        return found[1] if found is not None else None

    def _trace(self, fields: Fields, kind: int) -> Entry | None:
        """Return the entry (without name and content) that this inode had under another name at the last scan."""
        assert self._cache is not None
        birth = birth_of(fields)
        for place in self._cache.find(device_number(fields), fields[INO], birth):
            if birth == 0:  # a file system without birth times: a rename at least keeps size and mtime
                _, size, _, _, mtime, mtime_ns, _ = KEY.unpack(place.key)
                if (size, mtime, mtime_ns) != (fields[SIZE], fields[MTIME_S], fields[MTIME_NS]):
                    continue
            facts = self._directory_facts(place.directory)
            if facts is None:
                continue
            kinds, nodes, births = facts
            was, node, birth_ns = kinds[place.position], nodes[place.position], births[place.position]
            if was == objects.ENTRY_LINK:
                linked = self.link(node)
                if linked is None:
                    continue
                was, birth_ns = linked.kind, linked.btime_ns
            if was == kind:
                return Entry(name=b"", kind=kind, node=node, btime_ns=birth_ns)
        return None

    def _directory_facts(self, identity: bytes) -> Facts | None:
        """Return the facts of a directory of the revision before; None when it cannot be read."""
        facts = self._facts.get(identity)
        if facts is None:
            assert self._baseline is not None
            facts = bytearray(), array("Q"), array("q")
            try:
                for entry in iterate_directory(self._baseline.source, identity):
                    facts[0].append(entry.kind)
                    facts[1].append(entry.link if entry.kind == objects.ENTRY_LINK else entry.node)
                    facts[2].append(entry.btime_ns)
            except DalError:
                return None
            if len(self._facts) >= FACTS_MAX:
                del self._facts[next(iter(self._facts))]
            self._facts[identity] = facts
        return facts
