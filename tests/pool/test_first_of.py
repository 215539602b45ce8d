"""Several sources as one: what one lacks, or cannot read, another gives; when none does, the most telling error is said."""

import random
from collections.abc import Callable

import pytest

from dalsegno.backends.contract import Backend
from dalsegno.pool.pool import Pool, pack_name
from dalsegno.pool.sources import FirstOf, PacksSource, first_of
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.ids import ObjectId
from kit import REALM, DictStore


def test_the_first_that_has_an_object_gives_it_and_only_that_is_asked() -> None:
    one, two, three = DictStore(), DictStore(), DictStore()
    identity = two.put(1, b"both")
    three.put(1, b"both")
    source = FirstOf([one, two, three])
    assert source.get(identity) == b"both"
    assert (one.gets, two.gets, three.gets) == (1, 1, 0)
    with pytest.raises(NotFound, match="in none of the places"):
        source.get(ObjectId(bytes(32)))
    with pytest.raises(NotFound, match="neither here nor there"):
        FirstOf([one], absent="neither here nor there").get(identity)


def say(error: DalError | int | None) -> Callable[[], int | None]:
    def answer() -> int | None:
        if isinstance(error, DalError):
            raise error
        return error

    return answer


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([None, NotFound("a"), 3, 4], 3),
        ([Damaged("a"), Unavailable("b"), 0], 0),
        ([], KeyError),
        ([None, NotFound("a")], KeyError),
        ([NotFound("a"), Unavailable("b"), Damaged("c")], Damaged),
        ([Unavailable("b"), NotFound("a")], Unavailable),
    ],
)
def test_what_is_damaged_or_away_in_one_place_is_read_from_another_and_said_when_it_is_nowhere(
    answers: list[DalError | int | None], expected: int | type[Exception]
) -> None:
    """A copy that cannot be read keeps a good one from being found."""

    class Nowhere(DalError, KeyError): ...

    def read() -> int:
        return first_of(map(say, answers), lambda answer: answer(), absent=Nowhere)

    if isinstance(expected, int):
        assert read() == expected
    else:
        with pytest.raises(expected):
            read()


def test_packs_are_one_source_and_a_damaged_one_is_passed_over(place: Backend) -> None:
    payload = random.Random(5).randbytes(5000)
    shared = REALM.identify(1, payload)
    with Pool.create(place, encryption="none", realm=REALM) as pool:
        for text in (b"old", b"new"):
            with pool.writer() as writer:
                writer.store_copy(1, shared, payload)
                writer.put(1, text)
        names = sorted(map(pack_name, pool.list_packs()))
        harmed = bytearray(place.read(names[0]))
        harmed[2000] ^= 1
        place.put(names[0], bytes(harmed))
        readers = [pool.open_pack(pack_id) for pack_id in sorted(pool.list_packs())]
        with pytest.raises(Damaged):
            readers[0].get(shared)
        source = PacksSource(readers, absent=lambda: "in no pack")
        assert source.get(shared) == payload
        with pytest.raises(NotFound, match="in no pack"):
            source.get(ObjectId(bytes(32)))
        for reader in readers:
            reader.close()
