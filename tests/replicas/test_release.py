"""Release: old or new, whole, on every site; nobody waits for a site that is down, and nobody is left behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_site import VOLUME, ClientDied
from site_worlds import WORLDS, clone, commit, found, head_files, peers

from dalsegno.replicas.context import in_turn, side_by_side
from dalsegno.replicas.release import ALREADY, FAILED, NEWER, RELEASED, Released, SiteOutcome, pull, release
from dalsegno.terms.errors import Damaged, Full, NotFound, Refused, Unavailable
from dalsegno.volumes.state import READER, ReplicaSet
from dalsegno.world.workers import Workers

SET = ReplicaSet(version=1, writers=["s1", "s2"], readers=["ro1", "ro2", "ro3"])
MONDAY = {b"a": b"monday" * 100, b"same": b"same" * 1000}
TUESDAY = {b"a": b"tuesday" * 100, b"same": b"same" * 1000}


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = WORLDS[request.param](tmp_path)
    for name in ("s1", "s2", "ro1", "ro2", "ro3"):
        made.add(name)
    found(made, SET)
    yield made


def do_release(
    world: Any, revision: bytes, name: str, *, to: tuple[str, ...] = ("ro1", "ro2", "ro3"), crew: Any = None
) -> Released:
    world.clock.now_ns += 10**9
    return release(
        peers(world, ["s1", "s2", *to], SET, parallel=side_by_side(crew) if crew is not None else in_turn),
        revision,
        clone=name,
        to=to,
    )


def do_pull(world: Any, name: str) -> SiteOutcome:
    return pull(
        peers(world, ["s1", "s2", "ro1", "ro2", "ro3"]),
        name,
    )


def outcomes(released: Released) -> dict[str, str]:
    return {outcome.site: outcome.outcome for outcome in released.outcomes}


def shown(world: Any, name: str) -> dict[bytes, bytes]:
    state = world.sites[name].state(VOLUME)
    assert state.role == READER and state.released is not None and state.head == state.released.revision
    return head_files(world, name)


def test_every_site_shows_the_clone_and_gets_only_what_it_lacks(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    monday = clone(world, ["s1", "s2"], "monday")
    first = do_release(world, monday.revision, "monday")
    assert outcomes(first) == {"ro1": RELEASED, "ro2": RELEASED, "ro3": RELEASED} and first.noted == ("s1", "s2")
    assert all(shown(world, name) == head_files(world, "s1") for name in ("ro1", "ro2", "ro3"))
    commit(world, ["s1", "s2"], TUESDAY)
    tuesday = clone(world, ["s1", "s2"], "tuesday")
    second = do_release(world, tuesday.revision, "tuesday")
    for before, after in zip(first.outcomes, second.outcomes, strict=True):
        assert 0 < after.transferred.payload_bytes < before.transferred.payload_bytes
    assert second.release.number > first.release.number
    again = do_release(world, tuesday.revision, "tuesday")
    assert all(outcome.transferred.objects == 0 for outcome in again.outcomes)


def test_side_by_side_with_a_crew(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    with Workers(3) as crew:
        done = do_release(world, clone(world, "s1", "monday").revision, "monday", crew=crew)
    assert outcomes(done) == {"ro1": RELEASED, "ro2": RELEASED, "ro3": RELEASED}


def test_release_with_a_site_down_strands_nobody_and_afterwards_everybody_gets_the_new(world: Any) -> None:
    """The OpenAFS trap: after the site is back, one command must publish the new content to all, not the old to it."""
    commit(world, ["s1", "s2"], MONDAY)
    do_release(world, clone(world, ["s1", "s2"], "monday").revision, "monday")
    monday = head_files(world, "s1")
    world.faulty["ro2"].down = True
    commit(world, ["s1", "s2"], TUESDAY)
    failed = do_release(world, clone(world, ["s1", "s2"], "tuesday").revision, "tuesday")
    assert outcomes(failed) == {"ro1": RELEASED, "ro2": FAILED, "ro3": RELEASED}
    assert [outcome.site for outcome in failed.failed] == ["ro2"] and isinstance(failed.failed[0].error, Unavailable)
    assert shown(world, "ro1") == head_files(world, "s1") != monday == shown(world, "ro2")
    # Another release while it is down publishes new content to those that are there.
    commit(world, ["s1", "s2"], {**TUESDAY, b"b": b"wednesday"})
    still = do_release(world, clone(world, ["s1", "s2"], "wednesday").revision, "wednesday")
    assert outcomes(still) == {"ro1": RELEASED, "ro2": FAILED, "ro3": RELEASED}
    assert shown(world, "ro3") == head_files(world, "s1")
    world.faulty["ro2"].down = False
    commit(world, ["s1", "s2"], {**TUESDAY, b"b": b"thursday"})
    thursday = do_release(world, clone(world, ["s1", "s2"], "thursday").revision, "thursday")
    assert set(outcomes(thursday).values()) == {RELEASED}
    assert all(shown(world, name) == head_files(world, "s1") for name in ("ro1", "ro2", "ro3"))


def test_site_that_was_away_pulls_the_newest_from_whoever_has_it(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    do_release(world, clone(world, ["s1", "s2"], "monday").revision, "monday", to=("ro1",))
    world.faulty["ro1"].down = True
    commit(world, ["s1", "s2"], TUESDAY)
    do_release(world, clone(world, ["s1", "s2"], "tuesday").revision, "tuesday", to=("ro1", "ro2"))
    world.faulty["ro1"].down = False
    done = do_pull(world, "ro1")
    assert done.outcome == RELEASED and shown(world, "ro1") == head_files(world, "s1")
    assert do_pull(world, "ro1").outcome == ALREADY
    # A site that never was one, with all writers away: another site has it.
    for name in ("s1", "s2"):
        world.faulty[name].down = True
    assert do_pull(world, "ro3").outcome == RELEASED
    assert shown(world, "ro3") == shown(world, "ro1")


def test_nothing_released_and_nobody_there_are_told_apart(world: Any) -> None:
    with pytest.raises(NotFound, match="nothing was released"):
        do_pull(world, "ro1")
    for site in world.faulty.values():
        site.down = site.name != "ro1"
    with pytest.raises(Unavailable):
        do_pull(world, "ro1")
    with pytest.raises(Unavailable):
        do_release(world, bytes(32), "monday")
    for site in world.faulty.values():
        site.down = False
    with pytest.raises(NotFound, match="whole"):
        do_release(world, bytes(32), "monday")


def test_older_clone_is_released_again(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    monday = clone(world, ["s1", "s2"], "monday")
    files = head_files(world, "s1")
    do_release(world, monday.revision, "monday")
    commit(world, ["s1", "s2"], TUESDAY)
    do_release(world, clone(world, ["s1", "s2"], "tuesday").revision, "tuesday")
    back = do_release(world, monday.revision, "monday")
    assert set(outcomes(back).values()) == {RELEASED}
    assert all(shown(world, name) == files for name in ("ro1", "ro2", "ro3"))


def test_clock_that_goes_back_does_not_hold_a_release_up(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    do_release(world, clone(world, ["s1", "s2"], "monday").revision, "monday")
    commit(world, ["s1", "s2"], TUESDAY)
    tuesday = clone(world, ["s1", "s2"], "tuesday")
    world.clock.now_ns -= 5 * 3600 * 10**9
    assert set(outcomes(do_release(world, tuesday.revision, "tuesday")).values()) == {RELEASED}
    assert shown(world, "ro1") == head_files(world, "s1")


def test_writer_that_ends_in_the_middle_is_replaced_by_the_other(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    monday = clone(world, ["s1", "s2"], "monday")

    def die() -> None:
        world.faulty["s1"].down = True
        raise Unavailable("s1: gone")

    world.faulty["s1"].fail["objects"] = die
    done = do_release(world, monday.revision, "monday", to=("ro1", "ro2"))
    assert outcomes(done) == {"ro1": RELEASED, "ro2": RELEASED}
    assert shown(world, "ro2") == head_files(world, "s2")


@pytest.mark.parametrize("failure", [Full("no space"), Damaged("torn"), Refused("no")])
def test_site_that_cannot_take_it_fails_alone_and_shows_the_old(world: Any, failure: Exception) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    do_release(world, clone(world, ["s1", "s2"], "monday").revision, "monday")
    monday = head_files(world, "s1")
    commit(world, ["s1", "s2"], TUESDAY)

    def fail() -> None:
        raise failure

    world.faulty["ro1"].fail["upload"] = fail
    done = do_release(world, clone(world, ["s1", "s2"], "tuesday").revision, "tuesday")
    assert outcomes(done) == {"ro1": FAILED, "ro2": RELEASED, "ro3": RELEASED}
    assert shown(world, "ro1") == monday
    assert done.failed[0].error is failure


def test_two_releases_at_once_end_alike_everywhere(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    monday = clone(world, ["s1", "s2"], "monday")
    commit(world, ["s1", "s2"], TUESDAY)
    tuesday = clone(world, ["s1", "s2"], "tuesday")
    inner: list[Released] = []

    def meanwhile() -> None:
        if world.faulty["ro2"].fail.pop("switch", None) is not None:
            inner.append(do_release(world, tuesday.revision, "tuesday"))

    world.faulty["ro2"].fail["switch"] = meanwhile
    outer = do_release(world, monday.revision, "monday")
    assert outcomes(outer) == {"ro1": RELEASED, "ro2": NEWER, "ro3": NEWER}
    assert all(shown(world, name)[b"a"] == shown(world, "ro1")[b"a"] for name in ("ro2", "ro3"))
    assert {world.sites[name].state(VOLUME).released.clone for name in ("ro1", "ro2", "ro3", "s1", "s2")} == {"tuesday"}


def test_replica_that_is_no_reader_is_refused(world: Any) -> None:
    commit(world, ["s1", "s2"], MONDAY)
    monday = clone(world, ["s1", "s2"], "monday")
    done = do_release(world, monday.revision, "monday", to=("ro1", "s2"))
    assert outcomes(done) == {"ro1": RELEASED, "s2": FAILED}
    assert world.sites["s2"].state(VOLUME).role == "writer"


def test_client_killed_at_every_step_leaves_old_or_new_and_the_next_release_finishes(tmp_path: Path) -> None:
    steps = 0
    for step in range(1, 400):
        world = WORLDS["memory"](tmp_path)
        for name in ("s1", "s2", "ro1", "ro2", "ro3"):
            world.add(name)
        found(world, SET)
        commit(world, ["s1", "s2"], MONDAY)
        do_release(world, clone(world, ["s1", "s2"], "monday").revision, "monday")
        old = head_files(world, "s1")
        commit(world, ["s1", "s2"], TUESDAY)
        tuesday = clone(world, ["s1", "s2"], "tuesday")
        new = head_files(world, "s1")
        count = 0

        class Counting:
            """Dies at the step that is tried."""

            def __init__(self, site: Any) -> None:
                self.name = site.name
                self._site = site

            def __getattr__(self, name: str) -> Any:
                def call(*words: Any, **named: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count == step:  # noqa: B023
                        raise ClientDied
                    return getattr(self._site, name)(*words, **named)

                return call

        world.faulty = {name: Counting(site) for name, site in world.sites.items()}
        try:
            do_release(world, tuesday.revision, "tuesday")
        except ClientDied:
            steps += 1
        else:
            break
        for name in ("ro1", "ro2", "ro3"):
            assert shown(world, name) in (old, new), (step, name)
        world.faulty = world.sites
        if step % 2:
            do_release(world, tuesday.revision, "tuesday")
        elif world.sites["s1"].state(VOLUME).released.revision == tuesday.revision:
            for name in ("ro1", "ro2", "ro3"):
                do_pull(world, name)
        else:
            continue
        assert all(shown(world, name) == new for name in ("ro1", "ro2", "ro3")), step
    assert steps > 20
