"""Merged heads: one id whoever merges and in whichever order, several common ancestors, trees that are gone."""

from itertools import permutations

import msgspec
import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import is_conflict
from dalsegno.terms.errors import NotFound
from dalsegno.trees.read import iterate_directory, read_revision
from dalsegno.volumes.ancestry import is_ancestor, merge_bases
from dalsegno.volumes.resolve import merge_heads
from kit import DictStore, store_revision


def files(store: DictStore, revision: bytes) -> dict[bytes, object]:
    """Return what a revision holds: contents, of a conflict the set of its sides'."""
    found: dict[bytes, object] = {}
    for entry in iterate_directory(store, read_revision(store, revision).root.content):
        if is_conflict(entry):
            found[entry.name] = {side.content for side in iterate_directory(store, entry.content)}
        else:
            found[entry.name] = entry.content
    return found


def merge(store: DictStore, a: bytes, b: bytes) -> bytes:
    """Merge both ways round, in stores that know nothing of each other's work, which must give one id."""
    other = DictStore()
    other.objects = dict(store.objects)
    merged = merge_heads(store, store, a, b)
    assert merge_heads(other, other, b, a) == merged
    return merged


def test_a_merge_is_a_revision_with_both_parents_and_a_time_of_its_own() -> None:
    store = DictStore()
    base = store_revision(store, {b"x": b"1"})
    a = store_revision(store, {b"x": b"2"}, parents=(base,), created_ns=10)
    b = store_revision(store, {b"x": b"1", b"y": b"3"}, parents=(base,), created_ns=20)
    merged = merge(store, a, b)
    revision = read_revision(store, merged)
    assert revision.parents == sorted([a, b]) and revision.created_ns == 21
    assert (revision.author, revision.message) == ("resolve", "merge")
    assert files(store, merged) == {b"x": b"2", b"y": b"3"}


def test_sides_are_named_after_the_revisions_that_they_come_from() -> None:
    store = DictStore()
    base = store_revision(store, {b"x": b"1"})
    a, b = (store_revision(store, {b"x": each}, parents=(base,), created_ns=10) for each in (b"2", b"3"))
    merged = merge(store, a, b)
    (conflict,) = iterate_directory(store, read_revision(store, merged).root.content)
    assert is_conflict(conflict)
    names = {side.name.decode(): side.content for side in iterate_directory(store, conflict.content)}
    assert names == {a.hex()[:12]: b"2", b.hex()[:12]: b"3"}


def test_a_merge_says_exactly_what_it_holds() -> None:
    """Also where a conflict has both sides, and where both sides removed and added more than they left."""
    store = DictStore()

    def put(model: dict[bytes, bytes], *parents: bytes) -> bytes:
        made = read_revision(store, store_revision(store, model, parents=parents, created_ns=10 * len(parents)))
        size = sum(map(len, model.values()))
        counted = msgspec.structs.replace(made, entry_count=len(model), total_bytes=size)
        return bytes(store.put(objects.KIND_REVISION, objects.encode(counted)))

    base = put({b"x": b"1" * 10, b"y": b"2" * 20, b"z": b"3" * 30})
    for ours, theirs, expected in (
        ({b"x": b"1" * 10}, {b"y": b"2" * 20}, (0, 0)),
        ({b"x": b"a"}, {b"x": b"bb", b"n": b"c" * 100}, (4, 103)),
        ({b"x": b"1" * 10, b"y": b"2" * 20, b"z": b"3" * 30}, {}, (0, 0)),
    ):
        revision = read_revision(store, merge(store, put(ours, base), put(theirs, base)))
        assert (revision.entry_count, revision.total_bytes) == expected


def test_three_heads_come_to_one_id_in_whichever_order_after_one_more_round() -> None:
    store = DictStore()
    base = store_revision(store, {b"x": b"1", b"y": b"1"})
    heads = [
        store_revision(store, model, parents=(base,), created_ns=10 + number)
        for number, model in enumerate(
            ({b"x": b"2", b"y": b"1"}, {b"x": b"3", b"y": b"1"}, {b"x": b"4", b"y": b"5", b"z": b"6"})
        )
    ]
    folded = {merge(store, merge(store, one, two), three) for one, two, three in permutations(heads)}
    expected = {b"x": {b"2", b"3", b"4"}, b"y": b"5", b"z": b"6"}
    assert [files(store, each) for each in folded] == [expected] * 3
    trees = {read_revision(store, each).root.content for each in folded}
    assert len(trees) == 1, "only their parents tell them apart"
    for one, two in permutations(folded, 2):
        last = merge(store, one, two)
        assert read_revision(store, last).root.content in trees
        assert all(is_ancestor(store, head, last) for head in heads)


def test_lines_that_crossed_are_merged_from_what_both_come_from() -> None:
    store = DictStore()
    base = store_revision(store, {b"x": b"1", b"y": b"1", b"d": b"1"})
    a = store_revision(store, {b"x": b"2", b"y": b"1", b"d": b"1"}, parents=(base,), created_ns=10)
    b = store_revision(store, {b"x": b"1", b"y": b"2"}, parents=(base,), created_ns=11)
    both = {b"x": b"2", b"y": b"2"}
    one = store_revision(store, {**both, b"x": b"3"}, parents=(a, b), created_ns=20)
    other = store_revision(store, {**both, b"y": b"3"}, parents=(b, a), created_ns=21)
    assert merge_bases(store, one, other) == sorted([a, b])
    assert files(store, merge(store, one, other)) == {b"x": b"3", b"y": b"3"}


def test_a_base_whose_tree_is_gone_is_passed_over() -> None:
    store = DictStore()
    base = store_revision(store, {b"x": b"1"})
    a = store_revision(store, {b"x": b"1", b"a": b"1"}, parents=(base,), created_ns=10)
    b = store_revision(store, {b"x": b"1", b"b": b"1"}, parents=(base,), created_ns=11)
    one = store_revision(store, {b"x": b"2", b"a": b"1", b"b": b"1"}, parents=(a, b), created_ns=20)
    other = store_revision(store, {b"x": b"1", b"b": b"1", b"c": b"1"}, parents=(b, a), created_ns=21)
    del store.objects[read_revision(store, b).root.content]
    assert files(store, merge(store, one, other)) == {b"x": b"2", b"b": b"1", b"c": b"1"}
    # A head itself must be whole.
    del store.objects[read_revision(store, other).root.content]
    with pytest.raises(NotFound):
        merge_heads(store, store, one, other)


def test_without_a_common_past_everything_that_differs_is_kept() -> None:
    store = DictStore()
    a = store_revision(store, {b"x": b"1", b"y": b"1", b"z": b"1"})
    b = store_revision(store, {b"x": b"2", b"z": b"1"})
    assert files(store, merge(store, a, b)) == {b"x": {b"1", b"2"}, b"y": b"1", b"z": b"1"}


def test_what_was_committed_on_one_line_takes_the_place_of_its_older_side() -> None:
    store = DictStore()
    base = store_revision(store, {b"x": b"1"})
    line = store_revision(store, {b"x": b"mine"}, parents=(base,), created_ns=10)
    theirs = store_revision(store, {b"x": b"theirs"}, parents=(base,), created_ns=11)
    head = merge(store, line, theirs)
    for number in range(3):
        line = store_revision(store, {b"x": b"mine %d" % number}, parents=(line,), created_ns=20 + 10 * number)
        head = merge(store, head, line)
        assert files(store, head) == {b"x": {b"theirs", b"mine %d" % number}}
