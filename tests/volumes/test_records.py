"""Recorded dumps of a volume: a list that behaves alike however many lie in its table, and reads paths of it."""

import random
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as some

from dalsegno.terms.errors import Damaged
from dalsegno.volumes.records import (
    RECENT_KEPT,
    RECENT_MAX,
    DumpRecord,
    DumpRecords,
    DumpTable,
    bases_kept,
    bases_of_next,
)
from dalsegno.volumes.state import NATIVE, VolumeState, decode_state, encode_state
from kit import DictStore


def record(
    number: int, *, at_ns: int | None = None, level: int = 1, base: int = 0, recorder: str = "", path: str = "/d/x.dump"
) -> DumpRecord:
    return DumpRecord(
        dump_id=number.to_bytes(16, "big"),
        level=level,
        revision=random.Random(number).randbytes(32),
        base_dump=base.to_bytes(16, "big") if base else b"",
        taken_at_ns=number * 10**9 if at_ns is None else at_ns,
        path=path,
        size_bytes=number,
        recorder=recorder,
    )


def many(store: DictStore, count: int) -> DumpRecords:
    return DumpRecords([record(number + 1) for number in range(count)], source=store).settle(store, store)


def state_of(dumps: DumpRecords) -> VolumeState:
    return VolumeState(id=bytes(16), name="v", kind=NATIVE, source=b"", created_ns=0, dumps=dumps)


def assert_alike(dumps: DumpRecords, model: Sequence[DumpRecord]) -> None:
    ordered = sorted(model, key=lambda each: (each.taken_at_ns, each.dump_id))
    assert len(dumps) == len(model) and list(dumps) == ordered == list(reversed(dumps))[::-1]
    assert dumps == ordered and dumps == DumpRecords(model) and bool(dumps) == bool(model)
    for each in ordered[::5]:
        assert each in dumps and dumps.find(each.dump_id) == each
    if ordered:
        assert dumps[-1] == ordered[-1] and dumps[0] == ordered[0] and dumps[1:3] == ordered[1:3]


@pytest.mark.parametrize("seed", range(4))
def test_a_table_behaves_as_a_plain_list(seed: int) -> None:
    """Kind: what is far back is shown otherwise than what is near."""
    print("seed", seed)
    chance = random.Random(seed)
    store, other_store = DictStore(), DictStore()
    dumps, other, model = DumpRecords(source=store), DumpRecords(source=other_store), []
    for step in range(1, 200):
        if chance.random() < (0.8 if step < 150 else 0.3) or not model:
            made = record(step, at_ns=chance.choice([step, chance.randrange(-100, 200)]))
            dumps = dumps.put(made)
            assert dumps.put(made) is dumps
            model.append(made)
        else:
            gone = chance.sample(model, min(len(model), chance.choice([1, 1, 5])))
            dumps = dumps.without([each.dump_id for each in gone])
            model = [each for each in model if each not in gone]
            assert not any(each in dumps or dumps.find(each.dump_id) for each in gone)
        if chance.random() < 0.8:
            dumps = dumps.settle(store, store)
            assert dumps.is_settled
            dumps = decode_state(encode_state(state_of(dumps)), store).dumps
        if step % 10 == 0:
            assert_alike(dumps, model)
            mine = {each.dump_id for each in other}
            own, others = dumps.differing(other)
            assert {each.dump_id for each in own} == {each.dump_id for each in model} - mine
            assert {each.dump_id for each in others} == mine - {each.dump_id for each in model}
            assert {each.dump_id for each in dumps.joined(other)} == mine | {each.dump_id for each in model}
            other = DumpRecords(model, source=other_store).settle(other_store, other_store)
            assert dumps == other and dumps.joined(other) is dumps
    assert_alike(dumps.without([each.dump_id for each in model]).settle(store, store), [])


def test_what_is_asked_for_is_one_path() -> None:
    store = DictStore()
    dumps = many(store, 10_000)
    assert RECENT_KEPT <= len(dumps.newest) <= RECENT_MAX and len(encode_state(state_of(dumps))) < 2048
    for question in (
        lambda: record(77) in dumps,
        lambda: record(10**6) in dumps,
        lambda: dumps.put(record(5000, at_ns=5)),
        lambda: next(iter(dumps)),
        lambda: dumps.find(record(9990).dump_id),
        lambda: dumps.naming(bytes(32), since_ns=9_990 * 10**9),
    ):
        store.gets = 0
        question()
        assert store.gets <= 8
    store.gets = 0
    assert dumps[-1] == record(10_000) and dumps.find(record(9999).dump_id) and not dumps.naming(b"", since_ns=10**13)
    assert store.gets == 0


def test_no_write_is_large_whatever_moves_into_the_table() -> None:
    """Kind: a list in the ref that grows with use."""
    store = DictStore()
    dumps = many(store, 1000)
    sizes = []
    for number in range(1001, 1200):
        before = set(store.objects)
        path = f"/srv/spool/2026/volume-{number}.full.dump" if number % 50 else "/" + "long/" * 400
        dumps = dumps.put(record(number, path=path)).settle(store, store)
        new = b"".join(store.objects[each][1] for each in store.objects.keys() - before)
        sizes.append(len(encode_state(state_of(dumps))) + len(zstandard.compress(new) if new else b""))
        assert len(dumps.newest) <= RECENT_MAX
    assert max(sizes) < 6000 and sum(sizes) / len(sizes) < 3000 and len(dumps) == 1199


def test_paths_that_nobody_may_read_are_not_in_the_table() -> None:
    """Kind: what is blanked where it is shown is read where it lies."""
    store = DictStore()
    dumps = DumpRecords([record(number, path=f"/pool/{number}") for number in range(1, 20)], source=store)
    dumps = dumps.settle(store, store, hidden=lambda path: "" if path.startswith("/pool/") else path)
    assert {each.path for each in dumps[:-RECENT_MAX]} == {""}
    assert not any(b"/pool/" in payload for _, payload in store.objects.values())
    assert {each.path for each in dumps.with_paths(lambda path: "")} == {""}


def test_a_table_that_is_not_what_its_root_says_is_damaged() -> None:
    store = DictStore()
    dumps = many(store, 100)
    table = dumps.table
    assert table is not None
    for count in (table.count + 1, table.count - 1):
        wrong = DumpTable(count=count, by_time=table.by_time, until_ns=table.until_ns)
        with pytest.raises(Damaged):
            list(DumpRecords(dumps.newest, wrong, source=store))
    whole, kept = set(dumps), dict(store.objects)
    for key in sorted(kept):
        del store.objects[key]
        found, errors = dumps.salvage()
        assert errors and len(found) < 100 and set(found) < whole
        with pytest.raises(Damaged):
            list(dumps)
        store.objects.update(kept)


@given(some.lists(some.tuples(some.integers(0, 9), some.sampled_from(["", "amanda:a", "amanda:b"])), max_size=40))
def test_what_a_next_dump_may_start_from_is_kept(made: list[tuple[int, str]]) -> None:
    """Kind: one recorder's newest dump hides another's."""
    records: list[DumpRecord] = []
    for number, (level, recorder) in enumerate(made, 1):
        lower = [each for each in records if each.level < level and each.recorder == recorder]
        base = int.from_bytes(lower[-1].dump_id, "big") if lower else 0
        records.append(record(number, level=level, base=base, recorder=recorder))
    kept = bases_kept(records)
    needed = bases_of_next(records)
    for recorder in ("", "amanda:a", "amanda:b"):
        for level in range(1, 10):
            own = [each for each in records if each.recorder == recorder and each.level < level]
            assert not own or own[-1] in kept
    assert {each.dump_id for each in kept} <= {each.dump_id for each in needed}
    assert {each.base_dump for each in needed} - {b""} <= {each.dump_id for each in needed}
    assert len(kept) <= 30
