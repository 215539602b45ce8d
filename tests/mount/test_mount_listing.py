"""Counting hard links goes in steps, so that one `stat` never walks a whole tree; walks keep and read little."""

import random
from pathlib import Path

import pytest

from dalsegno.formats import fuse, objects
from dalsegno.formats.objects import Entry
from dalsegno.mount import listing
from dalsegno.mount.listing import Kept, LinkCounts, Listings
from dalsegno.mount.readonly import Owners, Picture, ReadOnly
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import Damaged
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import links_key


def test_a_list_that_is_below_itself_is_damaged_and_not_read_for_ever() -> None:
    """The kind: a walk without an end. Ids of a dump that nobody verified may be anything."""

    class Forged:
        def view_kind(self, identity: bytes) -> tuple[int, bytes]:
            node = objects.DirectoryList(1, [objects.DirectoryChild(b"z", 9, identity)])
            return objects.KIND_DIRECTORY, objects.encode(node)

    listings = Listings(Kept(Forged()))  # type: ignore[arg-type]
    for read in (
        lambda: listings.at(b"x" * 32, 1),
        lambda: listings.find(b"x" * 32, b"a"),
        lambda: list(listings.iterate(b"x" * 32, 0)),
        lambda: list(listings.leaves(b"x" * 32, 0)),
    ):
        with pytest.raises(Damaged, match="level"):
            read()


def test_a_tree_far_larger_than_it_should_be_ends_the_count_of_links(tmp_path: Path) -> None:
    """Kind: a walk as long as forged objects say. Ten directories that name the one below were 10^18 names."""
    kind = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY}
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            tree = store_directory(writer, [Entry(name=b"l", kind=objects.ENTRY_LINK, link=1)])
            for _ in range(9):
                tree = store_directory(writer, [Entry(name=b"%02d" % n, content=tree, **kind) for n in range(100)])  # type: ignore[arg-type]
        counts = LinkCounts(Kept(pool), tree, entries_max=1000)
        for _ in range(2):
            with pytest.raises(Damaged, match="goes on beyond"):
                counts.count(1, exact=True)


def test_leaves_without_names_are_not_passed_for_ever(tmp_path: Path) -> None:
    """Kind: a walk that yields nothing to who counts."""
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            below: bytes = store_directory(writer, [])
            for level in range(1, 10):
                children = [objects.DirectoryChild(b"%03d" % number, 1, below) for number in range(100)]
                below = writer.put(objects.KIND_DIRECTORY, objects.encode(objects.DirectoryList(level, children)))
        listings = Listings(Kept(pool))
        for read in (listings.iterate, listings.leaves):
            with pytest.raises(Damaged, match="entries"):
                next(read(below, 0))


def test_link_counts_grow_in_steps_and_are_exact_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LINK_ENTRIES_A_STEP", 10)
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            tops = []
            for number in range(12):
                names = [Entry(name=b"%d" % each, kind=objects.ENTRY_LINK, link=each % 3) for each in range(9)]
                content = store_directory(writer, sorted(names, key=lambda entry: entry.name))
                kind = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY}
                tops.append(Entry(name=b"%02d" % number, content=content, **kind))  # type: ignore[arg-type]
            tree = store_directory(writer, tops)
        counts = LinkCounts(Kept(pool), tree, entries_max=10_000)
        first = counts.count(1, exact=False)
        assert 2 <= first < 36 and not counts.is_complete
        asked = 1
        while not counts.is_complete:
            counts.count(1, exact=False)
            asked += 1
        assert 5 < asked < 20
        assert counts.count(1, exact=False) == 36 and counts.count(99, exact=True) == 1
        whole = LinkCounts(Kept(pool), tree, entries_max=10_000)
        assert whole.count(2, exact=True) == 36 and whole.is_complete


def test_walk_over_links_and_empty_directories_keeps_little(tmp_path: Path) -> None:
    """Kind of fault: a cost for each entry that grows with what lies around it."""
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            kind = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY}
            empty = store_directory(writer, [])
            names = [Entry(name=b"e%03d" % each, content=empty, node=each + 1, **kind) for each in range(300)]  # type: ignore[arg-type]
            keys = [each * 2**50 + 7 for each in range(2000)]
            names += [Entry(name=b"l%04d" % n, kind=objects.ENTRY_LINK, link=key) for n, key in enumerate(keys)]
            files = [
                Entry(name=links_key(key), kind=objects.ENTRY_FILE, node=key, mode=0o640, uid=n, mtime_ns=n)
                for n, key in enumerate(keys)
            ]
            tree, links = store_directory(writer, names), store_directory(writer, files)
        root = Entry(name=b"", content=tree, node=9, **kind)  # type: ignore[arg-type]
        listings = Listings(Kept(pool))
        shown = ReadOnly(
            Picture(
                listings=listings,
                root=root,
                tree=tree,
                links=links,
                identity=b"i" * 32,
                volume_id=b"",
                label="odd",
                total_bytes=0,
                entry_count=0,
            ),
            None,
            owners=Owners(),
            now_ns=0,
        )
        folders_before = len(shown._folders)
        for each in range(300):
            child = shown.find(fuse.ROOT_NODE, b"e%03d" % each).node
            assert shown.read_directory(child, 0, 4096, plus=True) and not shown.read_directory(
                child, 2, 4096, plus=True
            )
        assert len(shown._folders) == folders_before
        loaded = []
        load = listings.source.get
        listings.source.get = lambda identity: loaded.append(identity) or load(identity)  # type: ignore[func-returns-value,method-assign,assignment]
        for number in random.Random(7).sample(range(2000), 2000):
            found = shown.find(fuse.ROOT_NODE, b"l%04d" % number)
            assert (found.attr.uid, found.attr.mode & 0o7777) == (number, 0o640)
            entry, _ = shown.entry(found.node)
            assert entry == files[number]
        met = [identity for identity in loaded if identity != empty]  # the walk that counts names meets it each time
        assert len(met) <= 2 * len(set(met)), "each node was read once, those of the tree twice"
