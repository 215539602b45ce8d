"""Copies between two sites: only what is lacking crosses, and what was cut off goes on."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_site import VOLUME, FaultySite
from site_worlds import WORLDS_AND_BACKENDS, commit, found

from dalsegno.formats import objects
from dalsegno.formats.object_rows import ROW_BYTES, read_rows, row_ids, row_kinds, row_lengths
from dalsegno.replicas import transfer
from dalsegno.replicas.transfer import Spool, copy, cut_groups
from dalsegno.terms.errors import Damaged, NotFound, Unavailable
from dalsegno.terms.events import Progress
from dalsegno.volumes.state import ReplicaSet


@pytest.fixture(params=WORLDS_AND_BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    world = WORLDS_AND_BACKENDS[request.param](tmp_path)
    for name in ("s1", "s2"):
        world.add(name)
    found(world, ReplicaSet(version=1, writers=["s1", "s2"]))
    yield world


def files(count: int, size: int, *, seed: int = 1) -> dict[bytes, bytes]:
    chance = random.Random(seed)
    return {f"f{number}".encode(): chance.randbytes(size) for number in range(count)}


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BATCH_BYTES_TARGET", 20_000)
    monkeypatch.setattr(transfer, "BATCH_IDS_MAX", 15)


def rows_of(*lengths: int, kind: int = objects.KIND_CHUNK) -> bytes:
    return b"".join(
        number.to_bytes(32, "big") + (length | kind << 28).to_bytes(4, "little")
        for number, length in enumerate(lengths)
    )


# Decisions


def test_rows_are_read_however_they_were_cut() -> None:
    data = rows_of(1, 2, 3, kind=objects.KIND_DIRECTORY)
    for size in (1, 7, ROW_BYTES, 50, 1000):
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        rows = np.concatenate(list(read_rows(parts, of="s1")))
        assert row_lengths(rows).tolist() == [1, 2, 3] and set(row_kinds(rows).tolist()) == {objects.KIND_DIRECTORY}
        assert row_ids(rows) == b"".join(number.to_bytes(32, "big") for number in range(3))


def test_a_list_that_ends_in_a_row_is_damaged() -> None:
    with pytest.raises(Damaged, match="s1"):
        list(read_rows([rows_of(1)[:-1]], of="s1"))


def test_groups_are_bounded_in_bytes_and_ids(small_groups: None) -> None:
    rows = np.frombuffer(rows_of(*[1000] * 100), np.uint8).reshape(-1, ROW_BYTES)
    assert [len(group) for group in cut_groups(iter([rows[:37], rows[37:]]))] == [15] * 6 + [10]
    rows = np.frombuffer(rows_of(*[15_000] * 5), np.uint8).reshape(-1, ROW_BYTES)
    assert [len(group) for group in cut_groups(iter([rows]))] == [2, 2, 1]
    rows = np.frombuffer(rows_of(90_000, 1), np.uint8).reshape(-1, ROW_BYTES)
    assert [len(group) for group in cut_groups(iter([rows]))] == [1, 1]


@pytest.mark.parametrize("memory", [0, 10, 1000])
def test_a_spool_gives_back_what_was_written_from_memory_or_disk(memory: int) -> None:
    data = random.Random(5).randbytes(100)
    with Spool(memory) as spool:
        for start in range(0, 100, 7):
            spool.write(data[start : start + 7])
        assert spool.size_bytes == 100 and b"".join(spool.pieces()) == data
        assert spool.read_at(90, 50) == data[90:] and b"".join(spool.pieces(33)) == data[33:]


# Copies


def test_a_copy_brings_everything_and_again_nothing(world: Any, small_groups: None) -> None:
    revision = commit(world, "s1", files(100, 3000))
    told: list[Any] = []
    done = copy(world.sites["s1"], world.sites["s2"], VOLUME, [revision], report=told.append)
    assert done.objects == 104 and done.payload_bytes > 300_000 and done.bytes_crossed > 300_000
    assert world.sites["s2"].advance(VOLUME, revision).head == revision
    assert world.files("s2", revision) == files(100, 3000)
    last = told[-1]
    assert isinstance(last, Progress) and last.done_bytes == last.total_bytes == done.payload_bytes
    again = copy(world.sites["s1"], world.sites["s2"], VOLUME, [revision])
    assert again.objects == 0 and again.bytes_crossed < 102 * 40


def test_only_what_a_base_has_not_crosses(world: Any) -> None:
    base = commit(world, "s1", files(50, 3000))
    copy(world.sites["s1"], world.sites["s2"], VOLUME, [base])
    world.sites["s2"].advance(VOLUME, base)
    newer = commit(world, "s1", {**files(50, 3000), b"new": b"n" * 500})
    done = copy(world.sites["s1"], world.sites["s2"], VOLUME, [newer], [base])
    assert done.objects == 3
    world.sites["s2"].advance(VOLUME, newer)


def test_revisions_on_the_way_come_along_without_their_trees(world: Any) -> None:
    base = commit(world, "s1", {b"a": b"1" * 200})
    copy(world.sites["s1"], world.sites["s2"], VOLUME, [base])
    world.sites["s2"].advance(VOLUME, base)
    between = commit(world, "s1", {b"a": b"2" * 200, b"gone": b"3" * 5000})
    newer = commit(world, "s1", {b"a": b"4" * 200})
    done = copy(world.sites["s1"], world.sites["s2"], VOLUME, [newer], [base])
    assert done.objects == 4 and done.payload_bytes < 2000
    assert world.sites["s2"].advance(VOLUME, newer).head == newer
    assert any(name == between for _, name, _ in world.sites["s2"].block(VOLUME, between))


@pytest.mark.parametrize("call", ["missing", "have", "objects", "upload", "adopt"])
def test_a_copy_that_is_cut_off_goes_on_behind_what_was_adopted(world: Any, small_groups: None, call: str) -> None:
    revision = commit(world, "s1", files(100, 3000))
    count = 0

    def fail_after() -> None:
        nonlocal count
        count += 1
        if count > 4:
            raise Unavailable("cut")

    source, to = world.faulty["s1"], world.faulty["s2"]
    source.fail = to.fail = {call: fail_after}
    if call == "missing":
        count = 9
    with pytest.raises(Unavailable, match="cut"):
        copy(source, to, VOLUME, [revision])
    source.fail = to.fail = {}
    done = copy(source, to, VOLUME, [revision])
    if call in ("objects", "upload", "adopt"):
        assert 40 < done.objects < 102
    world.sites["s2"].advance(VOLUME, revision)
    assert world.files("s2", revision) == files(100, 3000)


def test_an_upload_that_is_cut_off_in_the_middle_goes_on_there(world: Any) -> None:
    revision = commit(world, "s1", files(1, 3_000_000))
    sent: list[int] = []

    class Cutting(FaultySite):
        def __getattr__(self, name: str) -> Any:
            call = super().__getattr__(name)
            if name != "upload":
                return call

            def upload(volume: str, pack_id: bytes, offset: int, pieces: Iterator[bytes]) -> int:
                def cut() -> Iterator[bytes]:
                    for piece in pieces:
                        sent.append(len(piece))
                        yield piece
                        if len(sent) == 2:
                            raise Unavailable("cut")

                return int(self.site.upload(volume, pack_id, offset, cut()))

            return upload

    copy(world.sites["s1"], Cutting(world.sites["s2"]), VOLUME, [revision])
    assert sum(sent) < 3_500_000
    world.sites["s2"].advance(VOLUME, revision)


def test_a_base_that_is_not_whole_at_the_target_costs_a_comparison_and_nothing_more(world: Any) -> None:
    base = commit(world, "s1", files(50, 3000))
    newer = commit(world, "s1", {**files(50, 3000), b"new": b"n" * 500})
    half = commit(world, "s1", {name: data for name, data in files(50, 3000).items() if name < b"f3"})
    copy(world.sites["s1"], world.sites["s2"], VOLUME, [half])
    done = copy(world.sites["s1"], world.sites["s2"], VOLUME, [newer], [base])
    world.sites["s2"].advance(VOLUME, newer)
    assert world.files("s2", newer) == world.files("s1", newer) and 20 < done.objects < 60


def test_a_source_without_the_target_says_so(world: Any) -> None:
    with pytest.raises(NotFound):
        copy(world.sites["s1"], world.sites["s2"], VOLUME, [bytes(32)])


def test_a_forged_object_is_refused_by_who_gets_it(world: Any) -> None:
    revision = commit(world, "s1", files(10, 3000))

    class Forging:
        name = "s1"

        def missing(self, *words: Any) -> Any:
            return world.sites["s1"].missing(*words)

        def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
            data = bytearray(b"".join(world.sites["s1"].objects(volume, ids)))
            data[len(data) // 2] ^= 1
            yield bytes(data)

    with pytest.raises(Damaged):
        copy(Forging(), world.sites["s2"], VOLUME, [revision])
    with pytest.raises(NotFound):
        world.sites["s2"].advance(VOLUME, revision)


class Patient(random.Random):
    """Chance that strikes so many times and then lets be: how long the threads' order makes it take has a bound."""

    def __init__(self, seed: str, *, below: float, left: int) -> None:
        super().__init__(seed)
        self._below = below
        self.left = left

    def random(self) -> float:
        value = super().random()
        if value >= self._below:
            return value
        self.left -= 1
        return value if self.left >= 0 else 1.0


def test_what_is_lost_on_the_way_many_times_arrives_in_the_end(world: Any, small_groups: None) -> None:
    """The kind of fault: a bound on tries that chance may exceed, on a machine that orders the threads otherwise."""
    revision = commit(world, "s1", files(60, 3000))
    chances = [Patient(name, below=0.05, left=50) for name in ("s1", "s2")]
    source, to = (
        FaultySite(world.sites[name], chance, faults=0.05) for name, chance in zip(("s1", "s2"), chances, strict=True)
    )
    for _ in range(2 * 50 + 1):
        try:
            copy(source, to, VOLUME, [revision])
            break
        except Unavailable:
            continue
    else:
        raise AssertionError("never arrived")
    assert any(chance.left < 50 for chance in chances)
    world.sites["s2"].advance(VOLUME, revision)
    assert world.files("s2", revision) == files(60, 3000)
