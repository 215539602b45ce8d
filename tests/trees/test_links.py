"""The links table read at random: every file as the directory object has it, each leaf opened once, memory bounded."""

import random

import pytest
from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.terms.errors import Damaged
from dalsegno.trees.build import store_directory
from dalsegno.trees.diff import diff_revisions
from dalsegno.trees.diff_links import settle_links
from dalsegno.trees.links import FILL_AFTER, LinksTable
from dalsegno.trees.read import links_key, lookup
from kit import DictStore

SEED = 20261130


class CountingStore(DictStore):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.get_count = 0

    def get(self, identity, /):
        self.get_count += 1
        return super().get(identity)


def make_table(store, count, *, seed=SEED):
    chance = random.Random(seed)
    keys = sorted(chance.sample(range(1, 2**63), count))
    entries = [
        Entry(
            name=links_key(key),
            kind=objects.ENTRY_FILE,
            mode=0o644,
            uid=chance.randrange(2**32),
            gid=number,
            owner=b"somebody",
            group=b"g" * (number % 40),
            mtime_ns=chance.randrange(-(2**62), 2**62),
            btime_ns=number,
            size=chance.randrange(2**40),
            node=key,
            content_kind=objects.CONTENT_INLINE,
            content=chance.randbytes(number % 100),
            flags=number % 3,
            xattrs=b"\x01" + chance.randbytes(number % 50),
        )
        for number, key in enumerate(keys)
    ]
    return keys, entries, store_directory(store, entries)


@pytest.mark.parametrize("count", [1, 70, 2000, 20_000])
def test_every_file_is_found_as_the_directory_has_it(count):
    store = DictStore()
    keys, entries, identity = make_table(store, count)
    table = LinksTable(store, identity)
    assert table.count == count
    chosen = range(count) if count <= 100 else random.Random(SEED).sample(range(count), 100)
    for row in chosen:
        assert table.find(keys[row]) == (row, entries[row])
        assert lookup(store, identity, links_key(keys[row])) == entries[row]
        assert table.find(keys[row] + 1) is None or keys[row] + 1 in keys


def test_files_asked_for_at_random_cost_one_reading_of_the_table():
    """Kind of fault: what follows from place to place pays for the whole neighbourhood each time."""
    store = CountingStore()
    keys, entries, identity = make_table(store, 5000)
    node_count = len(store.objects)
    table = LinksTable(store, identity)
    order = list(range(len(keys)))
    random.Random(SEED).shuffle(order)
    for row in order:
        assert table.find(keys[row]) == (row, entries[row])
    assert store.get_count == node_count > FILL_AFTER


def test_table_larger_than_what_is_kept_is_read_again_and_stays_true():
    store = DictStore()
    keys, entries, identity = make_table(store, 5000)
    table = LinksTable(store, identity, kept_bytes_max=40_000)
    for row in random.Random(SEED).sample(range(len(keys)), 300):
        assert table.find(keys[row]) == (row, entries[row])
        assert table._kept_bytes <= 40_000 or len(table._leaves) == 1


def test_empty_table_and_table_that_is_none_are_told():
    store = DictStore()
    assert LinksTable(store, b"").find(7) is None
    assert LinksTable(store, store_directory(store, [])).find(7) is None
    entry = Entry(name=b"no number", kind=objects.ENTRY_FILE)
    with pytest.raises(Damaged, match="no node number"):
        LinksTable(store, store_directory(store, [entry])).find(7)
    with pytest.raises(Damaged, match="no node number"):
        LinksTable(store, store_directory(store, [replace(entry, name=links_key(10).upper())])).find(7)


def list_of_lists(store, *, levels, width):
    """Store lists that all name one list below them, `width` times, down to a leaf of one file; return the first."""
    entry = Entry(name=links_key(1), kind=objects.ENTRY_FILE, mode=0o644, content_kind=objects.CONTENT_INLINE)
    below = store.put(objects.KIND_DIRECTORY, objects.encode(objects.DirectoryLeaf([entry])))
    for level in range(1, levels + 1):
        count = width ** (level - 1)
        children = [objects.DirectoryChild(links_key(n + 1), count, below) for n in range(width)]
        below = store.put(objects.KIND_DIRECTORY, objects.encode(objects.DirectoryList(level, children)))
    return below


def test_lists_that_name_one_list_again_and_again_are_damaged_at_once():
    """The kind: a walk that is as long as what objects say, not as they are. Five objects were 268 million leaves."""
    store = DictStore()
    table = LinksTable(store, list_of_lists(store, levels=4, width=128))
    with pytest.raises(Damaged, match="twice"):
        table.find(7)
    assert store.gets < 10
    assert LinksTable(store, list_of_lists(store, levels=1, width=128)).count == 128


def tree_of(store, names, files):
    """Return a revision: `names` maps a name to a file's key, or 0 for a plain file; `files` maps keys to contents."""
    links = [file_entry(links_key(key), key, files[key]) for key in sorted({key for key in names.values() if key})]
    entries = [
        Entry(name=name, kind=objects.ENTRY_LINK, link=key) if key else file_entry(name, 5, b"plain")
        for name, key in sorted(names.items())
    ]
    root = Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_directory(store, entries),
    )
    return Revision(
        volume=bytes(16),
        parents=[],
        root=root,
        links=store_directory(store, links) if links else b"",
        created_ns=0,
        author="",
        message="",
        entry_count=len(names),
        total_bytes=0,
    )


def file_entry(name, node, content):
    return Entry(
        name=name,
        kind=objects.ENTRY_FILE,
        node=node,
        size=len(content),
        content_kind=objects.CONTENT_INLINE,
        content=content,
    )


FILES = {7: b"seven", 8: b"seven", 9: b"nine", 10: b"seven", 6: b"plain"}
SETTLED = [
    ("another number", {b"a": 7, b"b": 7}, {b"a": 8, b"b": 8}, {}),
    ("another number and content", {b"a": 7, b"b": 7}, {b"a": 9, b"b": 9}, {b"a": (0, 0), b"b": (0, 0)}),
    (
        "two become one",
        {b"a": 7, b"b": 7, b"c": 8, b"d": 8},
        dict.fromkeys([b"a", b"b", b"c", b"d"], 10),
        {b"c": (8, 10), b"d": (8, 10)},
    ),
    (
        "one becomes two",
        dict.fromkeys([b"a", b"b", b"c", b"d"], 7),
        {b"a": 8, b"b": 8, b"c": 10, b"d": 10},
        {b"c": (7, 10), b"d": (7, 10)},
    ),
    ("one name leaves", {b"a": 7, b"b": 7, b"c": 7}, {b"a": 7, b"b": 7, b"c": 0}, {b"c": (7, 0)}),
    ("one name moves over", {b"a": 7, b"b": 7, b"c": 7, b"d": 8}, {b"a": 7, b"b": 7, b"c": 8, b"d": 8}, {b"c": (7, 8)}),
    ("a name is removed", {b"a": 7, b"b": 7, b"c": 7}, {b"a": 8, b"b": 8}, {b"c": None}),
]


@pytest.mark.parametrize(("old", "new", "told"), [case[1:] for case in SETTLED], ids=[case[0] for case in SETTLED])
def test_changes_of_links_are_those_of_names_that_belong_together(old, new, told):
    """Kind of fault: a number of our own, which nobody sees, is told as a change."""
    store = DictStore()
    before, after = tree_of(store, old, FILES), tree_of(store, new, FILES)
    found = {}
    for change in settle_links(diff_revisions(store, before, after), store, before, after):
        assert all(each is None or each.name == change.path for each in (change.old, change.new))
        both = change.old is not None and change.new is not None
        found[change.path] = (change.old.link, change.new.link) if both else None
    assert found == told
