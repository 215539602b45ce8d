"""The links table read at random: every file as the directory object has it, each leaf opened once, memory bounded."""

import random

import pytest
from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.terms.errors import Damaged
from dalsegno.trees.build import store_directory
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
