"""What a restore does to the target, entry by entry: before it does it (a dry run) or meanwhile."""

import stat as modes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry

CREATE: Final = "create"
CHANGE: Final = "change"
DELETE: Final = "delete"
PROTECT: Final = "protect"

CONTENT: Final = "content"
KIND: Final = "kind"
LINKS: Final = "links"
"""It is one file with another name, or not, where the tree has it the other way."""

_KINDS: Final = {
    modes.S_IFREG: "file",
    modes.S_IFDIR: "directory",
    modes.S_IFLNK: "symlink",
    modes.S_IFIFO: "fifo",
    modes.S_IFCHR: "char-device",
    modes.S_IFBLK: "block-device",
    modes.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the target that is made, changed, removed, or protected from removal."""

    action: str
    path: bytes
    kind: str
    size_bytes: int
    """Of the file as it will be; of what is removed or protected as it is."""
    what: tuple[str, ...] = ()
    """CHANGE: in what, sorted. PROTECT: why."""


Tell = Callable[[Change], None]


def change_of(action: str, path: bytes, entry: Entry, what: tuple[str, ...] = ()) -> Change:
    """Return a change that gives the target what the tree has."""
    kind = objects.ENTRY_NAMES.get(entry.kind, str(entry.kind))
    return Change(action=action, path=path, kind=kind, size_bytes=entry.size, what=what)


def change_of_existing(action: str, path: bytes, mode: int, size_bytes: int, what: tuple[str, ...] = ()) -> Change:
    """Return a change of what only the target has."""
    kind = _KINDS.get(modes.S_IFMT(mode), "unknown")
    size = 0 if kind == "directory" else size_bytes
    return Change(action=action, path=path, kind=kind, size_bytes=size, what=what)
