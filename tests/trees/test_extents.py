"""Where a file's data and its holes begin."""

import random

import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, RecipeLeaf, RecipeList
from dalsegno.terms.errors import Damaged
from dalsegno.trees import extents as module
from dalsegno.trees.edit import Patches, edit_content
from dalsegno.trees.extents import data_bytes, find_data, find_hole, iterate_extents
from dalsegno.trees.read import iterate_content
from kit import DictStore

SEED = 20261130


def file_of(store, leaf, *, levels, width):
    """Store a file whose lists all name one node below them, `width` times."""
    below, size = store.put(objects.KIND_RECIPE, objects.encode(leaf)), leaf.ends[-1]
    for level in range(1, levels + 1):
        ends = [size * (number + 1) for number in range(width)]
        below = store.put(objects.KIND_RECIPE, objects.encode(RecipeList(level, ends, [below] * width)))
        size *= width
    return Entry(
        name=b"f", kind=objects.ENTRY_FILE, size=size, content_kind=objects.CONTENT_RECIPE, content=below, mode=0o644
    )


def test_holes_and_data_are_where_the_extents_are():
    print(f"seed {SEED}")
    chance, store = random.Random(SEED), DictStore()
    chunk = store.put(objects.KIND_CHUNK, b"x")
    for _ in range(100):
        count = chance.randint(1, 4)
        leaf = RecipeLeaf([n + 1 for n in range(count)], [chance.choice((b"", chunk)) for _ in range(count)])
        file = file_of(store, leaf, levels=chance.randint(0, 2), width=3)
        for _ in range(10):
            start, end = chance.randint(0, file.size + 1), chance.randint(0, file.size + 1)
            extents = list(iterate_extents(store, file, start=start, end=end))
            holes, data = ([max(start, each.offset) for each in extents if bool(each.id) == full] for full in (0, 1))
            assert find_data(store, file, start, end=end) == (data[0] if data else None)
            assert find_hole(store, file, start, end=end) == (holes[0] if holes else min(end, file.size))


def test_a_file_larger_than_all_objects_is_searched_in_the_time_that_its_objects_take():
    """The kind: a walk that is as long as what objects say. Six objects were a search of 34 billion chunks."""
    store = DictStore()
    full = file_of(store, RecipeLeaf([1, 2], [store.put(objects.KIND_CHUNK, b"x")] * 2), levels=5, width=128)
    assert find_hole(store, full, 5) == full.size
    empty = file_of(store, RecipeLeaf([1, 2], [b"", b""]), levels=5, width=128)
    assert find_data(store, empty, 5) is None
    assert store.gets < 100


def test_data_is_counted_and_holes_are_passed_in_the_time_that_objects_take():
    """Kind: a walk that yields nothing to who counts. A file of holes alone was read for 34 billion of them."""
    store = DictStore()
    chunk = store.put(objects.KIND_CHUNK, b"x")
    full = file_of(store, RecipeLeaf([1, 5], [chunk, b""]), levels=5, width=128)
    assert data_bytes(store, full) == 128**5
    empty = file_of(store, RecipeLeaf([1, 2], [b"", b""]), levels=5, width=128)
    store.gets = 0
    assert data_bytes(store, empty) == 0 and list(iterate_content(store, empty)) == []
    assert list(iterate_content(store, empty, start=5, end=empty.size - 5)) == []
    assert store.gets < 50


def test_holes_between_data_are_passed_as_before():
    print(f"seed {SEED}")
    chance, store = random.Random(SEED), DictStore()
    chunk = store.put(objects.KIND_CHUNK, b"x")
    leaves = [
        store.put(objects.KIND_RECIPE, objects.encode(RecipeLeaf([1, 2], ids)))
        for ids in ([chunk, b""], [b"", b""], [b"", chunk])
    ]
    for _ in range(100):
        ids = [chance.choice(leaves) for _ in range(8)]
        top = store.put(objects.KIND_RECIPE, objects.encode(RecipeList(1, [2 * n + 2 for n in range(8)], ids)))
        file = Entry(name=b"f", kind=objects.ENTRY_FILE, size=16, content_kind=objects.CONTENT_RECIPE, content=top)
        start, end = sorted(chance.sample(range(17), 2))
        wanted = [max(start, each.offset) for each in iterate_extents(store, file, start=start, end=end) if each.id]
        assert [at for at, _ in iterate_content(store, file, start=start, end=end)] == wanted
        assert data_bytes(store, file) == sum(each.length for each in iterate_extents(store, file) if each.id)


def test_a_file_in_more_pieces_than_files_have_is_not_changed(monkeypatch):
    """Kind: a list as long as forged objects say. Six of them were 34 billion leaves in memory."""
    store = DictStore()
    file = file_of(store, RecipeLeaf([1, 2], [store.put(objects.KIND_CHUNK, b"x")] * 2), levels=5, width=128)
    patches = Patches(file.size)
    patches.put(0, 1, 0)
    monkeypatch.setattr(module, "LEAVES_MAX", 10_000)
    store.gets = 0
    with pytest.raises(Damaged, match="more pieces"):
        edit_content(store, store, None, file, patches, lambda offset, length: bytes(length))
    assert store.gets < 200
