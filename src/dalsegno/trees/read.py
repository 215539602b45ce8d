"""Read trees through any source: directories, paths, content."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial

from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryLeaf, DirectoryList, Entry, RecipeLeaf, RecipeList, Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.ids import ObjectId


def read_revision(source: Source, identity: bytes) -> Revision:
    """Return the revision `identity`."""
    return objects.decode_revision(source.get(ObjectId(identity)))


def directory_node(source: Source, identity: bytes, level: int | None) -> DirectoryLeaf | DirectoryList:
    """Return a node of a directory; Damaged when it is at another level: a list that is below itself has no end."""
    node = objects.decode_directory(source.get(ObjectId(identity)))
    found = node.level if isinstance(node, DirectoryList) else 0
    if level is not None and found != level:
        raise Damaged(f"directory {identity[:6].hex()}: a node at level {found} where level {level} belongs")
    return node


def child_node(source: Source, parent: DirectoryList, row: int) -> DirectoryLeaf | DirectoryList:
    """Return a node below a list; Damaged unless it is what the list says of it.

    Names that ascend from node to node meet no node twice: a walk takes the time that its objects take.
    """
    child = parent.children[row]
    node = directory_node(source, child.id, parent.level - 1)
    if isinstance(node, DirectoryLeaf):
        count = len(node.entries)
        first, last = (node.entries[0].name, node.entries[-1].name) if count else (b"", b"")
    else:
        count = sum(each.entry_count for each in node.children)
        first, last = node.children[0].last_name, node.children[-1].last_name
    after = parent.children[row - 1].last_name if row else b""
    if last != child.last_name or count != child.entry_count or first <= after:
        raise Damaged(f"directory {child.id[:6].hex()}: its names or their count and its parent's word disagree")
    return node


def _recipe_node(source: Source, identity: bytes, level: int | None) -> RecipeLeaf | RecipeList:
    node = objects.decode_recipe(source.get(ObjectId(identity)))
    found = node.level if isinstance(node, RecipeList) else 0
    if level is not None and found != level:
        raise Damaged(f"recipe {identity[:6].hex()}: a node at level {found} where level {level} belongs")
    return node


def iterate_directory(
    source: Source, identity: bytes, *, unreadable: Callable[[DalError], None] | None = None
) -> Iterator[Entry]:
    """Yield the entries of a directory in name order; with `unreadable`, go on around what of it cannot be read."""
    return _iterate_directory(partial(directory_node, source, identity, None), source, unreadable)


def _iterate_directory(
    read: Callable[[], DirectoryLeaf | DirectoryList], source: Source, unreadable: Callable[[DalError], None] | None
) -> Iterator[Entry]:
    try:
        node = read()
    except (Damaged, NotFound) as error:
        if unreadable is None:
            raise
        unreadable(error)
        return
    if isinstance(node, DirectoryLeaf):
        yield from node.entries
    else:
        for row in range(len(node.children)):
            yield from _iterate_directory(partial(child_node, source, node, row), source, unreadable)


def lookup(source: Source, directory: bytes, name: bytes) -> Entry | None:
    """Return the entry `name` of a directory, reading one node a level."""
    level = None
    identity = directory
    while True:
        node = directory_node(source, identity, level)
        if isinstance(node, DirectoryLeaf):
            row = bisect_left(node.entries, name, key=lambda entry: entry.name)
            found = row < len(node.entries) and node.entries[row].name == name
            return node.entries[row] if found else None
        row = bisect_left(node.children, name, key=lambda child: child.last_name)
        if row == len(node.children):
            return None
        identity, level = node.children[row].id, node.level - 1


def links_key(link: int) -> bytes:
    """Return the name under which the links table keeps a file."""
    return b"%016x" % link


def resolve_link(source: Source, links: bytes, entry: Entry) -> Entry:
    """Return the file behind an ENTRY_LINK, under the link's own name; other entries as they are."""
    if entry.kind != objects.ENTRY_LINK:
        return entry
    found = lookup(source, links, links_key(entry.link)) if links else None
    if found is None:
        raise Damaged(f"{entry.name!r}: its file {entry.link:x} is not in the links table")
    return replace(found, name=entry.name)


def resolve_path(source: Source, revision: Revision, path: bytes) -> Entry:
    """Return the entry at `path` (relative to the root; empty is the root); a link as the file behind it."""
    entry = revision.root
    for name in [part for part in path.split(b"/") if part]:
        if entry.kind != objects.ENTRY_DIRECTORY:
            raise NotFound(f"{path.decode(errors='replace')}: {entry.name!r} on its way is not a directory")
        found = lookup(source, entry.content, name)
        if found is None:
            raise NotFound(f"{path.decode(errors='replace')}: no such file in this revision")
        entry = found
    return resolve_link(source, revision.links, entry)


def entry_xattrs(source: Source, entry: Entry) -> list[tuple[bytes, bytes]]:
    """Return the extended attributes of an entry."""
    if not entry.xattrs:
        return []
    identity = objects.xattrs_reference(entry)
    return objects.decode_xattrs(source.get(identity) if identity is not None else entry.xattrs[1:])


def iterate_content(
    source: Source, entry: Entry, *, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of a file's data in order, between `start` and `end`; holes are not yielded."""
    end = entry.size if end is None else min(end, entry.size)
    if entry.content_kind in (objects.CONTENT_INLINE, objects.CONTENT_CHUNK):
        inline = entry.content_kind == objects.CONTENT_INLINE
        data = entry.content if inline else source.get(ObjectId(entry.content))
        if len(data) != entry.size:
            raise Damaged(f"{entry.name!r}: {len(data)} bytes of content, the entry says {entry.size}")
        if start < end:
            yield start, data[start:end] if (start, end) != (0, len(data)) else data
    elif entry.content_kind == objects.CONTENT_RECIPE:
        top = _recipe_node(source, entry.content, None)
        if top.ends[-1] != entry.size:
            raise Damaged(f"{entry.name!r}: {top.ends[-1]} bytes of content, the entry says {entry.size}")
        yield from _iterate_recipe(source, top, 0, start, end, set())
    elif entry.size and entry.kind == objects.ENTRY_FILE:
        raise Damaged(f"{entry.name!r}: no content, the entry says {entry.size} bytes")


def _iterate_recipe(
    source: Source, node: RecipeLeaf | RecipeList, base: int, start: int, end: int, empty: set[bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yield what is below a node. `empty` are nodes without data: a hole larger than all objects is passed at once."""
    row = bisect_right(node.ends, start - base) if start > base else 0
    while row < len(node.ends):
        item_start = base + (node.ends[row - 1] if row else 0)
        item_end = base + node.ends[row]
        if item_start >= end:
            return
        identity = node.ids[row]
        if isinstance(node, RecipeList):
            if identity not in empty:
                child = _recipe_node(source, identity, node.level - 1)
                if child.ends[-1] != item_end - item_start:
                    raise Damaged(f"recipe {identity[:6].hex()}: its length and its parent's word disagree")
                is_empty = True
                for piece in _iterate_recipe(source, child, item_start, start, end, empty):
                    is_empty = False
                    yield piece
                if is_empty and start <= item_start and item_end <= end:
                    empty.add(identity)
        elif identity:
            data = source.get(ObjectId(identity))
            if len(data) != item_end - item_start:
                raise Damaged(f"chunk {identity[:6].hex()}: its length and its recipe's word disagree")
            low, high = max(start, item_start), min(end, item_end)
            yield low, data[low - item_start : high - item_start] if high - low != len(data) else data
        row += 1


def read_content(source: Source, entry: Entry, *, offset: int, length: int) -> bytes:
    """Return up to `length` bytes of a file at `offset`, holes as zeros."""
    end = min(entry.size, offset + length)
    if offset >= end:
        return b""
    parts: list[bytes] = []
    position = offset
    for at, data in iterate_content(source, entry, start=offset, end=end):
        if at > position:
            parts.append(bytes(at - position))
        parts.append(data)
        position = at + len(data)
    if position < end:
        parts.append(bytes(end - position))
    return b"".join(parts)
