"""Walk a whole tree in name order, each directory before what is in it."""

from collections.abc import Callable, Iterator
from functools import partial

from dalsegno.formats.objects import ENTRY_DIRECTORY, Entry, Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import DalError, Damaged
from dalsegno.trees.limit import entries_max, too_many
from dalsegno.trees.measure import DEPTH_MAX
from dalsegno.trees.read import iterate_directory, resolve_path

Unreadable = Callable[[bytes, DalError], None]
"""Told a directory that cannot be read, or not wholly, and why."""


def walk(
    source: Source, revision: Revision, path: bytes = b"", *, unreadable: Unreadable | None = None
) -> Iterator[tuple[bytes, Entry]]:
    """Yield (path, entry) for everything below `path`, the start itself first. Links are yielded as they stand.

    With `unreadable` it goes on around what cannot be read.

    A directory that contains itself is Damaged, and so is a tree that goes on far beyond what its revision says: they
    cannot have been written honestly.
    """
    start = resolve_path(source, revision, path)
    path = b"/".join(part for part in path.split(b"/") if part)
    yield path, start

    def entries_of(child: bytes, content: bytes) -> Iterator[Entry]:
        tell = partial(unreadable, child) if unreadable is not None else None
        return iterate_directory(source, content, unreadable=tell)

    if start.kind != ENTRY_DIRECTORY:
        return
    left = entries_max(revision)
    above = [start.content]
    stack = [(path, entries_of(path, start.content))]
    while stack:
        parent, entries = stack[-1]
        for entry in entries:
            child = parent + b"/" + entry.name if parent else entry.name
            left -= 1
            if left < 0:
                raise too_many(revision)
            yield child, entry
            if entry.kind == ENTRY_DIRECTORY:
                if entry.content in above or len(above) > DEPTH_MAX:
                    raise Damaged(f"{child!r}: a directory that contains itself")
                above.append(entry.content)
                stack.append((child, entries_of(child, entry.content)))
                break
        else:
            stack.pop()
            above.pop()
