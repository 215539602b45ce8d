"""Sorted trees: changed along a path as if built anew, read as far as asked, refused when they lie about themselves."""

import random

import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry
from dalsegno.terms.errors import Damaged
from dalsegno.trees.build import Cut, DirectoryBuilder
from dalsegno.trees.sorted import Tree, ascending, descending, differences, edit, find
from kit import DictStore

CUT = Cut(items_min=2, modulus=3, items_max=9)


def entry(name: bytes, size: int = 0) -> Entry:
    return Entry(name=name, kind=objects.ENTRY_FILE, size=size)


def built(store: DictStore, model: dict[bytes, Entry]) -> bytes:
    builder = DirectoryBuilder(store, CUT)
    for name in sorted(model):
        builder.add(model[name])
    return builder.finish()


@pytest.mark.parametrize("seed", range(12))
def test_a_change_gives_what_building_anew_gives(seed: int) -> None:
    """Kind: one content under two ids, so that comparing costs the size."""
    print("seed", seed)
    chance = random.Random(seed)
    store, model, root = DictStore(), {}, b""
    for _ in range(60):
        changes: dict[bytes, Entry | None] = {}
        for _ in range(chance.choice([1, 1, 2, 20])):
            name = b"%03d" % chance.randrange(300)
            changes[name] = entry(name, chance.randrange(3)) if chance.random() < (0.8, 0.3)[seed % 2] else None
        if chance.random() < 0.1:
            low = b"%03d" % chance.randrange(300)
            changes = {name: None for name in model if (name < low) == (seed % 3 == 0)}
        before = dict(model)
        tree = Tree(root, len(model)) if model else None
        for name, changed in changes.items():
            model.pop(name, None)
            if changed is not None:
                model[name] = changed
        if not model:
            root = b""
            continue
        root = edit(store, store, tree, changes, cut=CUT)
        after = Tree(root, len(model))
        assert root == built(store, model)
        assert list(ascending(store, after)) == [model[name] for name in sorted(model)]
        low = b"%03d" % chance.randrange(300)
        assert [e.name for e in descending(store, after, below=low)] == sorted(n for n in model if n < low)[::-1]
        assert find(store, after, low) == model.get(low)
        found = {(a or b).name: (a, b) for a, b in differences(store, tree, store, after)}  # type: ignore[union-attr]
        assert found == {
            name: (before.get(name), model.get(name))
            for name in before.keys() | model.keys()
            if before.get(name) != model.get(name)
        }


def test_one_change_reads_and_stores_one_path() -> None:
    store = DictStore()
    model = {name: entry(name) for name in (b"%05d" % number for number in range(5000))}
    tree = Tree(built(store, model), len(model))
    before = len(store.objects)
    store.gets = 0
    edit(store, store, tree, {b"02500": None}, cut=CUT)
    assert before > 1000 and len(store.objects) - before < 20 and store.gets < 30
    store.gets = 0
    assert next(descending(store, tree)).name == b"04999" and find(store, tree, b"00777") is not None
    assert store.gets < 20


def leaf(store: DictStore, *names: bytes) -> bytes:
    return store.put(objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf([entry(name) for name in names])))


def upper(store: DictStore, level: int, *children: tuple[bytes, int, bytes]) -> bytes:
    node = DirectoryList(level, [DirectoryChild(*child) for child in children])
    return store.put(objects.KIND_DIRECTORY, objects.encode(node))


def _lying_trees() -> list[tuple[str, DictStore, Tree]]:
    store = DictStore()
    ab, cd = leaf(store, b"a", b"b"), leaf(store, b"c", b"d")
    chain = upper(store, 1, (b"b", 2, ab))
    deep = upper(store, 2, (b"b", 2, chain))
    return [
        ("another count", store, Tree(ab, 3)),
        ("another count below", store, Tree(upper(store, 1, (b"b", 3, ab), (b"d", 2, cd)), 5)),
        ("not sorted", store, Tree(upper(store, 1, (b"b", 2, cd), (b"d", 2, ab)), 4)),
        ("a name twice", store, Tree(upper(store, 1, (b"b", 2, ab), (b"c", 2, leaf(store, b"b", b"c"))), 4)),
        ("another last name", store, Tree(upper(store, 1, (b"bb", 2, ab), (b"d", 2, cd)), 4)),
        ("deeper than its count", store, Tree(deep, 2)),
        ("levels that do not go down", store, Tree(upper(store, 2, (b"b", 2, ab), (b"d", 2, cd)), 4)),
        ("no entries", store, Tree(leaf(store), 0)),
    ]


@pytest.mark.parametrize("what, store, tree", _lying_trees(), ids=lambda each: each if isinstance(each, str) else "")
def test_a_tree_that_lies_is_damaged(what: str, store: DictStore, tree: Tree) -> None:
    """Kind: what others made is read as if this program had made it."""
    for read in (ascending, descending):
        with pytest.raises(Damaged):
            list(read(store, tree))  # type: ignore[operator]
    with pytest.raises(Damaged):
        edit(store, store, tree, {b"a": None, b"c": None, b"d": None}, cut=CUT)
