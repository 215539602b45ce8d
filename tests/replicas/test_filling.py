"""Adding a server that fetches the volume by itself: what it lacks, how far it is, and when nothing comes."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_site import VOLUME
from site_worlds import WORLDS, clone, commit, context, found

from dalsegno.replicas.filling import SAMPLE_MAX, STALLED_NS, Lacking, await_filled, survey
from dalsegno.replicas.follow import Pair, catch_up
from dalsegno.replicas.transfer import copy
from dalsegno.replicas.writers import empty_state
from dalsegno.terms.events import Progress
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.volumes.state import STANDBY, ReplicaSet

FILES = {b"f%d" % number: bytes([number % 256]) * (300 + number) for number in range(40)}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = WORLDS[request.param](tmp_path)
    for name in ("s1", "s2"):
        made.add(name)
    found(made, ReplicaSet(version=1, writers=["s1"]))
    commit(made, "s1", FILES)
    clone(made, "s1", "daily-1")
    commit(made, "s1", {**FILES, b"more": b"more" * 1000})
    clone(made, "s1", "daily-2")
    made.sites["s2"].create(empty_state(made.sites["s1"].state(VOLUME), replicas=None, role=STANDBY))
    return made


def _survey(world: Any, *, clones: str = "") -> Lacking:
    return survey(
        VOLUME, world.sites["s1"].state(VOLUME), origin=world.sites["s1"], to=world.sites["s2"], clones=clones
    )


def _fill(world: Any) -> None:
    sites = world.sites
    there, here = (sites[name].state(VOLUME) for name in ("s1", "s2"))
    catch_up(Pair(volume=VOLUME, origin=sites["s1"], to=sites["s2"], context=context(world)), there, here)


def _await(world: Any, lacking: Lacking, *meanwhile: Callable[[], None]) -> tuple[bool, list[float]]:
    """Wait, while one thing after the other happens."""
    steps = list(meanwhile)
    shares: list[float] = []

    def pause(seconds: float) -> None:
        world.clock.pause(seconds)
        if steps:
            steps.pop(0)()

    done = await_filled(
        VOLUME,
        lacking,
        site=world.sites["s2"],
        ticks=world.clock,
        pause=pause,
        report=lambda event: shares.append(event.share) if isinstance(event, Progress) else None,
    )
    return done, shares


def test_what_is_lacking_is_counted_and_seen_to_come(world: Any) -> None:
    sites = world.sites
    lacking = _survey(world)
    done = copy(sites["s1"], sites["s2"], VOLUME, [sites["s1"].state(VOLUME).clones["daily-1"].revision])
    rest = _survey(world)
    assert 0 < rest.objects == lacking.objects - done.objects
    assert rest.payload_bytes == lacking.payload_bytes - done.payload_bytes
    assert len(lacking.sample) == lacking.objects * OBJECT_ID_BYTES
    filled, shares = _await(world, lacking, lambda: None, lambda: _fill(world))
    assert filled and 0 < shares[0] < 1
    assert _survey(world).objects == 0 and _await(world, _survey(world)) == (True, [])


def test_a_server_that_has_newer_things_already_is_filled(world: Any) -> None:
    """The writers go on: what it is at is not what was surveyed."""
    lacking = _survey(world, clones="daily-2")
    assert lacking.names == {"daily-2"}
    commit(world, "s1", {b"newer": b"x"})
    _fill(world)
    assert _await(world, lacking) == (True, [])


def test_who_fetches_nothing_is_not_waited_for_for_ever(world: Any) -> None:
    began_ns = world.clock()
    filled, shares = _await(world, _survey(world))
    assert not filled and set(shares) == {0.0}
    assert STALLED_NS < world.clock() - began_ns < 2 * STALLED_NS


@pytest.mark.parametrize("count", [1, 2 * SAMPLE_MAX, 2 * SAMPLE_MAX + 1, 9 * SAMPLE_MAX + 5])
def test_the_sample_of_many_objects_is_small_and_spread_evenly(world: Any, count: int) -> None:
    ids = [hashlib.sha256(b"%d" % number).digest() for number in range(count)]

    class Many:
        name = "many"

        def missing(self, volume: str, targets: object, bases: object) -> Iterator[bytes]:
            for start in range(0, count, 700):
                yield b"".join(identity + b"\1\0\0\0" for identity in ids[start : start + 700])

        def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
            raise AssertionError

    there = world.sites["s1"].state(VOLUME)
    lacking = survey(VOLUME, there, origin=Many(), to=world.sites["s2"])
    assert lacking.objects == lacking.payload_bytes == count
    step = next(step for step in (1, 2, 4, 8, 16) if len(ids[::step]) <= 2 * SAMPLE_MAX)
    assert lacking.sample == b"".join(ids[::step])
