"""Pasts say what ancestry says, and walk far only once."""

import random

import pytest

from dalsegno.terms.ids import ObjectId
from dalsegno.volumes import pasts
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.pasts import Pasts
from kit import DictStore, store_revision

SEED = random.Random().randrange(10**6)


class Counted(DictStore):
    """Counts what is read."""

    count = 0

    def get(self, identity: ObjectId) -> bytes:
        self.count += 1
        return super().get(identity)


def chain(store: DictStore, count: int, *, first: int = 1, parents: tuple[bytes, ...] = ()) -> list[bytes]:
    line = []
    for number in range(first, first + count):
        parents = (bytes(store_revision(store, {}, parents=parents, created_ns=number)),)
        line.append(parents[0])
    return line


@pytest.mark.parametrize("number", range(8))
def test_they_say_what_a_walk_says(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    print(f"seed {SEED}")
    monkeypatch.setattr(pasts, "NEAR_STEPS", 3)
    monkeypatch.setattr(pasts, "PAST_IDS_MAX", 100)
    chance = random.Random(SEED + number)
    store = DictStore()
    ids: list[bytes] = []
    for at in range(60):
        count = chance.choice([1, 1, 1, 2, 3, 0])
        parents = tuple({chance.choice(ids[-9:]) for _ in range(count) if ids})
        ids.append(bytes(store_revision(store, {}, parents=parents, created_ns=at + 1)))
    kept = {identity: store.objects.pop(identity) for identity in chance.sample(ids, 8)}
    known = Pasts(store)
    for again in range(2):
        for _ in range(1500):
            old, new = chance.choice([*ids, bytes(32)]), chance.choice(ids)
            assert known.is_ancestor(old, new) == is_ancestor(store, old, new)
        if not again:  # what was away comes
            store.objects.update(kept)


def test_a_deep_past_is_walked_once_however_often_it_is_asked_about() -> None:
    """The kind of fault: a question that costs who answers more than who asks."""
    store = Counted()
    line = chain(store, 5000)
    store.count = 0
    known = Pasts(store)
    assert known.is_ancestor(line[0], line[-1]) and store.count < 6100
    for old in (line[1], bytes(32), b"x" * 32, line[700]):
        store.count = 0
        known.is_ancestor(old, line[-1])
        assert store.count <= pasts.NEAR_STEPS + 3
    more = chain(store, 3000, first=5001, parents=(line[-1],))
    store.count = 0
    assert known.is_ancestor(line[0], more[-1]) and not known.is_ancestor(more[-1], line[-1])
    assert store.count < 4100  # what is new, and the short walk before


def test_what_is_near_costs_what_is_near() -> None:
    store = Counted()
    line = chain(store, 3000)
    known = Pasts(store)
    store.count = 0
    assert known.is_ancestor(line[-3], line[-1]) and not known.is_ancestor(line[-1], line[-3])
    assert store.count < 12


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasts, "NEAR_STEPS", 3)
    monkeypatch.setattr(pasts, "PAST_IDS_MAX", 100)
    store = DictStore()
    known = Pasts(store)
    for number in range(20):
        line = chain(store, 30, first=1 + 100 * number)
        assert not known.is_ancestor(bytes(32), line[-1])
        assert sum(len(past.keys) for past in known._known.values()) <= 100
