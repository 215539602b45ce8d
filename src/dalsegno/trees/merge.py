"""Three-way merge of trees: what one side changed wins, what both changed becomes a conflict that keeps both.

Two steps. First the renames: where one side gave a file or a directory another name, base and the other side are given
it, too, unless they say otherwise; the number of the node tells. Then names are compared, in the directories that both
sides changed and in no others, so the cost follows the changes.

Nothing goes into the result but the three trees and the names of the sides: everybody who merges the same trees makes
the same one, in whichever order they are given (docs/formats/objects.md, "Merges").
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_LINK, Entry, Revision, is_conflict
from dalsegno.pool.contract import Sink, Source
from dalsegno.trees.build import store_directory
from dalsegno.trees.diff import diff_directories, differing_nodes
from dalsegno.trees.edit import edit_directory, edit_path
from dalsegno.trees.read import entry_xattrs, iterate_directory, links_key, lookup
from dalsegno.trees.walk import walk

CONFLICT_MODE: Final = 0o755
CONFLICT_XATTRS: Final = b"\x01" + objects.encode_xattrs([(objects.CONFLICT_XATTR, b"1")])
RENAMES_REFUSED_MAX: Final = 32
"""With more renames that cannot be done on the other side, none is: names are compared as they are."""

# Fields of an entry that change together: who changed one of a group is taken to have changed the group.
_FIELDS: Final = (
    ("content_kind", "content", "size", "link", "device"),
    ("mode",),
    ("uid", "owner"),
    ("gid", "group"),
    ("flags",),
    ("node",),
    ("btime_ns",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The tree that two became."""

    root: Entry
    links: bytes
    conflicts: tuple[bytes, ...]
    """Paths at which both sides are kept."""


@dataclass(frozen=True, slots=True)
class _Move:
    node: int
    old: bytes
    new: bytes


def merge_trees(
    source: Source, sink: Sink, base: Revision | None, a: Revision, b: Revision, *, names: tuple[str, str]
) -> Merged:
    """Merge `a` and `b`, which both come from `base`; `names` tell the sides of a conflict apart.

    `source` must read what `sink` stored, too. The sides are taken in the order of their names.
    """
    if names[1] < names[0]:
        a, b, names = b, a, (names[1], names[0])
    return _Merge(source, sink, names).run(base, a, b)


@dataclass(slots=True)
class _Merge:
    source: Source
    sink: Sink
    names: tuple[str, str]
    conflicts: set[bytes] = field(default_factory=set)

    def run(self, base: Revision | None, a: Revision, b: Revision) -> Merged:
        nothing = msgspec.structs.replace(a.root, content=b"", content_kind=objects.CONTENT_NONE)
        roots = [base.root.content if base else b"", a.root.content, b.root.content]
        split: list[tuple[bytes, bytes]] = []
        if base is not None and len(set(roots)) == 3:
            roots, split = self._follow_renames(roots)
        content = self._merge_contents(roots[0], roots[1], roots[2], b"")
        for one, other in split:
            content = self._join_split(content, one, other)
        content, links = self._merge_links(content, base, a, b)
        root = self._merge_attributes(base.root if base else nothing, a.root, b.root)
        root = msgspec.structs.replace(root, content=content, content_kind=objects.CONTENT_DIRECTORY)
        return Merged(root=root, links=links, conflicts=tuple(sorted(self.conflicts)))

    # Renames

    def _follow_renames(self, roots: list[bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """Return base, a and b under the names that either side gave, and the names that both gave to one node."""
        base, a, b = roots
        of_a, of_b = (_find_moves(self.source, base, side) for side in (a, b))
        agreed = [move for node, move in of_a.items() if of_b.get(node) == move]
        split = [
            (move.new, of_b[node].new) for node, move in of_a.items() if node in of_b and of_b[node].new != move.new
        ]
        only_a = [move for node, move in of_a.items() if node not in of_b]
        only_b = [move for node, move in of_b.items() if node not in of_a]
        moved, _ = self._move_all([base], agreed, parents_of=a)
        base = moved[0]
        done = list(agreed)
        (base, b), now_done = self._move_all([base, b], _rewritten(only_a, agreed), parents_of=a)
        done += [move for move in only_a if move.node in {each.node for each in now_done}]
        (base, a), _ = self._move_all([base, a], _rewritten(only_b, done), parents_of=b)
        return [base, a, b], sorted(split)

    def _move_all(
        self, roots: list[bytes], moves: list[_Move], *, parents_of: bytes
    ) -> tuple[list[bytes], list[_Move]]:
        """Do those renames in all of some trees that can be done in all of them."""
        moves = list(moves)
        for _ in range(RENAMES_REFUSED_MAX):
            if not moves:
                break
            results = []
            bad: _Move | None = None
            for root in roots:
                moved = self._move_in_one(root, moves, parents_of)
                if isinstance(moved, _Move):
                    bad = moved
                    break
                results.append(moved)
            if bad is None:
                return results, moves
            moves.remove(bad)
        return roots, []

    def _move_in_one(self, root: bytes, moves: list[_Move], parents_of: bytes) -> bytes | _Move:
        """Return the tree after all renames, or the one that cannot be done in it."""
        taken: dict[int, Entry] = {}
        for move in sorted(moves, key=lambda move: (-move.old.count(b"/"), move.old)):
            entry = self._find(root, move.old)
            if entry is None or entry.node != move.node:
                return move
            taken[move.node] = entry
            root = self._put(root, move.old, None)
        for move in sorted(moves, key=lambda move: (move.new.count(b"/"), move.new)):
            parent, _, name = move.new.rpartition(b"/")
            made = self._make_parents(root, parent, parents_of)
            if made is None or self._find(made, move.new) is not None:
                return move
            root = self._put(made, move.new, msgspec.structs.replace(taken[move.node], name=name))
        return root

    def _make_parents(self, root: bytes, path: bytes, like: bytes) -> bytes | None:
        """Return the tree with directories, empty ones, on the way to `path`; None where something else is."""
        so_far = b""
        for name in path.split(b"/") if path else []:
            so_far = so_far + b"/" + name if so_far else name
            entry = self._find(root, so_far)
            if entry is None:
                model = self._find(like, so_far)
                if model is None or model.kind != ENTRY_DIRECTORY:
                    return None
                empty = msgspec.structs.replace(model, content=store_directory(self.sink, []))
                root = self._put(root, so_far, empty)
            elif entry.kind != ENTRY_DIRECTORY:
                return None
        return root

    def _find(self, root: bytes, path: bytes) -> Entry | None:
        content = root
        entry: Entry | None = None
        for name in path.split(b"/"):
            entry = lookup(self.source, content, name) if content else None
            if entry is None:
                return None
            content = entry.content if entry.kind == ENTRY_DIRECTORY else b""
        return entry

    def _put(self, root: bytes, path: bytes, entry: Entry | None) -> bytes:
        return edit_path(self.source, self.sink, root, path, entry)

    def _join_split(self, content: bytes, one: bytes, other: bytes) -> bytes:
        """Put what both sides renamed, each to another name, under the first of these as a conflict."""
        entries = [self._find(content, path) for path in (one, other)]
        if entries[0] is None or entries[1] is None or entries[0].node != entries[1].node:
            return content
        path, dropped = (one, other) if one < other else (other, one)
        conflict = self._conflict(path.rpartition(b"/")[2], entries[0], entries[1])
        self.conflicts.add(path)
        return self._put(self._put(content, path, conflict), dropped, None)

    # Names

    def _merge_contents(self, base: bytes, a: bytes, b: bytes, path: bytes) -> bytes:
        """Merge what three directories hold; empty ids are directories that are not there."""
        if a == b or b == base:
            return a
        if a == base:
            return b
        before_a, after_a = self._differing(base, a)
        before_b, after_b = self._differing(base, b)
        changes: dict[bytes, Entry | None] = {}
        for name in sorted(before_b.keys() | after_b.keys()):
            old, theirs = before_b.get(name), after_b.get(name)
            ours = after_a.get(name) if name in before_a or name in after_a else old
            merged = self._merge_entry(old, ours, theirs, path + b"/" + name if path else name)
            if merged != ours:
                changes[name] = merged
        return edit_directory(self.source, self.sink, a, changes) if changes else a

    def _differing(self, old: bytes, new: bytes) -> tuple[dict[bytes, Entry], dict[bytes, Entry]]:
        _, before, after = differing_nodes(self.source, old, new)
        return before, after

    def _merge_entry(self, base: Entry | None, a: Entry | None, b: Entry | None, path: bytes) -> Entry | None:
        if a == b or b == base:
            return a
        if a == base:
            return b
        if a is None or b is None:
            kept = b if a is None else a
            assert kept is not None and base is not None
            return self._keep_changed(base, kept, path)
        if is_conflict(a) or is_conflict(b):
            return self._merge_conflicts(base, a, b, path)
        if a.kind == b.kind == ENTRY_DIRECTORY:
            before = base if base is not None and base.kind == ENTRY_DIRECTORY else None
            content = self._merge_contents(before.content if before else b"", a.content, b.content, path)
            merged = self._merge_attributes(before, a, b)
            return msgspec.structs.replace(merged, content=content)
        if a.kind == b.kind:
            merged_file = self._merge_file(base if base is not None and base.kind == a.kind else None, a, b)
            if merged_file is not None:
                return merged_file
        self.conflicts.add(path)
        return self._conflict(a.name, a, b)

    def _keep_changed(self, base: Entry, kept: Entry, path: bytes) -> Entry | None:
        """Return what stays of an entry that one side removed and the other changed."""
        if base.kind != ENTRY_DIRECTORY or kept.kind != ENTRY_DIRECTORY:
            return kept
        content = self._merge_contents(base.content, b"", kept.content, path)
        if not content or next(iterate_directory(self.source, content), None) is None:
            return None
        return msgspec.structs.replace(kept, content=content)

    def _merge_file(self, base: Entry | None, a: Entry, b: Entry) -> Entry | None:
        """Merge two entries of one kind field by field; None when both changed one field, each in its way."""
        chosen: dict[str, object] = {}
        for fields in _FIELDS:
            values = [tuple(getattr(entry, name) for name in fields) if entry else None for entry in (base, a, b)]
            if values[1] == values[2] or values[2] == values[0]:
                winner = values[1]
            elif values[1] == values[0]:
                winner = values[2]
            elif fields[0] in ("node", "btime_ns"):
                winner = min(each for each in values[1:] if each is not None)
            else:
                return None
            assert winner is not None
            chosen.update(zip(fields, winner, strict=True))
        xattrs = self._merge_xattrs(base, a, b)
        if xattrs is None:
            return None
        if base is None or (a.mtime_ns != base.mtime_ns and b.mtime_ns != base.mtime_ns):
            mtime_ns = max(a.mtime_ns, b.mtime_ns)
        else:
            mtime_ns = b.mtime_ns if a.mtime_ns == base.mtime_ns else a.mtime_ns
        return msgspec.structs.replace(a, **chosen, xattrs=xattrs, mtime_ns=mtime_ns)

    def _merge_attributes(self, base: Entry | None, a: Entry, b: Entry) -> Entry:
        """Merge what is said about two directories: where both changed a field the later one wins, never a conflict."""
        plain = [
            entry and msgspec.structs.replace(entry, content=b"", content_kind=objects.CONTENT_DIRECTORY, mtime_ns=0)
            for entry in (base, a, b)
        ]
        later = max((a, b), key=lambda entry: (entry.mtime_ns, msgspec.msgpack.encode(_without_content(entry))))
        assert plain[1] is not None and plain[2] is not None
        merged = self._merge_file(plain[0], plain[1], plain[2])
        if merged is None:
            merged = later
        return msgspec.structs.replace(
            merged, content=a.content, content_kind=objects.CONTENT_DIRECTORY, mtime_ns=max(a.mtime_ns, b.mtime_ns)
        )

    def _merge_xattrs(self, base: Entry | None, a: Entry, b: Entry) -> bytes | None:
        old = base.xattrs if base else None
        if a.xattrs == b.xattrs or b.xattrs == old:
            return a.xattrs
        if a.xattrs == old:
            return b.xattrs
        tables = [dict(entry_xattrs(self.source, entry)) if entry else {} for entry in (base, a, b)]
        merged: dict[bytes, bytes] = {}
        for key in sorted(tables[1].keys() | tables[2].keys()):
            before, ours, theirs = (table.get(key) for table in tables)
            if ours == theirs or theirs == before:
                value = ours
            elif ours == before:
                value = theirs
            else:
                return None
            if value is not None:
                merged[key] = value
        return _store_xattrs(self.sink, merged)

    # Conflicts

    def _conflict(self, name: bytes, a: Entry, b: Entry) -> Entry:
        """Return an entry that keeps both sides."""
        sides: dict[bytes, Entry] = {}
        for label, entry in zip(self.names, (a, b), strict=True):
            self._add_sides(sides, label.encode(), entry)
        return self._conflict_of(name, sides, a, b)

    def _add_sides(self, sides: dict[bytes, Entry], label: bytes, entry: Entry) -> None:
        """Add an entry as a side; those of a conflict one by one. What is there already under any name is not added."""
        if is_conflict(entry):
            for side in iterate_directory(self.source, entry.content):
                self._add_sides(sides, side.name, side)
            return
        if any(msgspec.structs.replace(each, name=entry.name) == entry for each in sides.values()):
            return
        name, number = label, 2
        while name in sides:
            name, number = b"%s-%d" % (label, number), number + 1
        sides[name] = msgspec.structs.replace(entry, name=name)

    def _conflict_of(self, name: bytes, sides: dict[bytes, Entry], a: Entry, b: Entry) -> Entry:
        return Entry(
            name=name,
            kind=ENTRY_DIRECTORY,
            mode=CONFLICT_MODE,
            uid=max(a.uid, b.uid),
            gid=max(a.gid, b.gid),
            mtime_ns=max(a.mtime_ns, b.mtime_ns),
            node=max(a.node, b.node),
            content_kind=objects.CONTENT_DIRECTORY,
            content=store_directory(self.sink, [sides[each] for each in sorted(sides)]),
            xattrs=CONFLICT_XATTRS,
        )

    def _merge_conflicts(self, base: Entry | None, a: Entry, b: Entry, path: bytes) -> Entry | None:
        """Merge where one entry at least is a conflict: sides are united, what was repaired stays repaired."""
        old, ours, theirs = (
            {} if each is None else self._sides_of(each, label)
            for each, label in ((base, ""), (a, self.names[0]), (b, self.names[1]))
        )
        kept: dict[bytes, Entry] = {}
        for identity in sorted(ours.keys() | theirs.keys()):
            in_ours, in_theirs = identity in ours, identity in theirs
            if identity in old and not (in_ours and in_theirs):
                continue  # one side took it away
            side = ours.get(identity) or theirs[identity]
            self._add_sides(kept, side.name, side)
        if not kept:
            kept = {}
            for each in (*ours.values(), *theirs.values()):
                self._add_sides(kept, each.name, each)
        if len(kept) == 1:
            return msgspec.structs.replace(next(iter(kept.values())), name=a.name)
        self.conflicts.add(path)
        return self._conflict_of(a.name, kept, a, b)

    def _sides_of(self, entry: Entry, label: str) -> dict[bytes, Entry]:
        """Return what an entry says, each side by what it is."""
        sides = (
            list(iterate_directory(self.source, entry.content))
            if is_conflict(entry)
            else [msgspec.structs.replace(entry, name=label.encode() or entry.name)]
        )
        return {msgspec.msgpack.encode(msgspec.structs.replace(side, name=b"")): side for side in sides}

    # Hard links

    def _merge_links(self, root: bytes, base: Revision | None, a: Revision, b: Revision) -> tuple[bytes, bytes]:
        """Merge the tables of hard-linked files; names whose file both sides changed become conflicts."""
        old = base.links if base else b""
        if a.links == b.links or (not a.links and not b.links):
            return root, a.links
        before_a, after_a = self._differing(old, a.links)
        before_b, after_b = self._differing(old, b.links)
        changes: dict[bytes, Entry | None] = {}
        clashes: dict[int, tuple[Entry, Entry]] = {}
        for key in sorted(before_b.keys() | after_b.keys()):
            was, theirs = before_b.get(key), after_b.get(key)
            ours = after_a.get(key) if key in before_a or key in after_a else was
            if ours == theirs or theirs == was:
                continue
            if ours is not None and theirs is not None and ours != was:
                merged = self._merge_file(was, ours, theirs)
                if merged is None:
                    clashes[int(key, 16)] = (ours, theirs)
                    merged = max(ours, theirs, key=msgspec.msgpack.encode)
                changes[key] = merged
            elif theirs is not None:
                changes[key] = theirs
        links = edit_directory(self.source, self.sink, a.links, changes) if changes else a.links
        removed = (before_a.keys() - after_a.keys()) | (before_b.keys() - after_b.keys())
        if not removed and not clashes:
            return root, links
        return self._settle_links(root, links, a, b, clashes)

    def _settle_links(
        self, root: bytes, links: bytes, a: Revision, b: Revision, clashes: dict[int, tuple[Entry, Entry]]
    ) -> tuple[bytes, bytes]:
        """Let every link lead to a file and every file have a name; found by a walk, when files lost links or clash."""
        named: dict[int, list[bytes]] = {}
        tree = _as_revision(a, root)
        for path, entry in walk(self.source, tree):
            if entry.kind == ENTRY_LINK:
                named.setdefault(entry.link, []).append(path)
        table = {int(entry.name, 16): entry for entry in iterate_directory(self.source, links)} if links else {}
        changes: dict[bytes, Entry | None] = {}
        for link in named.keys() - table.keys():
            for revision in (a, b):
                found = lookup(self.source, revision.links, links_key(link)) if revision.links else None
                if found is not None:
                    changes[links_key(link)] = found
        for link in table.keys() - named.keys():
            back = self._lost_names(link, table[link], a, b)
            for path, entry in back:
                parents = self._make_parents(root, path.rpartition(b"/")[0], a.root.content) or self._make_parents(
                    root, path.rpartition(b"/")[0], b.root.content
                )
                if parents is not None and self._find(parents, path) is None:
                    root = self._put(parents, path, entry)
                    named.setdefault(link, []).append(path)
            if link not in named:
                changes[links_key(link)] = None
        for link, (ours, theirs) in clashes.items():
            for path in named.get(link, []):
                name = path.rpartition(b"/")[2]
                sides = [msgspec.structs.replace(each, name=name) for each in (ours, theirs)]
                root = self._put(root, path, self._conflict(name, sides[0], sides[1]))
                self.conflicts.add(path)
            changes[links_key(link)] = None
        if changes:
            links = edit_directory(self.source, self.sink, links, changes)
        if links and next(iterate_directory(self.source, links), None) is None:
            links = b""
        return root, links

    def _lost_names(self, link: int, now: Entry, a: Revision, b: Revision) -> Iterator[tuple[bytes, Entry]]:
        """Yield the names of a linked file that one side changed while the other removed all of them."""
        for side, other in ((a, b), (b, a)):
            there = lookup(self.source, side.links, links_key(link)) if side.links else None
            elsewhere = lookup(self.source, other.links, links_key(link)) if other.links else None
            if there == now and elsewhere is None:
                for path, entry in walk(self.source, side):
                    if entry.kind == ENTRY_LINK and entry.link == link:
                        yield path, entry


def _find_moves(source: Source, base: bytes, side: bytes) -> dict[int, _Move]:
    """Return what has another path than in the base, by its node; what moved with its directory is not told again."""
    gone: dict[int, bytes | None] = {}
    come: dict[int, bytes | None] = {}
    for change in diff_directories(source, base, side):
        before, after = change.old, change.new
        if before is not None and after is not None and before.node == after.node:
            continue
        if before is not None and before.node:
            gone[before.node] = None if before.node in gone else change.path
        if after is not None and after.node:
            come[after.node] = None if after.node in come else change.path
    paths: dict[int, _Move] = {}
    for node, old in gone.items():
        new = come.get(node)
        if old is not None and new is not None:
            paths[node] = _Move(node, old, new)
    moved = {move.old: move.new for move in paths.values()}
    kept: dict[int, _Move] = {}
    for node, move in paths.items():
        parent, _, name = move.old.rpartition(b"/")
        if parent in moved and moved[parent] + b"/" + name == move.new:
            continue
        kept[node] = move
    return kept


def _rewritten(moves: Iterable[_Move], done: list[_Move]) -> list[_Move]:
    """Return renames as they read in a tree in which others were done before."""
    table = {move.old: move.new for move in done}

    def now(path: bytes) -> bytes:
        stem, rest = path, b""
        while stem:
            if stem in table:
                return table[stem] + rest
            stem, slash, name = stem.rpartition(b"/")
            rest = slash + name + rest
            if not slash:
                break
        return path

    rewritten = []
    for move in moves:
        parent, slash, name = move.new.rpartition(b"/")
        rewritten.append(_Move(move.node, now(move.old), now(parent) + slash + name))
    return rewritten


def _without_content(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, content=b"", content_kind=objects.CONTENT_NONE)


def _as_revision(model: Revision, root: bytes) -> Revision:
    top = msgspec.structs.replace(model.root, content=root, content_kind=objects.CONTENT_DIRECTORY)
    return msgspec.structs.replace(model, root=top)


def _store_xattrs(sink: Sink, xattrs: dict[bytes, bytes]) -> bytes:
    if not xattrs:
        return b""
    encoded = objects.encode_xattrs(list(xattrs.items()))
    if len(encoded) <= objects.XATTRS_INLINE_BYTES_MAX:
        return b"\x01" + encoded
    return b"\x02" + sink.put(objects.KIND_CHUNK, encoded)
