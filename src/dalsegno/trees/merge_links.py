"""Merge the tables of hard-linked files, and see to it that every link leads to a file and every file has a name."""

from collections.abc import Iterator

import msgspec

from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, ENTRY_LINK, Entry, Revision
from dalsegno.pool.contract import Sink, Source
from dalsegno.trees.build import store_directory
from dalsegno.trees.diff import differing_nodes
from dalsegno.trees.edit import edit_directory, edit_path
from dalsegno.trees.follow import Follower, is_plain_directory
from dalsegno.trees.merge_entry import make_conflict, merge_fields, mix_node
from dalsegno.trees.read import iterate_directory, links_key, lookup
from dalsegno.trees.walk import walk


class LinksMerge:
    """The hard-linked files of a merge: by link as files are by name."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        base: Revision | None,
        sides: tuple[Revision, Revision],
        followers: list[Follower],
        labels: tuple[bytes, bytes],
    ) -> None:
        self._source = source
        self._sink = sink
        self._sides = sides
        self._labels = labels
        self._base_links = base.links if base is not None else b""
        self._followers = followers
        self._tables = (self._base_links, sides[0].links, sides[1].links)
        self._given: dict[bytes, Entry] = {}
        """What files come to that one side has linked and the other not."""
        self._told: set[bytes] = set()
        """Keys of files whose changes are in a file that is no link any more."""
        self.unsure = False
        """Names came back that one side had removed: the files that they lead to must be looked for."""

    def _in_table(self, number: int, link: int) -> Entry | None:
        table = self._tables[number]
        return lookup(self._source, table, links_key(link)) if table else None

    def merge_name(self, base: Entry, a: Entry, b: Entry) -> Entry | None:
        """Merge entries of which some are links to the same file and some the file itself; None for all others."""
        kinds = {base.kind, a.kind, b.kind}
        if kinds != {ENTRY_FILE, ENTRY_LINK} or a.kind == b.kind:
            return None
        number, link, file = (1, a, b) if a.kind == ENTRY_LINK else (2, b, a)
        if file.node != link.link:
            return None
        key = links_key(link.link)
        linked = self._in_table(number, link.link)
        before = base if base.kind == ENTRY_FILE else self._in_table(0, link.link)
        if linked is None or before is None or before.node != link.link:
            return None
        versions = [msgspec.structs.replace(each, name=key) for each in (before, linked, file)]
        merged = merge_fields(self._source, self._sink, *versions)
        if merged is None:
            return None
        if base.kind == ENTRY_FILE:
            self._given[key] = merged
            return link
        self._told.add(key)
        return msgspec.structs.replace(merged, name=b"")

    def finish(self, root: bytes, conflicts: set[bytes]) -> tuple[bytes, bytes]:
        """Return the merged tree and table; paths at which both sides are kept are added to `conflicts`."""
        if not any(self._tables):
            return root, b""
        links, clashes, doubtful = self._merge_tables()
        if clashes or doubtful or self.unsure:
            root, links = self._settle(root, links, clashes, conflicts)
        if links and next(iterate_directory(self._source, links), None) is None:
            links = b""
        return root, links

    def _merge_tables(self) -> tuple[bytes, dict[int, tuple[Entry, Entry]], bool]:
        old, a, b = self._tables
        _, before_a, after_a = differing_nodes(self._source, old, a)
        _, before_b, after_b = differing_nodes(self._source, old, b)
        changes: dict[bytes, Entry | None] = {}
        clashes: dict[int, tuple[Entry, Entry]] = {}
        doubtful = False
        for key in sorted(before_b.keys() | after_b.keys()):
            was, theirs = before_b.get(key), after_b.get(key)
            ours = after_a.get(key) if key in before_a or key in after_a else was
            if ours == theirs or theirs == was:
                continue
            if ours is not None and theirs is not None and ours != was:
                merged = merge_fields(self._source, self._sink, was, ours, theirs)
                if merged is None:
                    clashes[int(key, 16)] = (ours, theirs)
                    merged = ours
                changes[key] = merged
            elif theirs is not None:
                changes[key] = theirs
                doubtful |= ours is None and was is not None
            elif ours == was:
                changes[key] = None
            else:
                doubtful = True
        changes.update(self._given)
        links = edit_directory(self._source, self._sink, a, changes) if changes else a
        gone = [
            {int(key, 16) for key in before.keys() - after.keys()}
            for before, after in ((before_a, after_a), (before_b, after_b))
        ]
        if old:
            lost = [set(self._links(self._lost(side))) for side in (0, 1)]
            doubtful |= bool(lost[0] & lost[1])
            for side in (0, 1):
                removed = gone[1 - side]
                doubtful |= bool(removed) and not removed.isdisjoint(self._links(self._come(side)))
        return links, clashes, doubtful

    def _lost(self, side: int) -> Iterator[Entry]:
        """Yield what a side removed, and links that it replaced."""
        for item in self._followers[side].gone:
            if item.base is not None:
                yield item.base
        for old, _ in self._replaced(side):
            yield old

    def _come(self, side: int) -> Iterator[Entry]:
        """Yield what is new on a side, and what it put in the place of something else."""
        for item in self._followers[side].come:
            entry = item.entry(side)
            if entry is not None:
                yield entry
        for _, new in self._replaced(side):
            yield new

    def _replaced(self, side: int) -> Iterator[tuple[Entry, Entry]]:
        """Yield old and new of what is a link, or was, and is another now."""
        for names in self._followers[side].placed.values():
            for item in names.values():
                old, new = item.base, item.entry(side)
                if old is None or new is None or ENTRY_LINK not in (old.kind, new.kind):
                    continue
                if (old.kind, old.link) != (new.kind, new.link):
                    yield old, new

    def _links(self, entries: Iterator[Entry]) -> Iterator[int]:
        """Yield the links among entries and below them."""
        waiting = [entries]
        while waiting:
            for entry in waiting.pop():
                if entry.kind == ENTRY_LINK:
                    yield entry.link
                elif entry.kind == ENTRY_DIRECTORY:
                    waiting.append(iterate_directory(self._source, entry.content))

    def _settle(
        self, root: bytes, links: bytes, clashes: dict[int, tuple[Entry, Entry]], conflicts: set[bytes]
    ) -> tuple[bytes, bytes]:
        """Look through the whole tree for names: of files that lost some on both sides, and of those in conflict."""
        named: dict[int, list[bytes]] = {}
        for path, entry in walk(self._source, self._as_revision(root)):
            if entry.kind == ENTRY_LINK:
                named.setdefault(entry.link, []).append(path)
        table = {int(entry.name, 16): entry for entry in iterate_directory(self._source, links)} if links else {}
        changes: dict[bytes, Entry | None] = {}
        for link in sorted(named.keys() - table.keys()):
            found = self._in_table(1, link) or self._in_table(2, link) or self._in_table(0, link)
            if found is not None:
                changes[links_key(link)] = found
        for link in sorted(table.keys() - named.keys()):
            if links_key(link) not in self._told:
                for path in self._lost_names(link):
                    root = self._put_back(root, path, link, conflicts)
                    named.setdefault(link, []).append(path)
            if link not in named:
                changes[links_key(link)] = None
        for link, both in sorted(clashes.items()):
            for number, path in enumerate(named.get(link, [])):
                name = path.rpartition(b"/")[2]
                # From here on each name is a file of its own, and has to have a node of its own.
                nodes = [mix_node(each.node, path) if number else each.node for each in both]
                sides = [
                    (label, msgspec.structs.replace(each, name=name, node=node))
                    for label, each, node in zip(self._labels, both, nodes, strict=True)
                ]
                conflict = make_conflict(self._source, self._sink, name, sides, node=max(nodes))
                root = edit_path(self._source, self._sink, root, path, conflict)
                conflicts.add(path)
            changes[links_key(link)] = None
        return root, edit_directory(self._source, self._sink, links, changes) if changes else links

    def _as_revision(self, root: bytes) -> Revision:
        top = msgspec.structs.replace(self._sides[0].root, content=root)
        entry_count = sum(side.entry_count for side in self._sides)  # what both have can be in it
        return msgspec.structs.replace(self._sides[0], root=top, entry_count=entry_count)

    def _lost_names(self, link: int) -> list[bytes]:
        """Return the names that a file without any has on the side that changed it."""
        names: set[bytes] = set()
        for number, side in ((1, self._sides[0]), (2, self._sides[1])):
            now = self._in_table(number, link)
            if now is not None and now != self._in_table(0, link):
                names |= {
                    path for path, entry in walk(self._source, side) if entry.kind == ENTRY_LINK and entry.link == link
                }
        return sorted(names)

    def _put_back(self, root: bytes, path: bytes, link: int, conflicts: set[bytes]) -> bytes:
        """Give a file a name again; where something else stands now, both are kept."""
        content = root
        so_far: list[bytes] = []
        *above, name = path.split(b"/")
        for part in above:
            found = lookup(self._source, content, part)
            so_far.append(part)
            if found is None:
                found = self._model(b"/".join(so_far))
                root = edit_path(self._source, self._sink, root, b"/".join(so_far), found)
            elif not is_plain_directory(found):
                name = b".".join([*above, name])[-200:]
                so_far.pop()
                break
            content = found.content
        entry = Entry(name=name, kind=ENTRY_LINK, link=link)
        here = b"/".join([*so_far, name])
        there = lookup(self._source, content, name)
        if there is not None:
            sides = [(self._labels[0], there), (self._labels[1], entry)]
            entry = make_conflict(self._source, self._sink, name, sides, node=there.node)
            conflicts.add(here)
        return edit_path(self._source, self._sink, root, here, entry)

    def _model(self, path: bytes) -> Entry:
        """Return an empty directory like the one that a side has at a path."""
        found: Entry | None = None
        for side in self._sides:
            entry: Entry | None = side.root
            for part in path.split(b"/"):
                entry = lookup(self._source, entry.content, part) if entry and is_plain_directory(entry) else None
            if entry is not None and is_plain_directory(entry):
                found = entry
        assert found is not None
        return msgspec.structs.replace(found, content=store_directory(self._sink, []))
