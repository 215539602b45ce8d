"""The spool gives back every byte at its place, whether it is in memory or in its file."""

import random
from pathlib import Path

from dalsegno.mount.spool import FREE_BYTES_MIN, NEWEST_BYTES_MAX, SMALL_BYTES_MAX, Spool


def test_bytes_are_found_again_at_their_place(tmp_path: Path) -> None:
    chance = random.Random(3)
    spool = Spool(tmp_path)
    model = bytearray()
    for step in range(600):
        size = chance.choice([1, 10, 4096, SMALL_BYTES_MAX - 1, SMALL_BYTES_MAX, 200_000])
        data = chance.randbytes(size)
        assert spool.append(memoryview(data)) == len(model)
        model += data
        for _ in range(3):
            place = chance.randrange(len(model))
            if chance.random() < 0.5:
                place = max(0, len(model) - chance.randrange(1, 2 * NEWEST_BYTES_MAX))
            length = min(chance.randrange(1, 300_000), len(model) - place)
            assert spool.read(place, length) == model[place : place + length], step
        assert spool.held_bytes == len(model)
    spool.close()


def test_freed_room_is_given_back_and_the_rest_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"a" * (2 * FREE_BYTES_MIN))
    kept = spool.append(b"kept")
    spool.free(kept)
    assert spool.held_bytes == 4 and spool.read(kept, 4) == b"kept"
    spool.free(kept + 4)
    assert spool.held_bytes == 0
    place = spool.append(b"new")
    assert place == 0 and spool.read(0, 3) == b"new"
    spool.free(1)
    assert spool.read(0, 3) == b"new"
    spool.close()


def test_room_in_the_middle_is_given_back_and_the_rest_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    places = [spool.append(bytes([letter]) * FREE_BYTES_MIN) for letter in b"abcd"]
    kept = [(place, place + FREE_BYTES_MIN) for place in (places[3], places[1])]
    newest = spool.append(b"newest")
    assert spool.trim(kept) and not spool.trim(kept)
    assert spool.read(places[1], FREE_BYTES_MIN) == b"b" * FREE_BYTES_MIN
    assert spool.read(places[3], FREE_BYTES_MIN) == b"d" * FREE_BYTES_MIN
    assert spool.read(newest, 6) == b"newest"
    spool.close()
