"""One entry of a tree as a tree of its own: what is restored, or shown, under another name."""

from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryLeaf, Entry, Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId

_TOP = ObjectId(bytes(OBJECT_ID_BYTES))
"""No object has this id."""


class OneEntry:
    """A Source of one directory that holds one entry, and of everything behind that."""

    def __init__(self, source: Source, entry: Entry) -> None:
        self._source = source
        self._top = objects.encode(DirectoryLeaf([entry]))

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        return self._top if identity == _TOP else self._source.get(identity)

    def revision(self, of: Revision) -> Revision:
        """Return a revision with this directory in the place of its root's; nothing is said of what it left out."""
        return replace(of, root=replace(of.root, content=_TOP), coverage=None)
