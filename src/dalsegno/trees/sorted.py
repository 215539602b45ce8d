"""Sorted trees of entries that are read and changed along single paths, whatever their size.

A tree is a directory whose entries lead nowhere (docs/formats/objects.md, "Directory"). Unlike a directory's it has its
count and its depth checked: whoever names its root says how many entries there are.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.trees.build import Cut, DirectoryBuilder

TIME_BIAS: Final = 1 << 63
"""Added to times in keys, which have no sign: times are within it, on both sides of 1970."""


def time_key(at_ns: int, rest: bytes = b"") -> bytes:
    """Return a name that sorts by a time, then by `rest`."""
    return b"%016x " % (at_ns + TIME_BIAS) + rest


@dataclass(frozen=True, slots=True)
class Tree:
    """A sorted tree as whoever names it knows it."""

    root: bytes
    count: int
    """Entries in it, at least 1."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A node, and what is known of it before it is read."""

    id: bytes
    level: int | None
    """None: of the root only its entry count is known."""
    count: int
    after: bytes
    """All names in it are larger than this."""
    last_name: bytes | None


def _root(tree: Tree) -> _Place:
    return _Place(tree.root, None, tree.count, b"", None)


def _read(source: Source, place: _Place) -> DirectoryLeaf | DirectoryList:
    """Return a node that is what its place says: order and names within it are the decoder's to check."""
    what = f"sorted tree: node {hex_short(place.id)}"
    try:
        node = objects.decode_directory(source.get(ObjectId(place.id)))
    except NotFound as error:
        raise Damaged(f"{what}: {error}") from None
    level = node.level if isinstance(node, DirectoryList) else 0
    if place.level is not None and level != place.level:
        raise Damaged(f"{what} at level {level}, where level {place.level} belongs")
    if place.level is None and 2**level > place.count:  # the last node of a level may hold one alone
        raise Damaged(f"{what} at level {level}: {place.count} entries do not lie so deep")
    if isinstance(node, DirectoryLeaf):
        count = len(node.entries)
        first, last = (node.entries[0].name, node.entries[-1].name) if count else (b"", b"")
    else:
        count = sum(child.entry_count for child in node.children)
        first, last = node.children[0].last_name, node.children[-1].last_name
    if count != place.count:
        raise Damaged(f"{what}: {count} entries, {place.count} belong in it")
    if first <= place.after or (place.last_name is not None and last != place.last_name):
        raise Damaged(f"{what}: its names are not those that belong in it")
    return node


def _below(place: _Place, node: DirectoryList) -> list[_Place]:
    after = place.after
    places = []
    for child in node.children:
        places.append(_Place(child.id, node.level - 1, child.entry_count, after, child.last_name))
        after = child.last_name
    return places


def find(source: Source, tree: Tree, name: bytes) -> Entry | None:
    """Return the entry `name`, or None; one node a level is read."""
    place = _root(tree)
    while True:
        node = _read(source, place)
        if isinstance(node, DirectoryLeaf):
            row = bisect_left(node.entries, name, key=lambda entry: entry.name)
            return node.entries[row] if row < len(node.entries) and node.entries[row].name == name else None
        row = bisect_left(node.children, name, key=lambda child: child.last_name)
        if row == len(node.children):
            return None
        place = _below(place, node)[row]


@dataclass(frozen=True, slots=True)
class Span:
    """The names that belong in one leaf."""

    after: bytes
    last: bytes | None
    """None: the last leaf of a tree takes all that come behind it."""

    def __contains__(self, name: bytes) -> bool:
        return self.after < name and (self.last is None or name <= self.last)


def leaf_span(source: Source, tree: Tree, name: bytes) -> Span:
    """Return which names belong in the leaf where `name` does; one node a level is read."""
    place = _root(tree)
    is_last = True
    while isinstance(node := _read(source, place), DirectoryList):
        row = min(bisect_left(node.children, name, key=lambda child: child.last_name), len(node.children) - 1)
        is_last = is_last and row == len(node.children) - 1
        place = _below(place, node)[row]
    return Span(place.after, None if is_last else place.last_name)


def ascending(source: Source, tree: Tree, *, tell: Callable[[Damaged], None] | None = None) -> Iterator[Entry]:
    """Yield all entries, the smallest name first. With `tell`, nodes that cannot be read are told, and left out."""
    stack = [_root(tree)]
    while stack:
        place = stack.pop()
        try:
            node = _read(source, place)
        except Damaged as error:
            if tell is None:
                raise
            tell(error)
            continue
        if isinstance(node, DirectoryLeaf):
            yield from node.entries
        else:
            stack += reversed(_below(place, node))


def descending(source: Source, tree: Tree, *, below: bytes | None = None) -> Iterator[Entry]:
    """Yield the entries whose names are smaller than `below` (None: all), the largest first."""
    stack = [_root(tree)]
    while stack:
        place = stack.pop()
        if below is not None and place.after >= below:
            continue
        node = _read(source, place)
        if isinstance(node, DirectoryList):
            stack += _below(place, node)
            continue
        end = len(node.entries) if below is None else bisect_left(node.entries, below, key=lambda entry: entry.name)
        yield from reversed(node.entries[:end])


def differences(
    source: Source, tree: Tree | None, other_source: Source, other: Tree | None
) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Yield what two trees have under one name, where that differs, in no order; equal nodes are not entered."""
    sides = [(source, tree), (other_source, other)]
    tops = [_with_level(each_source, _root(each)) if each is not None else None for each_source, each in sides]
    found: tuple[dict[bytes, Entry], dict[bytes, Entry]] = {}, {}
    fronts: list[dict[bytes, _Place]] = [{}, {}]
    for level in range(max((top.level or 0 for top in tops if top is not None), default=-1), -1, -1):
        for front, top in zip(fronts, tops, strict=True):
            if top is not None and top.level == level:
                front[top.id] = top
        shared = fronts[0].keys() & fronts[1].keys()
        below: list[dict[bytes, _Place]] = [{}, {}]
        for number, (each_source, _) in enumerate(sides):
            for place in fronts[number].values():
                if place.id in shared:
                    continue
                node = _read(each_source, place)
                if isinstance(node, DirectoryList):
                    below[number].update((each.id, each) for each in _below(place, node))
                else:
                    found[number].update((entry.name, entry) for entry in node.entries)
        fronts = below
    for name in found[0].keys() | found[1].keys():
        pair = found[0].get(name), found[1].get(name)
        if pair[0] != pair[1]:
            yield pair


def _with_level(source: Source, place: _Place) -> _Place:
    node = _read(source, place)
    return replace(place, level=node.level if isinstance(node, DirectoryList) else 0)


def edit(source: Source, sink: Sink, tree: Tree | None, changes: Mapping[bytes, Entry | None], *, cut: Cut) -> bytes:
    """Store a tree with some names changed (None: removed) and return its root: that of building it all anew.

    What is read and stored is one path for each leaf that changes.
    """
    names = sorted(changes)
    builder = DirectoryBuilder(sink, cut)
    whole: set[bytes] = set()

    def copy(place: _Place, first: int, end: int) -> None:
        node = _read(source, place)
        if isinstance(node, DirectoryLeaf):
            for entry in merge_entries(node.entries, names[first:end], changes):
                builder.add(entry)
            return
        below = _below(place, node)
        for number, child in enumerate(below):
            assert child.last_name is not None and child.level is not None
            last = number == len(below) - 1
            stop = end if last else bisect_right(names, child.last_name, first, end)
            # The last node of a level ended with the tree, not at a cut; nothing comes behind it when it is unchanged.
            if stop == first and builder.takes_node(child.level):
                whole.add(child.id)
                builder.add_node(DirectoryChild(child.last_name, child.count, child.id), child.level)
            else:
                copy(child, first, stop)
            first = stop

    if tree is not None:
        copy(_root(tree), 0, len(names))
    else:
        for name in names:
            entry = changes[name]
            if entry is not None:
                builder.add(entry)
    root: bytes = builder.finish()
    while root in whole:
        # What is left is one old node; a list with one child is never the root: its child is.
        node = objects.decode_directory(source.get(ObjectId(root)))
        if not isinstance(node, DirectoryList) or len(node.children) > 1:
            break
        root = node.children[0].id
        whole.add(root)
    return root


def merge_entries(entries: list[Entry], names: list[bytes], changes: Mapping[bytes, Entry | None]) -> Iterator[Entry]:
    """Yield `entries` with those `changes` that stand under the sorted `names` (None: removed), in order."""
    position = 0
    for entry in entries:
        while position < len(names) and names[position] < entry.name:
            changed = changes[names[position]]
            position += 1
            if changed is not None:
                yield changed
        if position < len(names) and names[position] == entry.name:
            changed = changes[names[position]]
            position += 1
            if changed is not None:
                yield changed
        else:
            yield entry
    for name in names[position:]:
        changed = changes[name]
        if changed is not None:
            yield changed
