"""Where a file's bytes are: its chunks and holes in order, without reading a chunk."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, RecipeLeaf, RecipeList
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import ObjectId

LEAVES_MAX: Final = 1 << 20
"""More leaves than any file has: of 1 MiB a chunk they are 256 TiB, of a page 1 TiB."""
PIECES_MAX: Final = 1 << 22
"""So many pieces of a file that is changed are looked at in one go."""
PIECES_NO_FILE_HAS: Final = (
    "it lies in more pieces than a file can have that is changed: made wrong, or made to fill memory"
)


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of a file: the chunk that holds it, or with an empty id a hole."""

    offset: int
    length: int
    id: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.length


def iterate_extents(source: Source, entry: Entry, *, start: int = 0, end: int | None = None) -> Iterator[Extent]:
    """Yield the chunks and holes that overlap `start` to `end`, whole; content must be a chunk or a recipe."""
    end = entry.size if end is None else min(end, entry.size)
    if start >= end:
        return
    if entry.content_kind == objects.CONTENT_CHUNK:
        yield Extent(0, entry.size, entry.content)
    elif entry.content_kind == objects.CONTENT_RECIPE:
        yield from _iterate_node(source, _top(source, entry), 0, start, end)
    else:
        raise Damaged(f"{entry.name!r}: no content, the entry says {entry.size} bytes")


def _iterate_node(source: Source, node: RecipeLeaf | RecipeList, base: int, start: int, end: int) -> Iterator[Extent]:
    ends = node.ends
    for row in range(bisect_right(ends, start - base) if start > base else 0, len(ends)):
        item_start = base + (ends[row - 1] if row else 0)
        item_end = base + ends[row]
        if item_start >= end:
            return
        identity = node.ids[row]
        if isinstance(node, RecipeLeaf):
            yield Extent(item_start, item_end - item_start, identity)
            continue
        yield from _iterate_node(source, _child(source, node, identity, item_end - item_start), item_start, start, end)


def _top(source: Source, entry: Entry) -> RecipeLeaf | RecipeList:
    """Return the first node of a file's recipe."""
    top = objects.decode_recipe(source.get(ObjectId(entry.content)))
    if top.ends[-1] != entry.size:
        raise Damaged(f"{entry.name!r}: {top.ends[-1]} bytes of content, the entry says {entry.size}")
    return top


def _child(source: Source, node: RecipeList, identity: bytes, length: int) -> RecipeLeaf | RecipeList:
    """Return a node below another, which says that it is of so many bytes."""
    child = objects.decode_recipe(source.get(ObjectId(identity)))
    level = child.level if isinstance(child, RecipeList) else 0
    if child.ends[-1] != length or level != node.level - 1:
        raise Damaged(f"recipe {identity[:6].hex()}: its length or level and its parent's word disagree")
    return child


def recipe_leaves(source: Source, entry: Entry) -> list[Extent]:
    """Return the leaves of a file's recipe in order, without reading them; none when there is one or no recipe.

    Damaged for more of them than any file has.
    """
    if entry.content_kind != objects.CONTENT_RECIPE:
        return []
    leaves: list[Extent] = []
    stack = [(Extent(0, entry.size, entry.content), -1)]
    while stack:
        node, level = stack.pop()
        if level == 0:
            leaves.append(node)
            if len(leaves) > LEAVES_MAX:
                raise Damaged(f"{entry.name!r}: {PIECES_NO_FILE_HAS}")
            continue
        recipe = objects.decode_recipe(source.get(ObjectId(node.id)))
        if isinstance(recipe, RecipeLeaf):
            return []
        if level not in (-1, recipe.level) or recipe.ends[-1] != node.length:
            raise Damaged(f"recipe {node.id[:6].hex()}: its length or level and its parent's word disagree")
        below = zip([0, *recipe.ends[:-1]], recipe.ends, recipe.ids, strict=True)
        children = [(Extent(node.offset + at, end - at, identity), recipe.level - 1) for at, end, identity in below]
        stack += reversed(children)
    return leaves


def data_bytes(source: Source, entry: Entry) -> int:
    """Return how many bytes of a file are no holes; each node is read once, however often it stands there."""
    if entry.content_kind != objects.CONTENT_RECIPE:
        return entry.size
    known: dict[bytes, int] = {}

    def count(node: RecipeLeaf | RecipeList) -> int:
        found = 0
        for start, end, identity in zip([0, *node.ends[:-1]], node.ends, node.ids, strict=True):
            if isinstance(node, RecipeLeaf):
                found += end - start if identity else 0
                continue
            if identity not in known:
                known[identity] = count(_child(source, node, identity, end - start))
            found += known[identity]
        return found

    return count(_top(source, entry))


def find_data(source: Source, entry: Entry, offset: int, *, end: int | None = None) -> int | None:
    """Return where the first data at or behind `offset` begins, or None when only a hole follows up to `end`."""
    end = entry.size if end is None else min(end, entry.size)
    if entry.content_kind not in (objects.CONTENT_CHUNK, objects.CONTENT_RECIPE):
        return offset if offset < end else None
    if entry.content_kind == objects.CONTENT_RECIPE:
        return _find(source, entry, offset, end, hole=False)
    return offset if offset < end else None


def find_hole(source: Source, entry: Entry, offset: int, *, end: int | None = None) -> int:
    """Return where the first hole at or behind `offset` begins; `end`, or that of the file, counts as one."""
    end = entry.size if end is None else min(end, entry.size)
    found = _find(source, entry, offset, end, hole=True) if entry.content_kind == objects.CONTENT_RECIPE else None
    return end if found is None else found


def _find(source: Source, entry: Entry, start: int, end: int, *, hole: bool) -> int | None:
    """Return where the first hole, or the first data, of a recipe begins between `start` and `end`, or None.

    A node that has none is read once, however often it stands there: a file may be larger than all objects together.
    """
    if start >= end:
        return None
    without: set[bytes] = set()

    def below(node: RecipeLeaf | RecipeList, base: int) -> int | None:
        ends = node.ends
        for row in range(bisect_right(ends, start - base) if start > base else 0, len(ends)):
            item_start, item_end = base + (ends[row - 1] if row else 0), base + ends[row]
            if item_start >= end:
                return None
            identity = node.ids[row]
            if isinstance(node, RecipeLeaf):
                if bool(identity) != hole:
                    return max(start, item_start)
            elif identity not in without:
                found = below(_child(source, node, identity, item_end - item_start), item_start)
                if found is not None:
                    return found
                if start <= item_start and item_end <= end:
                    without.add(identity)
        return None

    return below(_top(source, entry), 0)
