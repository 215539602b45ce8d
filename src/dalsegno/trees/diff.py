"""Compare trees: equal ids are not entered, so the work follows the change."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_LINK, DirectoryLeaf, DirectoryList, Entry, Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.limit import entries_max
from dalsegno.trees.read import directory_node
from dalsegno.trees.walk import Unreadable, walk


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs: added (old is None), removed (new is None) or changed."""

    path: bytes
    old: Entry | None
    new: Entry | None


def differing_nodes(
    source: Source, old: bytes, new: bytes
) -> tuple[list[tuple[bytes, DirectoryLeaf | DirectoryList]], dict[bytes, Entry], dict[bytes, Entry]]:
    """Return the nodes that only `new` has, and the entries of those leaves that the two do not share."""
    fronts: list[dict[bytes, DirectoryLeaf | DirectoryList]] = []
    for identity in (old, new):
        fronts.append({identity: objects.decode_directory(source.get(ObjectId(identity)))} if identity else {})
    only_new: list[tuple[bytes, DirectoryLeaf | DirectoryList]] = []
    while True:
        for shared in fronts[0].keys() & fronts[1].keys():
            del fronts[0][shared], fronts[1][shared]
        levels = [node.level for front in fronts for node in front.values() if isinstance(node, DirectoryList)]
        if not levels:
            break
        level = max(levels)
        children: list[list[bytes]] = []
        for side, front in enumerate(fronts):
            at_level = [i for i, node in front.items() if isinstance(node, DirectoryList) and node.level == level]
            ids = []
            for identity in at_level:
                node = front.pop(identity)
                assert isinstance(node, DirectoryList)
                if side == 1:
                    only_new.append((identity, node))
                ids += [child.id for child in node.children]
            children.append(ids)
        shared_ids = set(children[0]) & set(children[1])
        for side, front in enumerate(fronts):
            for identity in children[side]:
                # A node that both sides have at this level is equal; one that is already in front is met again above.
                if identity not in shared_ids:
                    front[identity] = directory_node(source, identity, level - 1)
    only_new += fronts[1].items()
    entries = [
        {entry.name: entry for node in front.values() if isinstance(node, DirectoryLeaf) for entry in node.entries}
        for front in fronts
    ]
    for name in [name for name, entry in entries[0].items() if entries[1].get(name) == entry]:
        del entries[0][name], entries[1][name]
    return only_new, entries[0], entries[1]


def _same_but_content(old: Entry, new: Entry) -> bool:
    return msgspec.structs.replace(old, content=b"") == msgspec.structs.replace(new, content=b"")


def diff_directories(
    source: Source,
    old: bytes,
    new: bytes,
    path: bytes = b"",
    *,
    unreadable: Unreadable | None = None,
    names_max: int | None = None,
) -> Iterator[Change]:
    """Yield the changes between two directories and all that is below them, in name order.

    With `unreadable` it goes on around directories that cannot be read. Damaged after `names_max` names that differ.
    """
    stack = [(path, old, new)]
    met = 0
    while stack:
        parent, old_id, new_id = stack.pop()
        if old_id == new_id:
            continue
        try:
            _, old_entries, new_entries = differing_nodes(source, old_id, new_id)
        except (Damaged, NotFound) as error:
            if unreadable is None:
                raise
            unreadable(parent, error)
            continue
        below = []
        for name in sorted(old_entries.keys() | new_entries.keys()):
            child = parent + b"/" + name if parent else name
            met += 1
            if names_max is not None and met > names_max:
                raise Damaged("more names differ than both revisions speak of: made wrong, or made to fill disks")
            before, after = old_entries.get(name), new_entries.get(name)
            directories = [entry is not None and entry.kind == ENTRY_DIRECTORY for entry in (before, after)]
            if not (before and after and all(directories) and _same_but_content(before, after)):
                yield Change(child, before, after)
            if any(directories):
                old_content = before.content if before and directories[0] else b""
                new_content = after.content if after and directories[1] else b""
                below.append((child, old_content, new_content))
        stack += reversed(below)


def diff_revisions(
    source: Source, old: Revision | None, new: Revision | None, *, unreadable: Unreadable | None = None
) -> Iterator[Change]:
    """Yield what changed from `old` to `new`, hard-linked files included; None is the empty tree."""
    if old and new and not _same_but_content(old.root, new.root):
        yield Change(b"", old.root, new.root)
    told = set()
    roots = [each.root.content if each else b"" for each in (old, new)]
    names_max = sum(entries_max(each) for each in (old, new) if each)
    for change in diff_directories(source, *roots, unreadable=unreadable, names_max=names_max):
        if change.new and change.new.kind == ENTRY_LINK:
            told.add(change.path)
        yield change
    if old and new and old.links != new.links and old.links and new.links:
        try:
            _, before, after = differing_nodes(source, old.links, new.links)
        except (Damaged, NotFound) as error:
            if unreadable is None:
                raise
            unreadable(b"", type(error)(f"the table of hard links, so what they changed is not told: {error}"))
            return
        changed = {int(name, 16): name for name in before.keys() & after.keys()}
        if changed:
            # Only the links table knows the change, so the names are looked for: the one comparison that walks.
            for path, entry in walk(source, new, unreadable=unreadable):
                if entry.kind == ENTRY_LINK and entry.link in changed and path not in told:
                    name = changed[entry.link]
                    yield Change(path, before[name], after[name])
