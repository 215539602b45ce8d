"""Where a file's data and its holes begin."""

import random

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, RecipeLeaf, RecipeList
from dalsegno.trees.extents import find_data, find_hole, iterate_extents
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
