"""Follow and promote: the standby is whole at every moment, and whoever was a writer loses nothing."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME, ClientDied
from site_worlds import WORLDS, clone, commit, context, found, head_files, peers

from dalsegno.replicas.follow import (
    BACKOFF_SECONDS_MAX,
    DISMISSED,
    NO_WRITER,
    PROMOTED,
    Follower,
    Promotion,
    Step,
    backoff,
    begin_anew,
    follow,
    measure_lag,
    promote,
)
from dalsegno.replicas.peers import Peers
from dalsegno.terms.errors import Full, NotFound, Refused, Unavailable
from dalsegno.volumes.state import STANDBY, WRITER, ReplicaSet

SET = ReplicaSet(version=1, writers=["s1"], standbys=["s2"])
NAMES = ("s1", "s2", "s3")


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = WORLDS[request.param](tmp_path)
    for name in NAMES:
        made.add(name)
    found(made, SET)
    yield made


def new_follower(world: Any, name: str = "s2") -> Follower:
    return Follower(VOLUME, world.faulty[name], context(world))


def step(world: Any, name: str = "s2", origin: str = "s1") -> Step:
    return new_follower(world, name).step(world.faulty[origin], seconds=0)


class Directory:
    """A directory that may be away."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self.replicas = replicas
        self.away = False

    def publish(self, change: Callable[[ReplicaSet], ReplicaSet]) -> ReplicaSet:
        if self.away:
            raise Unavailable("directory: no answer")
        self.replicas = change(self.replicas)
        return self.replicas


def do_promote(world: Any, name: str, directory: Directory, *, sites: Any = None) -> Promotion:
    sites = sites or world.faulty
    world.clock.now_ns += 10**9
    return promote(
        Peers(
            volume=VOLUME,
            sites={each: sites[each] for each in (name, *(each for each in NAMES if each != name))},
            context=context(world, owner=f"test {name}"),
            replicas=directory.replicas,
        ),
        name,
        publish=directory.publish,
    )


def test_the_first_step_waits_for_nothing(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that is at the head may lack clones all the same."""
    commit(world, "s1", {b"a": b"1"})
    step(world)
    clone(world, "s1", "monday")
    waited: list[float] = []
    watch = world.sites["s1"].watch

    def watching(volume: str, head: bytes, *, seconds: float, follower: str = "") -> Any:
        waited.append(seconds)
        return watch(volume, head, seconds=seconds, follower=follower)

    monkeypatch.setattr(world.sites["s1"], "watch", watching)
    follower = new_follower(world)
    for _ in range(2):
        follower.step(world.faulty["s1"], seconds=0.1)
        assert world.sites["s2"].state(VOLUME).clones.keys() == {"monday"}
    assert waited == [0.0, 0.1]


def test_first_step_brings_everything_with_its_history_and_the_next_what_is_new(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 500})
    clone(world, "s1", "monday")
    commit(world, "s1", {b"a": b"2" * 500, b"b": b"b" * 5000})
    first = step(world)
    state = world.sites["s2"].state(VOLUME)
    assert first.news and state.role == STANDBY and set(state.clones) == {"monday"}
    assert head_files(world, "s2") == head_files(world, "s1")
    assert world.files("s2", state.clones["monday"].revision) == {
        b"a": world.files("s1", state.clones["monday"].revision)[b"a"]
    }
    commit(world, "s1", {b"a": b"3" * 500, b"b": b"b" * 5000})
    second = step(world)
    assert 0 < second.transferred.payload_bytes < first.transferred.payload_bytes
    third = step(world)
    assert not third.news and third.transferred.objects == 0
    assert world.sites["s2"].state(VOLUME).common == world.sites["s1"].state(VOLUME).head


def test_far_behind_it_comes_in_one_step_and_knows_all_that_lies_between(world: Any) -> None:
    commit(world, "s1", {b"a": b"0" * 300})
    step(world)
    heads = [commit(world, "s1", {b"a": str(number).encode() * 300}) for number in range(30)]
    lag = measure_lag(
        peers(world, ["s1"]),
        "s1",
        world.sites["s1"].state(VOLUME),
        world.sites["s2"].state(VOLUME),
    )
    assert lag.revisions == 30 and lag.seconds == pytest.approx(29.0)
    done = step(world)
    assert done.here.head == heads[-1]
    # Every state in between can be told to lie behind: a late message of an old head changes nothing.
    for head in heads:
        assert world.sites["s2"].advance(VOLUME, head).head == heads[-1]


def test_pattern_says_which_clones_a_standby_keeps(world: Any) -> None:
    patterns = msgspec.structs.replace(SET, version=2, clones={"s2": "daily-*@last2"})
    world.sites["s1"].arrange(VOLUME, patterns)
    for number in range(4):
        commit(world, "s1", {b"a": str(number).encode() * 300})
        clone(world, "s1", f"daily-{number}")
        clone(world, "s1", f"hourly-{number}")
        step(world)
    assert set(world.sites["s2"].state(VOLUME).clones) == {"daily-2", "daily-3"}
    assert len(world.sites["s1"].state(VOLUME).clones) == 8


def test_clone_that_is_removed_at_the_origin_goes_and_stays_away(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    made = clone(world, "s1", "monday")
    step(world)
    world.sites["s1"].unclone(VOLUME, "monday", made)
    step(world)
    step(world)
    assert not world.sites["s2"].state(VOLUME).clones and not world.sites["s1"].state(VOLUME).clones


def test_either_side_may_end_at_every_call(world: Any) -> None:
    chance = random.Random(7)
    commit(world, "s1", {b"a": b"1" * 300, b"b": b"b" * 3000})
    clone(world, "s1", "monday")
    tried = 0
    for number in range(60):
        site = world.faulty[chance.choice(("s1", "s2"))]
        site.faults = 0.3
        head = commit(world, "s1", {b"a": str(number).encode() * 300, b"b": b"b" * 3000})
        try:
            step(world)
        except Unavailable:
            tried += 1
            # What it has is a state that was committed, whole.
            if VOLUME in {state.name for state in world.sites["s2"].states()} and world.sites["s2"].state(VOLUME).head:
                head_files(world, "s2")
        site.faults = 0.0
        for each in ("s1", "s2"):
            world.faulty[each].do_late()
        step(world)
        assert world.sites["s2"].state(VOLUME).head == head
    assert tried > 5


def test_loop_backs_off_goes_on_and_ends_when_told(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    pauses: list[float] = []
    steps: list[Step] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            world.faulty["s1"].down = False
        assert len(pauses) < 20

    world.faulty["s1"].down = True
    reason = follow(
        VOLUME,
        world.faulty["s2"],
        lambda: [world.faulty["s1"]],
        context(world, pause=pause, randomness=lambda: 1.0),
        ended=lambda: len(steps) >= 2,
        stepped=steps.append,
    )
    assert reason == "" and pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0] and steps[0].news
    assert backoff(50, 0.0) == BACKOFF_SECONDS_MAX / 2 and backoff(50, 1.0) == BACKOFF_SECONDS_MAX


def test_full_disk_of_the_standby_is_waited_for(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    full = [True]

    def fail() -> None:
        if full[0]:
            raise Full("no space")

    def pause(seconds: float) -> None:
        full[0] = False

    world.faulty["s2"].fail["upload"] = world.faulty["s2"].fail["commit"] = fail
    steps: list[Step] = []
    follow(
        VOLUME,
        world.faulty["s2"],
        lambda: [world.faulty["s1"]],
        context(world, pause=pause, randomness=lambda: 0.5),
        ended=lambda: bool(steps),
        stepped=steps.append,
    )
    assert head_files(world, "s2") == head_files(world, "s1")


def test_another_writer_is_followed_when_the_first_is_away(tmp_path: Path) -> None:
    world = WORLDS["memory"](tmp_path)
    for name in NAMES:
        world.add(name)
    found(world, ReplicaSet(version=1, writers=["s1", "s3"], standbys=["s2"]))
    commit(world, ["s1", "s3"], {b"a": b"1" * 300})
    world.faulty["s1"].down = True
    steps: list[Step] = []
    follow(
        VOLUME,
        world.faulty["s2"],
        lambda: [world.faulty["s1"], world.faulty["s3"]],
        context(world, pause=lambda seconds: None, randomness=lambda: 0.5),
        ended=lambda: bool(steps),
        stepped=steps.append,
    )
    assert steps[0].origin == "s3" and head_files(world, "s2") == head_files(world, "s3")


def test_promoted_standby_writes_and_the_old_writer_follows(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    step(world)
    commit(world, "s1", {b"a": b"2" * 300})  # not followed yet: the promotion fetches it
    clone(world, "s1", "monday")
    directory = Directory(SET)
    done = do_promote(world, "s2", directory)
    assert done.reached == ("s1",) and not done.away and not done.deaf and not done.kept
    assert directory.replicas == done.replicas and done.replicas.writers == ["s2"] and done.replicas.standbys == ["s1"]
    assert world.sites["s1"].state(VOLUME).role == STANDBY and world.sites["s2"].state(VOLUME).role == WRITER
    assert head_files(world, "s2") == {b"a": world.files("s1", world.sites["s1"].state(VOLUME).head)[b"a"]}
    assert "monday" in world.sites["s2"].state(VOLUME).clones and world.sites["s1"].state(VOLUME).lease is None
    assert step(world, "s2", "s1").ended == PROMOTED
    commit(world, "s2", {b"a": b"3" * 300})
    assert step(world, "s1", "s2").news
    assert head_files(world, "s1") == head_files(world, "s2")
    # Fail back: one call.
    back = do_promote(world, "s1", directory)
    assert back.replicas.writers == ["s1"] and back.replicas.standbys == ["s2"] and back.replicas.version == 3
    assert world.sites["s2"].state(VOLUME).role == STANDBY


@pytest.mark.parametrize("directory_away", [False, True])
def test_dead_writer_finds_out_and_what_only_it_has_is_merged(world: Any, directory_away: bool) -> None:
    commit(world, "s1", {b"a": b"1" * 300, b"b": b"1" * 300})
    step(world)
    commit(world, "s1", {b"a": b"2" * 300, b"b": b"1" * 300})  # acknowledged, and never followed
    clone(world, "s1", "only-there")
    world.faulty["s1"].down = True
    directory = Directory(SET)
    directory.away = directory_away
    done = do_promote(world, "s2", directory)
    assert done.away == ("s1",) and done.kept in world.sites["s2"].state(VOLUME).clones
    assert ("the directory" in done.deaf) == directory_away
    commit(world, "s2", {b"a": b"1" * 300, b"b": b"3" * 300})
    world.faulty["s1"].down = False
    directory.away = False
    assert world.sites["s1"].state(VOLUME).role == WRITER  # it does not know yet
    first = step(world, "s1", "s2")
    assert first.here.role == STANDBY and not first.ended
    for name in ("s1", "s2"):
        files = head_files(world, name)
        assert files[b"a"] != files[b"b"] and len(files) == 2, name
        assert world.files(name, world.sites[name].state(VOLUME).clones["only-there"].revision)
    assert world.sites["s1"].state(VOLUME).head == world.sites["s2"].state(VOLUME).head
    back = do_promote(world, "s1", directory)
    assert back.replicas.writers == ["s1"] and directory.replicas.version == back.replicas.version


def test_fail_back_merges_what_was_never_followed_in_one_call(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    step(world)
    commit(world, "s1", {b"a": b"1" * 300, b"lost?": b"no" * 100})
    world.faulty["s1"].down = True
    directory = Directory(SET)
    do_promote(world, "s2", directory)
    commit(world, "s2", {b"a": b"1" * 300, b"new": b"new" * 100})
    world.faulty["s1"].down = False
    back = do_promote(world, "s1", directory)
    assert back.replicas.writers == ["s1"] and back.reached == ("s2",)
    assert set(head_files(world, "s1")) == {b"a", b"lost?", b"new"}


def test_promotion_killed_at_every_step_is_finished_by_the_next(tmp_path: Path) -> None:
    killed = 0
    for stop in range(1, 200):
        world = WORLDS["memory"](tmp_path)
        for name in NAMES:
            world.add(name)
        found(world, SET)
        commit(world, "s1", {b"a": b"1" * 300})
        step(world)
        commit(world, "s1", {b"a": b"1" * 300, b"b": b"2" * 300})
        directory = Directory(SET)
        sites = dying(world, stop)
        try:
            do_promote(world, "s2", directory, sites=sites)
        except ClientDied:
            killed += 1
        else:
            break
        world.clock.now_ns += 31 * 10**9
        # Somebody who knows only the old writer goes on there: nothing of it may be lost.
        if world.sites["s1"].state(VOLUME).role == WRITER:
            commit(world, "s1", {**head_files(world, "s1"), b"late": b"late" * 50})
        do_promote(world, "s2", directory)
        for _ in range(2):
            step(world, "s1", "s2")
        assert world.sites["s1"].state(VOLUME).head == world.sites["s2"].state(VOLUME).head, stop
        assert set(head_files(world, "s2")) >= {b"a", b"b"}, stop
        assert (b"late" in head_files(world, "s2")) == (b"late" in head_files(world, "s1")), stop
        assert world.sites["s1"].state(VOLUME).role == STANDBY and world.sites["s2"].state(VOLUME).role == WRITER
    assert killed > 10


def dying(world: Any, stop: int) -> dict[str, Any]:
    """Return the sites as a client sees them that dies at its call number `stop`."""
    count = 0

    class Dying:
        def __init__(self, site: Any) -> None:
            self.name = site.name
            self._site = site

        def __getattr__(self, name: str) -> Any:
            def call(*words: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count >= stop:
                    raise ClientDied
                return getattr(self._site, name)(*words, **named)

            return call

    return {name: Dying(site) for name, site in world.sites.items()}


def test_reader_stranger_and_lone_volume_are_not_promoted(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    step(world)
    with pytest.raises(NotFound):
        do_promote(world, "s3", Directory(SET))
    world.sites["s3"].create(msgspec.structs.replace(world.sites["s2"].state(VOLUME), head=b"", clones={}))
    with pytest.raises(Refused, match="no replica"):
        do_promote(world, "s3", Directory(SET))
    readers = msgspec.structs.replace(SET, version=5, readers=["s3"])
    world.sites["s1"].arrange(VOLUME, readers)
    with pytest.raises(Refused, match="read-only"):
        do_promote(world, "s3", Directory(SET))
    assert step(world).here.replicas == readers
    without = msgspec.structs.replace(SET, version=6, standbys=[])
    world.sites["s1"].arrange(VOLUME, without)
    assert step(world).ended == DISMISSED
    world.sites["s3"].arrange(VOLUME, msgspec.structs.replace(SET, version=7, writers=["s1"], standbys=["s3"]))
    assert step(world, "s3", "s2").ended == NO_WRITER


def test_promotion_again_changes_nothing(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    step(world)
    directory = Directory(SET)
    first = do_promote(world, "s2", directory)
    again = do_promote(world, "s2", directory)
    assert again.replicas == first.replicas == directory.replicas and not again.deaf


def test_standby_without_a_common_past_is_refused_and_can_begin_anew(world: Any) -> None:
    commit(world, "s1", {b"a": b"1" * 300})
    step(world)
    for number in range(5):
        commit(world, "s1", {b"a": str(number).encode() * 300})
    # The origin forgot all that lies behind its head.
    site = world.sites["s1"]
    head = site.state(VOLUME).head
    forget_history(world, "s1", head)
    with pytest.raises(Refused, match="in common"):
        step(world)
    assert head_files(world, "s2")  # as it was
    begin_anew(VOLUME, world.faulty["s1"], world.faulty["s2"])
    assert world.sites["s2"].state(VOLUME).head == head and head_files(world, "s2") == head_files(world, "s1")
    assert not step(world).news


def forget_history(world: Any, name: str, head: bytes) -> None:
    if not hasattr(world.sites[name], "store"):
        pytest.skip("only where objects can be taken away by hand")
    store = world.sites[name].store.objects
    for identity in [each for each, (kind, _) in store.items() if kind == 4 and each != head]:
        del store[identity]


def test_late_and_doubled_messages_change_nothing(world: Any) -> None:
    chance = random.Random(11)
    commit(world, "s1", {b"a": b"1" * 300})
    step(world)
    directory = Directory(SET)
    order: Sequence[str] = ("s2", "s1", "s2", "s1")
    for number, name in enumerate(order):
        for site in world.faulty.values():
            site.faults = 0.05
            site._chance = chance
        for _ in range(100):
            try:
                do_promote(world, name, directory)
                break
            except Unavailable:
                world.clock.now_ns += 31 * 10**9
        else:
            raise AssertionError("never promoted")
        for site in world.faulty.values():
            site.faults = 0.0
            site.do_late()
        writer = directory.replicas.writers[0]
        assert writer == name
        # Whoever missed it finds out.
        do_promote(world, name, directory)
        roles = {each: world.sites[each].state(VOLUME).role for each in ("s1", "s2")}
        assert roles == {name: WRITER, "s1" if name == "s2" else "s2": STANDBY}
        commit(world, name, {**head_files(world, name), b"n%d" % number: b"x" * 200})
        step(world, "s1" if name == "s2" else "s2", name)
    assert set(head_files(world, "s1")) == {b"a", b"n0", b"n1", b"n2", b"n3"}
