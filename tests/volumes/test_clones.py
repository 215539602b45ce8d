"""Clones of a volume: a mapping that behaves alike however many lie in its table, and reads and writes paths of it."""

import random
from collections.abc import Mapping

import msgspec
import pytest
import zstandard

from dalsegno.terms.errors import BadInput, Damaged
from dalsegno.volumes.clones import NEWEST_KEPT, NEWEST_MAX, Clone, Clones, CloneTable
from dalsegno.volumes.state import NATIVE, VolumeState, decode_state, encode_state
from kit import DictStore


def clone(number: int, *, held: bool = False, revision: int = 0) -> Clone:
    automatic = (None, True, False)[number % 3]
    count = None if number % 4 == 0 else number
    return Clone(
        revision=(revision or number).to_bytes(32, "big"),
        created_ns=number * 10**9,
        held=held,
        automatic=automatic,
        entry_count=count,
    )


def many(store: DictStore, count: int, *, at_once: bool = False) -> Clones:
    clones = Clones(source=store)
    for number in range(count):
        clones = clones.put(f"c{number:05}", clone(number))
        if not at_once and not clones.is_settled:
            clones = clones.settle(store, store)
    return clones if clones.is_settled else clones.settle(store, store)


def assert_alike(clones: Clones, model: Mapping[str, Clone]) -> None:
    ordered = sorted(model.items(), key=lambda item: (item[1].created_ns, item[0]))
    assert len(clones) == len(model) and dict(clones) == dict(model) and clones == Clones(model)
    assert list(clones.items()) == list(clones.by_time()) == ordered == list(clones.newest_first())[::-1]
    assert list(clones.values()) == [each for _, each in ordered] and list(clones) == [name for name, _ in ordered]
    assert clones.oldest() == (ordered[0] if ordered else None)
    for at_ns in {-(2**70), -1, 0, 5 * 10**9, 10**18, 2**70, *(each.created_ns for _, each in ordered[::7])}:
        earlier = [item for item in ordered if item[1].created_ns <= at_ns]
        assert clones.newest_until(at_ns) == (earlier[-1] if earlier else None)


@pytest.mark.parametrize("seed", range(6))
def test_a_table_behaves_as_a_plain_map(seed: int) -> None:
    """Kind: what is far back is shown otherwise than what is near."""
    print("seed", seed)
    chance = random.Random(seed)
    store = DictStore()
    clones, model = Clones(source=store), {}
    assert_alike(clones, model)
    for step in range(400):
        name = f"n{chance.randrange(250):03}"
        if chance.random() < (0.75 if step < 300 else 0.25):
            made = clone(chance.choice([step, chance.randrange(400)]), held=chance.random() < 0.2)
            clones, model[name] = clones.put(name, made), made
        else:
            gone = {name, *(chance.sample(sorted(model), min(len(model), 8)) if step % 9 == 0 else ())}
            clones = clones.without(gone)
            model = {each: clone for each, clone in model.items() if each not in gone}
        assert clones.get(name) == model.get(name) and (name in clones) == (name in model)
        if step % 10 == 0:
            assert_alike(clones, model)
        if chance.random() < 0.8 and not clones.is_settled:
            clones = clones.settle(store, store)
            assert clones.is_settled
            state = VolumeState(id=bytes(16), name="v", kind=NATIVE, source=b"", created_ns=0, clones=clones)
            clones = decode_state(encode_state(state), store).clones
    assert_alike(clones, model)
    assert_alike(clones.without(model), {})


def test_the_ref_holds_the_newest_and_no_more_however_many_there_are() -> None:
    store = DictStore()
    clones = many(store, 1000)
    assert NEWEST_KEPT <= len(clones.newest) <= NEWEST_MAX
    assert sorted(clones.newest) == [f"c{number:05}" for number in range(1000)][-len(clones.newest) :]
    state = VolumeState(id=bytes(16), name="v", kind=NATIVE, source=b"", created_ns=0, clones=clones)
    assert len(encode_state(state)) < 8192


def test_what_is_asked_for_is_one_path() -> None:
    store = DictStore()
    clones = many(store, 10_000, at_once=True)
    for question in (
        lambda: clones["c00077"],
        lambda: clones.get("none"),
        lambda: clones.newest_until(5000 * 10**9),
        lambda: clones.without(["c05000"]),
        lambda: clones.oldest(),
    ):
        store.gets = 0
        question()
        assert 1 <= store.gets <= 8
    store.gets = 0
    iterator = clones.newest_first()
    assert [next(iterator)[0] for _ in range(20)] == [f"c{number:05}" for number in range(9999, 9979, -1)]
    assert clones.newest_until(2**62) == ("c09999", clones["c09999"]) and store.gets == 0


def test_one_clone_more_or_less_writes_one_path_of_each_tree() -> None:
    store = DictStore()
    clones = many(store, 10_000, at_once=True)
    sizes = []
    for change in (lambda c: c.without(["c05000"]), lambda c: c.put("c00777", clone(777, held=True))):
        before = set(store.objects)
        change(clones).settle(store, store)
        sizes.append(sum(len(store.objects[each][1]) for each in store.objects.keys() - before))
    assert max(sizes) < 10_000 and min(sizes) > 0
    written = 0
    for number in range(10_000, 10_320):
        before = set(store.objects)
        clones = clones.put(f"c{number:05}", clone(number))
        if not clones.is_settled:
            clones = clones.settle(store, store)
        written += sum(len(store.objects[each][1]) for each in store.objects.keys() - before)
    assert written / 320 < 2000


@pytest.mark.parametrize("named", ["by time", "by chance"])
def test_no_write_is_large_whatever_moves_into_the_table(named: str) -> None:
    """Kind: a bound that holds on average. What is moved at once lies side by side, and lists end by what they hold."""
    print("seed", 7)
    chance = random.Random(7)
    store = DictStore()

    def name_of(number: int) -> str:
        return f"c{number:05}" if named == "by time" else f"c{chance.getrandbits(40):010x}"

    def made(number: int) -> Clone:
        return Clone(revision=chance.randbytes(32), created_ns=number * 10**9, automatic=True)

    clones = Clones({name_of(number): made(number) for number in range(5000)}).settle(store, store)
    clones = clones.read_from(store)
    sizes, most = [], 8192 if named == "by time" else 12_000
    for number in range(5000, 5400):
        before = set(store.objects)
        clones = clones.put(name_of(number), made(number))
        clones = clones if clones.is_settled else clones.settle(store, store)
        state = VolumeState(id=bytes(16), name="v", kind=NATIVE, source=b"", created_ns=0, clones=clones)
        new = b"".join(store.objects[each][1] for each in store.objects.keys() - before)
        sizes.append(len(encode_state(state)) + len(zstandard.compress(new) if new else b""))
        assert len(clones.newest) <= NEWEST_MAX
    assert max(sizes) < most and sum(sizes) / len(sizes) < most * 0.75
    assert len(clones) == 5400


def test_a_change_gives_the_table_that_making_it_anew_gives() -> None:
    """Kind: one set of clones under two ids, so that servers compare all of it."""
    store = DictStore()
    one = many(store, 500, at_once=True)
    two = many(store, 500, at_once=True).without(["c00100"]).settle(store, store)
    two = Clones({**two.newest, "c00100": clone(100)}, two.table, source=store)
    assert one.table != two.table and one == two
    back = one.without(["c00100", "c00200"]).settle(store, store)
    again = Clones(source=store)
    for name, each in one.items():
        again = again.put(name, each) if name not in ("c00100", "c00200") else again
    assert back.table.by_name == again.settle(store, store).table.by_name  # type: ignore[union-attr]


def test_two_sets_are_compared_by_what_differs() -> None:
    store, other_store = DictStore(), DictStore()
    one, two = many(store, 3000, at_once=True), many(other_store, 3000, at_once=True)
    store.gets = other_store.gets = 0
    assert one.differing(two) == set() and store.gets == 0
    two = (
        two.without(["c00500"])
        .put("c02000", clone(2000, revision=7))
        .put("c99999", clone(9))
        .settle(other_store, other_store)
    )
    store.gets = other_store.gets = 0
    assert one.differing(two) == two.differing(one) == {"c00500", "c02000", "c99999"}
    assert store.gets < 80 and other_store.gets < 80
    assert one.differing(Clones()) == set(one) == Clones().differing(one)


def test_what_is_no_clone_or_no_table_is_damaged() -> None:
    """Kind: what others made is read as if this program had made it."""
    store = DictStore()
    clones = many(store, 200, at_once=True)
    table = clones.table
    assert table is not None
    for wrong in (
        {"count": table.count - 1},
        {"count": 0},
        {"by_name": b"short"},
        {"by_time": b""},
        {"until_ns": 2**63},
    ):
        changed = Clones({}, msgspec.structs.replace(table, **wrong), source=store)
        with pytest.raises(Damaged):
            changed = Clones.of(changed.told()).read_from(store)
            list(changed.by_time())
    crossed = CloneTable(count=table.count, by_name=table.by_time, by_time=table.by_name, until_ns=table.until_ns)
    with pytest.raises(Damaged):
        list(Clones({}, crossed, source=store).by_time())


def test_a_time_that_no_clock_shows_is_refused() -> None:
    for created_ns in (2**63, -(2**63) - 1):
        with pytest.raises(BadInput, match="time"):
            Clones().put("a", Clone(revision=bytes(32), created_ns=created_ns))
