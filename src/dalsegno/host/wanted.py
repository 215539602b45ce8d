"""What a restore is to bring about: the tree, read from its source, without what is not trusted of it."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.host.owners import OwnerMap, Owners
from dalsegno.host.untrusted import Taming
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.links import LinksTable
from dalsegno.trees.read import entry_xattrs
from dalsegno.world.memory import give_large_blocks_back

LINKS_MANY: Final = 100_000
"""Hard-linked files from which on memory counts for more than page faults."""


def _nothing() -> None:
    """Wait for nothing."""


class WantedTree:
    """A revision as it is to be restored."""

    def __init__(self, source: Source, revision: Revision, owners: OwnerMap, taming: Taming | None) -> None:
        self.source = source
        self.revision = revision
        self.owners = Owners(owners)
        self.compared: Callable[[], None] = getattr(source, "settle", _nothing)
        """Returns when what the source gave was compared with its ids, where that is done beside (pool/checked.py)."""
        self._taming = taming
        self._links = LinksTable(source, revision.links)
        self._links_met = False

    def tamed(self, entry: Entry) -> Entry:
        """Return an entry without what must not come from a backup that is not trusted."""
        return entry if self._taming is None else self._taming.entry(entry)

    def is_forbidden(self, entry: Entry) -> bool:
        """Tell whether an entry is not made at all, because the backup is not trusted."""
        return self._taming is not None and self._taming.is_forbidden(entry)

    def xattrs_of(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        """Return the extended attributes that an entry is to have. Damaged, NotFound."""
        found = entry_xattrs(self.source, entry)
        return found if self._taming is None or not found else self._taming.xattrs(found)

    def whole_content(self, entry: Entry) -> bytes | None:
        """Return the content of a small file, or None for one in pieces. Damaged, NotFound."""
        data: bytes | None = None
        if entry.content_kind == objects.CONTENT_CHUNK:
            data = self.source.get(ObjectId(entry.content))
        elif entry.content_kind == objects.CONTENT_INLINE:
            data = entry.content
        elif entry.size == 0:
            data = b""
        if data is not None and len(data) != entry.size:
            raise Damaged(f"{len(data)} bytes of content, the entry says {entry.size}")
        return data

    def linked_file(self, entry: Entry) -> Entry:
        """Return the file that a hard link is a name of. Damaged, NotFound."""
        if not self._links_met:
            self._links_met = True
            if self._links.count > LINKS_MANY:
                give_large_blocks_back()
        found = self._links.find(entry.link)
        if found is None:
            raise Damaged(f"{entry.name!r}: its file {entry.link:x} is not in the links table")
        return self.tamed(replace(found[1], name=entry.name))
