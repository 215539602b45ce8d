"""Walks along parents give what the definition gives, on any graph, and stop where nothing is there."""

import random

import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.volumes.ancestry import behind_all, between, find_revision, is_ancestor, merge_bases
from kit import DictStore


class Line:
    """Revisions by number; `parents[n]` are those of revision n."""

    def __init__(self) -> None:
        self.store = DictStore()
        self.ids: list[bytes] = []
        self.parents: list[set[int]] = []

    def add(self, *parents: int, created_ns: int = 0) -> int:
        root = Entry(name=b"", kind=objects.ENTRY_DIRECTORY, content_kind=objects.CONTENT_DIRECTORY, content=bytes(32))
        revision = Revision(
            volume=bytes(16),
            parents=[self.ids[parent] for parent in parents],
            root=root,
            links=b"",
            created_ns=created_ns or len(self.ids) + 1,
            author="test",
            message=str(len(self.ids)),
            entry_count=0,
            total_bytes=0,
        )
        self.ids.append(bytes(self.store.put(objects.KIND_REVISION, objects.encode(revision))))
        self.parents.append(set(parents))
        return len(self.ids) - 1

    def behind(self, number: int) -> set[int]:
        """Return a revision and all behind it, by definition."""
        found = {number}
        for parent in self.parents[number]:
            found |= self.behind(parent)
        return found

    def number(self, identity: bytes) -> int:
        return self.ids.index(identity)


def random_line(seed: int) -> Line:
    chance = random.Random(seed)
    line = Line()
    for number in range(chance.randrange(1, 14)):
        near = range(max(0, number - 5), number)
        line.add(*chance.sample(near, min(len(near), chance.choice([0, 1, 1, 1, 2, 2, 3]))))
    return line


@pytest.mark.parametrize("seed", range(60))
def test_walks_agree_with_the_definition(seed):
    line = random_line(seed)
    for a in range(len(line.ids)):
        for b in range(len(line.ids)):
            assert is_ancestor(line.store, line.ids[a], line.ids[b]) == (a in line.behind(b)), (seed, a, b)
            common = line.behind(a) & line.behind(b)
            newest = {x for x in common if not any(x != y and x in line.behind(y) for y in common)}
            assert {line.number(each) for each in merge_bases(line.store, line.ids[a], line.ids[b])} == newest
            rest = [line.number(each) for each in between(line.store, line.ids[a], [line.ids[b]])]
            assert set(rest) == line.behind(a) - line.behind(b) and rest == sorted(rest, reverse=True)
            ends = [line.number(each) for each in behind_all(line.store, line.ids[a:], [line.ids[b]])]
            assert ends == sorted(
                set().union(*map(line.behind, range(a, len(line.ids)))) - line.behind(b), reverse=True
            )


@pytest.mark.parametrize("seed", range(20))
def test_merge_bases_are_the_same_from_either_side(seed):
    line = random_line(seed)
    for a in line.ids:
        for b in line.ids:
            found = merge_bases(line.store, a, b)
            assert found == merge_bases(line.store, b, a) == sorted(found)


def test_a_parent_that_is_gone_ends_its_line():
    line = Line()
    for number in range(6):
        line.add(*([number - 1] if number else []))
    side = line.add(2)
    del line.store.objects[line.ids[2]]
    assert is_ancestor(line.store, line.ids[2], line.ids[5])  # its child names it
    assert not is_ancestor(line.store, line.ids[1], line.ids[5])
    assert not is_ancestor(line.store, line.ids[2], line.ids[0])
    assert find_revision(line.store, line.ids[2]) is None
    assert [line.number(each) for each in between(line.store, line.ids[5], [])] == [5, 4, 3]
    assert [line.number(each) for each in between(line.store, line.ids[5], [line.ids[2]])] == [5, 4, 3]
    assert merge_bases(line.store, line.ids[5], line.ids[side]) == [line.ids[2]]
    assert list(between(line.store, line.ids[2], [])) == [] and not is_ancestor(line.store, bytes(32), line.ids[5])
    assert is_ancestor(line.store, line.ids[2], line.ids[2]) and not is_ancestor(line.store, line.ids[5], line.ids[2])


def test_a_parent_that_is_not_older_ends_the_line():
    line = Line()
    first = line.add(created_ns=100)
    wrong = line.add(first, created_ns=50)
    last = line.add(wrong, created_ns=200)
    assert is_ancestor(line.store, line.ids[wrong], line.ids[last])
    assert not is_ancestor(line.store, line.ids[first], line.ids[last])
    assert [line.number(each) for each in between(line.store, line.ids[last], [])] == [last, wrong]


def test_a_walk_reads_no_further_than_it_must():
    line = Line()
    for number in range(500):
        line.add(*([number - 1] if number else []))
    line.store.gets = 0
    assert is_ancestor(line.store, line.ids[495], line.ids[499])
    assert list(between(line.store, line.ids[499], [line.ids[490]])) == line.ids[499:490:-1]
    assert merge_bases(line.store, line.ids[498], line.ids[499]) == [line.ids[498]]
    assert not is_ancestor(line.store, line.ids[499], line.ids[3])
    assert line.store.gets < 50


def test_many_ends_and_many_stops_cost_one_walk():
    line = Line()
    for number in range(2000):
        line.add(*([number - 1] if number else []))
    line.store.gets = 0
    assert list(behind_all(line.store, line.ids[1::2], line.ids[:1000:2])) == line.ids[:998:-1]
    assert line.store.gets < 2 * len(line.ids)
