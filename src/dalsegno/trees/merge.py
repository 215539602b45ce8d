"""Three-way merge of trees: what one side changed wins, what both changed becomes a conflict that keeps both.

Three steps. Each side is followed from the base, so that it is known what it did to every file and directory, whatever
it is called now. Then it is decided where each of these comes to stand. Then directories are written, the deepest
first; one in which a side has exactly what comes out is taken from there. Nothing is looked at that neither side
changed, so the cost follows the changes.

Nothing goes into the result but the three trees and the names of the sides: everybody who merges the same trees makes
the same one, in whichever order they are given (docs/formats/objects.md, "Merges").
"""

from dataclasses import dataclass

import msgspec

from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_LINK, Entry, Revision, is_conflict
from dalsegno.pool.contract import Sink, Source
from dalsegno.trees.diff import differing_nodes
from dalsegno.trees.edit import edit_directory
from dalsegno.trees.follow import GONE, KEPT, SAME, Follower, Item, Placed, Visits, is_plain_directory
from dalsegno.trees.merge_entry import (
    Side,
    make_conflict,
    merge_attributes,
    merge_fields,
    merge_sides,
    side_name,
)
from dalsegno.trees.merge_links import LinksMerge

BASE_LABEL = b"base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The tree that two became."""

    root: Entry
    links: bytes
    conflicts: tuple[bytes, ...]
    """Paths at which both sides are kept."""


def merge_trees(
    source: Source, sink: Sink, base: Revision | None, a: Revision, b: Revision, *, names: tuple[str, str]
) -> Merged:
    """Merge `a` and `b`, which both come from `base`; `names` tell the sides of a conflict apart.

    `source` must read what `sink` stored, too. The sides are taken in the order of their names.
    """
    if names[1] < names[0]:
        a, b, names = b, a, (names[1], names[0])
    return _Merge(source, sink, base, (a, b), (names[0].encode(), names[1].encode())).run()


class _Merge:
    def __init__(
        self,
        source: Source,
        sink: Sink,
        base: Revision | None,
        sides: tuple[Revision, Revision],
        labels: tuple[bytes, bytes],
    ) -> None:
        self.source = source
        self.sink = sink
        self.base = base
        self.sides = sides
        self.labels = labels
        self.conflicts: set[bytes] = set()
        self.visits = Visits()
        self.items: list[Item] = []
        nothing = msgspec.structs.replace(sides[0].root, content=b"", content_kind=objects.CONTENT_NONE)
        self.root = Item(None, b"", base.root if base is not None else nothing, is_directory=True)
        self.root.now = [Placed(None, b"", side.root) for side in sides]
        self.placed: list[dict[Item, dict[bytes, Item]]] = []
        self.same_as: dict[Item, Item] = {}
        """New directories of the second side that are at the place of one of the first."""
        self.claims: dict[Item, dict[bytes, list[Item]]] = {}

    def run(self) -> Merged:
        followers = [Follower(self.source, side, self.root, self.items) for side in (0, 1)]
        for follower, side in zip(followers, self.sides, strict=True):
            follower.follow(side.root.content)
            self.placed.append(follower.placed)
        self.links = LinksMerge(self.source, self.sink, self.base, self.sides, followers, self.labels)
        self._keep_moved()
        self._join_new_directories()
        for item in self.items:
            self._choose_place(item)
        for item in list(self.items):
            if item.place is not None:
                self._revive(item.place[0])
        self._break_cycles()
        for item in self.items:
            if item.place is not None:
                self.claims.setdefault(item.place[0], {}).setdefault(item.place[1], []).append(item)
        for item in self._deepest_first():
            item.content = self._content(item)
        content, links = self.links.finish(self.root.content, self.conflicts)
        root = self._attributes(self.root)
        root = msgspec.structs.replace(root, name=b"", content=content, content_kind=objects.CONTENT_DIRECTORY)
        return Merged(root=root, links=links, conflicts=tuple(sorted(self.conflicts)))

    # Where things come to stand

    def _keep_moved(self) -> None:
        """What one side removed and the other moved stays, with all that is in it."""
        kept = []
        for item in self.items:
            for side in (0, 1):
                if item.base is not None and self._is_moved(item, side) and item.state(1 - side) is GONE:
                    kept.append((item, 1 - side))
        for item, side in kept:
            item.now[side] = KEPT
            self.links.unsure = True

    @staticmethod
    def _is_moved(item: Item, side: int) -> bool:
        now = item.now[side]
        return isinstance(now, Placed) and (now.above, now.name) != (item.above, item.name)

    def _join_new_directories(self) -> None:
        for item in self.items:
            now = item.now[1]
            if item.base is None and item.is_directory and isinstance(now, Placed):
                assert now.above is not None
                above, name = self._same_place((now.above, now.name))
                other = self.placed[0].get(above, {}).get(name)
                if other is not None and other.base is None and other.is_directory:
                    self.same_as[item] = other

    def _same_place(self, place: tuple[Item, bytes]) -> tuple[Item, bytes]:
        """Return a place as it is called to compare it: what stands in a directory of the second side stays in that."""
        return self.same_as.get(place[0], place[0]), place[1]

    def _choose_place(self, item: Item) -> None:
        live = [side for side in (0, 1) if item.state(side) is not GONE]
        if not live:
            return
        places = [place for side in live if (place := item.place_on(side)) is not None]
        if item.base is None:
            item.place = places[0]
        elif len(live) == 1:
            # A directory that the other side removed stays for what is in it alone.
            if isinstance(item.state(live[0]), Placed) and not item.is_directory:
                item.place = places[0]
        else:
            assert item.above is not None
            before = (item.above, item.name)
            if self._same_place(places[0]) == self._same_place(places[1]) or places[1] == before:
                item.place = places[0]
            elif places[0] == before:
                item.place = places[1]
            else:
                item.place = min((place[1], side, place) for side, place in enumerate(places))[2]
                item.split = True

    def _revive(self, item: Item) -> None:
        """Give a directory in which something stands a place, and all those above it."""
        while item.place is None and item is not self.root:
            sides = [side for side in (0, 1) if item.state(side) is not GONE]
            place = item.place_on(sides[0]) if sides else None
            assert item.above is not None
            item.place = place or (item.above, item.name)
            item.revived = True
            item = item.place[0]

    def _break_cycles(self) -> None:
        """Where each side moved a directory into what the other moved, let one of them stay where it was."""
        done: set[Item] = {self.root}
        for start in [item for item in self.items if item.place is not None]:
            while start not in done:
                path: dict[Item, None] = {}
                item = start
                while item not in done and item not in path:
                    path[item] = None
                    assert item.place is not None
                    item = item.place[0]
                if item in done:
                    done.update(path)
                    break
                circle = list(path)[list(path).index(item) :]
                moved = [each for each in circle if each.base is not None and each.place != (each.above, each.name)]
                back = min(moved, key=lambda each: each.base_path())
                assert back.above is not None
                back.place, back.split = (back.above, back.name), False
                self._revive(back.above)

    def _deepest_first(self) -> list[Item]:
        depths: dict[Item, int] = {self.root: 0}
        directories = [item for item in self.items if item.is_directory and item.place is not None]
        for item in directories:
            chain = []
            while item not in depths:
                chain.append(item)
                assert item.place is not None
                item = item.place[0]
            depth = depths[item]
            for each in reversed(chain):
                depth += 1
                depths[each] = depth
        return [*sorted(directories, key=lambda item: -depths[item]), self.root]

    def _path(self, item: Item, name: bytes) -> bytes:
        names = [name]
        while item.place is not None:
            names.append(item.place[1])
            item = item.place[0]
        return b"/".join(reversed(names))

    # What comes to stand there

    def _content(self, item: Item) -> bytes:
        """Store what a directory holds, from what is the least to change."""
        claims = self.claims.get(item, {})
        names = {*claims, *item.inside, *self.placed[0].get(item, {}), *self.placed[1].get(item, {})}
        found = {name: self._entry_at(item, name, claims[name]) if name in claims else None for name in names}
        starts: list[tuple[bytes, dict[bytes, Entry | None]]] = []
        for side in (0, 1):
            entry = item.entry(side)
            if entry is not None and not item.revived and item.stands(side):
                changes = {name: new for name, new in found.items() if new != self._there(item, name, side)}
                starts.append((entry.content, changes))
        if not starts:
            starts.append((b"", found))
        content, changes = min(starts, key=lambda start: len(start[1]))
        if content and not changes:
            return content
        return edit_directory(self.source, self.sink, content, changes)

    def _there(self, item: Item, name: bytes, side: int) -> Entry | None:
        """Return what one side has in a directory under a name that somebody touched."""
        placed = self.placed[side].get(item, {}).get(name)
        if placed is not None:
            return placed.entry(side)
        child = item.inside.get(name)
        return child.base if child is not None and child.state(side) is SAME else None

    def _entry_at(self, above: Item, name: bytes, items: list[Item]) -> Entry:
        """Return what stands under one name: one item, or what several come to."""
        items = sorted(items, key=lambda item: (self._label(item), item.base_path()))
        found = [(item, self._versions(item)) for item in items]
        versions = [version for _, each in found for version in each]
        if len(versions) == 1:
            return msgspec.structs.replace(versions[0][1], name=name)
        path = self._path(above, name)
        if len(versions) == 2 and len(items) == 2:
            united = self._unite(path, versions[0], versions[1])
            if united is not None:
                return msgspec.structs.replace(united, name=name)
        sides: list[Side] = []
        for item, each in found:
            sides += [self._whole_side(path, item, each[0])] if item.revived else each
        self.conflicts.add(path)
        return make_conflict(
            self.source,
            self.sink,
            name,
            sides,
            node=max(self._node(item) for item in items),
            all_sides=any(item.split for item in items),
        )

    def _whole_side(self, path: bytes, item: Item, side: Side) -> Side:
        """Return a directory that shall be seen beside what took its place: with all that was in it."""
        whole = next((entry for entry in (item.entry(0), item.entry(1)) if entry is not None), None)
        if whole is None:
            return side
        self.links.unsure = True
        united = self._unite(path, (side[0], whole), side)
        assert united is not None
        return side[0], united

    @staticmethod
    def _node(item: Item) -> int:
        return max(entry.node for entry in (item.base, item.entry(0), item.entry(1)) if entry is not None)

    def _label(self, item: Item) -> bytes:
        """Return which side an item stands where it does for."""
        assert item.place is not None
        here = self._same_place(item.place)
        places = [item.place_on(side) for side in (0, 1)]
        there = [side for side, place in enumerate(places) if place is not None and self._same_place(place) == here]
        return self.labels[there[0]] if len(there) == 1 else BASE_LABEL

    def _versions(self, item: Item) -> list[Side]:
        """Return what an item is: one entry, or more in conflict."""
        if item.is_directory:
            entry = self._attributes(item)
            content = msgspec.structs.replace(entry, content=item.content, content_kind=objects.CONTENT_DIRECTORY)
            versions: list[Side] = [(self._label(item), content)]
        else:
            versions = self._leaf_versions(item)
        if item.split and len(versions) == 1:
            names = [item.place_on(side) for side in (0, 1)]
            return [
                (side_name(label, place[1]), versions[0][1])
                for label, place in zip(self.labels, names, strict=True)
                if place is not None
            ]
        return versions

    def _attributes(self, item: Item) -> Entry:
        a, b = item.entry(0), item.entry(1)
        if a is None or b is None:
            found = a or b or item.base
            assert found is not None
            return found
        return merge_attributes(self.source, self.sink, item.base if self._has_base(item) else None, a, b)

    def _has_base(self, item: Item) -> bool:
        return item is not self.root or self.base is not None

    def _leaf_versions(self, item: Item) -> list[Side]:
        entries = [item.entry(side) for side in (0, 1)]
        bare = [msgspec.structs.replace(each, name=b"") if each is not None else None for each in (item.base, *entries)]
        base, a, b = bare
        if a is None or b is None:
            found = a or b
            assert found is not None
            return [(self._label(item), found)]
        assert base is not None
        linked = self.links.merge_name(base, a, b)
        if linked is not None:
            return [(self._label(item), linked)]
        if a == b or b == base:
            return [(self.labels[0], a)]
        if a == base:
            return [(self.labels[1], b)]
        if is_conflict(a) or is_conflict(b):
            sides = merge_sides(self.source, base, (self.labels[0], a), (self.labels[1], b))
            if len(sides) > 1:
                return sides
            node = next(each.node for each in (a, b) if is_conflict(each))
            only = sides[0][1]
            return [(sides[0][0], only if only.kind == ENTRY_LINK else msgspec.structs.replace(only, node=node))]
        if a.kind == b.kind:
            merged = merge_fields(self.source, self.sink, base if base.kind == a.kind else None, a, b)
            if merged is not None:
                return [(self._label(item), merged)]
        return [(self.labels[0], a), (self.labels[1], b)]

    # Two that came to one name

    def _unite(self, path: bytes, x: Side, y: Side) -> Entry | None:
        """Return what two entries without a common past come to; None when both must be kept."""
        if not (is_plain_directory(x[1]) and is_plain_directory(y[1])):
            return self._unite_leaves(x[1], y[1])
        pairs: list[tuple[bytes, Entry, Entry]] = [(path, x[1], y[1])]
        below: list[tuple[dict[bytes, int], dict[bytes, Entry]]] = []
        for here, one, other in pairs:
            inner: dict[bytes, int] = {}
            changes: dict[bytes, Entry] = {}
            if one.content != other.content:
                self.visits.note(one.content + other.content)
                _, before, after = differing_nodes(self.source, one.content, other.content)
                for name in sorted(after):
                    ours, theirs = before.get(name), after[name]
                    if ours is None:
                        changes[name] = theirs
                    elif is_plain_directory(ours) and is_plain_directory(theirs):
                        inner[name] = len(pairs)
                        pairs.append((here + b"/" + name, ours, theirs))
                    else:
                        changes[name] = self._unite_leaves(ours, theirs) or self._conflict_of_two(
                            here + b"/" + name, (x[0], ours), (y[0], theirs)
                        )
            below.append((inner, changes))
        results: list[Entry] = []
        for (_, one, other), (inner, changes) in zip(reversed(pairs), reversed(below), strict=True):
            whole = {**changes, **{name: results[len(pairs) - 1 - row] for name, row in inner.items()}}
            content = edit_directory(self.source, self.sink, one.content, whole) if whole else one.content
            merged = merge_attributes(self.source, self.sink, None, one, other)
            results.append(msgspec.structs.replace(merged, name=one.name, content=content))
        return results[-1]

    def _unite_leaves(self, x: Entry, y: Entry) -> Entry | None:
        if is_conflict(x) and is_conflict(y) and x.content == y.content:
            return x
        if x.kind != y.kind or is_plain_directory(x) or is_conflict(x) or is_conflict(y):
            return None
        return merge_fields(self.source, self.sink, None, x, msgspec.structs.replace(y, name=x.name))

    def _conflict_of_two(self, path: bytes, x: Side, y: Side) -> Entry:
        self.conflicts.add(path)
        return make_conflict(self.source, self.sink, x[1].name, [x, y], node=max(x[1].node, y[1].node))
