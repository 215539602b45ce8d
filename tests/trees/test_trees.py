"""Trees against plain dicts: what was stored is read, differences are the dicts' differences, cost follows the change."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry
from dalsegno.terms.errors import Damaged
from dalsegno.trees.build import RecipeBuilder, store_data, store_directory
from dalsegno.trees.closure import new_objects, visit_reachable
from dalsegno.trees.diff import diff_directories
from dalsegno.trees.read import iterate_content, iterate_directory, lookup, read_content, read_revision
from dalsegno.trees.walk import walk
from kit import REALM, DictStore, store_model, store_revision

NAMES = st.binary(min_size=1, max_size=3).filter(lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b".."))
MODELS = st.recursive(
    st.binary(max_size=200),
    lambda children: st.dictionaries(NAMES, children, max_size=5),
    max_leaves=20,
).filter(lambda model: isinstance(model, dict))


def flatten(model, path=b""):
    for name, value in model.items():
        child = path + b"/" + name if path else name
        yield child, value if isinstance(value, bytes) else None
        if isinstance(value, dict):
            yield from flatten(value, child)


def closure(store, revision):
    seen = set()

    def visit(kind, identity):
        new = identity not in seen
        seen.add(identity)
        return new

    visit_reachable(store, [(objects.KIND_REVISION, revision)], visit)
    return seen


@given(MODELS, MODELS)
@settings(max_examples=200, deadline=None)
def test_diff_is_the_difference_of_the_dicts(old, new):
    store = DictStore()
    changes = {c.path for c in diff_directories(store, store_model(store, old), store_model(store, new))}
    before, after = dict(flatten(old)), dict(flatten(new))
    assert changes == {
        p for p in before.keys() | after.keys() if (p in before, before.get(p)) != (p in after, after.get(p))
    }


@given(MODELS, MODELS)
@settings(max_examples=200, deadline=None)
def test_transfer_completes_the_base_to_the_target(old, new):
    store = DictStore()
    base, target = store_revision(store, old), store_revision(store, new, created_ns=2)
    sent = set()

    def visit(kind, identity):
        fresh = identity not in sent
        sent.add(identity)
        return fresh

    new_objects(store, target, base, visit=visit)
    assert closure(store, target) <= sent | closure(store, base)
    assert sent <= closure(store, target)


def test_a_directory_of_200000_entries_changes_one_leaf_and_its_lists():
    store = DictStore()
    entries = [Entry(name=b"%08d" % i, kind=objects.ENTRY_FILE) for i in range(200_000)]
    first = store_directory(store, entries)
    assert [e.name for e in iterate_directory(store, first)] == [e.name for e in entries]
    assert lookup(store, first, b"00123456") == entries[123456]
    assert lookup(store, first, b"x") is None
    before = set(store.objects)
    entries[77_777] = Entry(name=entries[77_777].name, kind=objects.ENTRY_FIFO)
    second = store_directory(store, entries)
    assert len(set(store.objects) - before) <= 4
    store.gets = 0
    changes = list(diff_directories(store, first, second))
    assert [c.path for c in changes] == [b"00077777"]
    assert store.gets < 40


def test_a_recipe_of_a_terabyte_is_nested_and_an_insertion_changes_one_node_a_level():
    store = DictStore()
    draw = random.Random(1)
    ids = [draw.randbytes(32) for _ in range(100_000)]

    def build(chunk_ids):
        builder = RecipeBuilder(store)
        for identity in chunk_ids:
            builder.add(10 * 1024 * 1024, identity)
        return builder.finish()

    kind, first = build(ids)
    assert kind == objects.CONTENT_RECIPE
    before = set(store.objects)
    build([*ids[:500], draw.randbytes(32), *ids[500:]])
    assert len(set(store.objects) - before) <= 6
    size = 100_000 * 10 * 1024 * 1024
    entry = Entry(name=b"big", kind=objects.ENTRY_FILE, size=size, content_kind=kind, content=first)
    store.objects[ids[99_999]] = (objects.KIND_CHUNK, bytes(10 * 1024 * 1024 - 1) + b"x")
    store.gets = 0
    assert read_content(store, entry, offset=size - 3, length=10) == b"\0\0x"
    assert store.gets < 8


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 700_000)), max_size=5), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_files_with_holes_come_back(parts, seed):
    store = DictStore()
    draw = random.Random(seed)
    content, extents = b"", []
    for is_data, length in parts:
        if is_data:
            extents.append((len(content), length))
        content += draw.randbytes(length) if is_data else bytes(length)
    merged = []
    for offset, length in extents:
        merged.append((offset, length))
    kind, value = store_data(store, Cutter(REALM.chunk_seed), lambda o, n: content[o : o + n], merged, len(content))
    entry = Entry(name=b"f", kind=objects.ENTRY_FILE, size=len(content), content_kind=kind, content=value)
    assert read_content(store, entry, offset=0, length=len(content)) == content
    if len(content) > 10:
        assert read_content(store, entry, offset=5, length=len(content) - 7) == content[5:-2]
    assert sum(len(data) for _, data in iterate_content(store, entry)) <= sum(n for _, n in extents)


def test_rename_of_a_directory_sends_no_content():
    store = DictStore()
    inner = {b"f%d" % i: bytes([i]) * 5000 for i in range(50)}
    base = store_revision(store, {b"a": {b"old": inner}, b"b": {}})
    target = store_revision(store, {b"a": {}, b"b": {b"deep": {b"new": inner}}}, created_ns=2)
    sent = set()
    new_objects(store, target, base, visit=lambda kind, i: (i not in sent, sent.add(i))[0])
    assert all(store.objects[i][0] != objects.KIND_CHUNK for i in sent)


def test_one_directory_at_very_many_places_is_compared_once():
    store = DictStore()

    def folder(name, content):
        kind = objects.CONTENT_DIRECTORY
        return Entry(name=name, kind=objects.ENTRY_DIRECTORY, content_kind=kind, content=content)

    def put(model):
        """Return a revision that has the model's directory at 2 to the 40th places."""
        revision = read_revision(store, store_revision(store, model))
        content = revision.root.content
        for _ in range(40):
            leaf = DirectoryLeaf([folder(b"a", content), folder(b"b", content)])
            content = bytes(store.put(objects.KIND_DIRECTORY, objects.encode(leaf)))
        revision = msgspec.structs.replace(revision, root=folder(b"", content))
        return store.put(objects.KIND_REVISION, objects.encode(revision))

    base, target = put({b"f": b"1"}), put({b"f": b"2"})
    sent = set()
    new_objects(store, target, base, visit=lambda kind, i: (i not in sent, sent.add(i))[0])
    assert sent == closure(store, target) - closure(store, base)


def test_a_directory_that_contains_itself_is_refused():
    store = DictStore()
    revision_id = store_revision(store, {b"x": {b"y": b"z"}})
    revision = read_revision(store, revision_id)
    loop = Entry(
        name=b"x",
        kind=objects.ENTRY_DIRECTORY,
        content_kind=objects.CONTENT_DIRECTORY,
        content=revision.root.content,
    )
    store.objects[revision.root.content] = (objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf([loop])))
    with pytest.raises(Damaged):
        list(walk(store, revision))
    nested = objects.encode(DirectoryList(3, [DirectoryChild(b"a", 1, revision.root.content)]))
    store.objects[revision.root.content] = (objects.KIND_DIRECTORY, nested)
    with pytest.raises(Damaged):
        list(iterate_directory(store, revision.root.content))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0"])
def test_names_that_could_leave_the_directory_are_damage(name):
    data = objects.encode(DirectoryLeaf([Entry(name=name, kind=objects.ENTRY_FILE)]))
    with pytest.raises(Damaged):
        objects.decode_directory(data)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_decoders_survive_any_bytes(data):
    for decode in (objects.decode_directory, objects.decode_recipe, objects.decode_revision, objects.decode_xattrs):
        try:
            decode(data)
        except Damaged:
            pass


@pytest.mark.parametrize(
    "node",
    [
        objects.RecipeLeaf([5, 5], [bytes(32), bytes(32)]),
        objects.RecipeLeaf([5, 3], [bytes(32), bytes(32)]),
        objects.RecipeLeaf([5], [b"short"]),
        objects.RecipeLeaf([5], []),
        objects.RecipeList(1, [5], [b""]),
        objects.RecipeList(99, [5], [bytes(32)]),
    ],
)
def test_recipes_that_overlap_or_lie_are_damage(node):
    with pytest.raises(Damaged):
        objects.decode_recipe(objects.encode(node))


@pytest.mark.parametrize("level", [1, 2, 5])
def test_a_list_that_is_below_itself_is_damaged_and_not_compared_for_ever(level: int) -> None:
    """The kind: a walk without an end. Ids of a dump that nobody verified may be anything."""
    store = DictStore()
    forged = objects.encode(DirectoryList(level, [DirectoryChild(b"a", 1, b"x" * 32)]))
    store.objects[b"x" * 32] = (objects.KIND_DIRECTORY, forged)
    for old, new in ((b"x" * 32, store_directory(store, [])), (store_directory(store, []), b"x" * 32)):
        with pytest.raises(Damaged, match="level"):
            list(diff_directories(store, old, new))
        with pytest.raises(Damaged, match="level"):
            list(iterate_directory(store, b"x" * 32))
