"""Move: nothing is lost while users write, and whoever aborts leaves the original as it was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME, ClientDied
from site_worlds import WORLDS, clone, commit, context, found, head_files

from dalsegno.replicas.move import Move, move
from dalsegno.replicas.peers import Peers
from dalsegno.terms.errors import AlreadyThere, Conflict, DalError, Full, Moved, Refused, Unavailable
from dalsegno.volumes.state import WRITER, ReplicaSet

SET = ReplicaSet(version=3, writers=["s1"], readers=["s3"])
NAMES = ("s1", "s2", "s3")


class Directory:
    """Where the volume is said to be."""

    def __init__(self, replicas: ReplicaSet | None = SET) -> None:
        self.replicas = replicas
        self.away = False

    def publish(self, change: Callable[[ReplicaSet], ReplicaSet]) -> ReplicaSet:
        if self.away:
            raise Unavailable("directory: no answer")
        self.replicas = change(self.replicas or ReplicaSet(version=0, writers=[]))
        return self.replicas


def new_world(kind: str, path: Path) -> Any:
    world = WORLDS[kind](path)
    for name in NAMES:
        world.add(name)
    found(world, SET)
    commit(world, "s1", {b"a": b"1" * 500, b"b": b"b" * 5000})
    clone(world, "s1", "monday")
    commit(world, "s1", {b"a": b"2" * 500, b"b": b"b" * 5000})
    return world


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield new_world(request.param, tmp_path)


def do_move(world: Any, directory: Directory, source: str = "s1", target: str = "s2", *, sites: Any = None) -> Move:
    sites = sites or world.faulty
    return move(
        Peers(
            volume=VOLUME,
            sites={name: sites[name] for name in NAMES},
            context=context(world, owner="test move"),
            replicas=directory.replicas,
        ),
        source,
        target,
        publish=directory.publish,
    )


def is_writable(world: Any, name: str) -> bool:
    """Tell whether users of a server can commit there now."""
    try:
        commit(world, name, {**head_files(world, name), b"w": b"w" * 200})
    except (Moved, Refused, Conflict):
        return False
    return True


def test_volume_moves_with_its_clones_and_the_old_server_sends_its_users_on(world: Any) -> None:
    files = head_files(world, "s1")
    directory = Directory()
    done = do_move(world, directory)
    assert done.replicas.writers == ["s2"] and done.replicas.readers == ["s3"] and done.replicas.version == 5
    assert directory.replicas == done.replicas
    state = world.sites["s2"].state(VOLUME)
    assert state.role == WRITER and set(state.clones) == {"monday"} and head_files(world, "s2") == files
    assert world.files("s2", state.clones["monday"].revision)[b"a"] != files[b"a"]
    old = world.sites["s1"].state(VOLUME)
    assert old.replicas.moved_to == "s2" and old.lease is None
    with pytest.raises(Moved) as told:
        commit(world, "s1", {b"late": b"late"})
    assert told.value.server == "s2"
    assert is_writable(world, "s2")


def test_what_is_written_meanwhile_comes_along(world: Any) -> None:
    written = []

    def write() -> None:
        if len(written) < 4:
            written.append(b"w%d" % len(written))
            commit(world, "s1", {**head_files(world, "s1"), written[-1]: b"x" * 200})
            world.clock.now_ns += 10**9  # it takes long, so another round is made

    for call in ("commit", "upload"):
        world.faulty["s2"].fail[call] = write
    done = do_move(world, Directory())
    assert written and done.rounds > 1
    assert set(head_files(world, "s2")) == {b"a", b"b", *written}


def test_users_that_write_faster_than_it_moves_keep_their_server(world: Any) -> None:
    count = [0]

    def write() -> None:
        count[0] += 1
        commit(world, "s1", {b"n": str(count[0]).encode() * 200})
        world.clock.now_ns += 60 * 10**9

    for call in ("commit", "upload"):
        world.faulty["s2"].fail[call] = write
    with pytest.raises(Unavailable, match="faster"):
        do_move(world, Directory())
    assert is_writable(world, "s1")
    left = world.sites["s2"].state(VOLUME)
    assert left.replicas is None and left.role == "standby"


@pytest.mark.parametrize("call", ["upload", "commit", "adopt", "clone", "arrange"])
def test_failing_target_leaves_the_original_writable_at_once(world: Any, call: str) -> None:
    def fail() -> None:
        raise Full("no space")

    if call in ("upload", "adopt"):
        world.faulty["s2"].fail["commit"] = fail
    world.faulty["s2"].fail[call] = fail
    directory = Directory()
    with pytest.raises(Full):
        do_move(world, directory)
    assert directory.replicas == SET and is_writable(world, "s1")
    world.faulty["s2"].fail.clear()
    assert do_move(world, directory).replicas.writers == ["s2"]
    assert b"w" in head_files(world, "s2")


def test_killed_at_every_step_it_is_here_or_there_and_the_next_run_finishes(tmp_path: Path) -> None:
    killed = flipped = 0
    for stop in range(1, 200):
        world = new_world("memory", tmp_path)
        directory = Directory()
        try:
            do_move(world, directory, sites=dying(world, stop))
        except ClientDied:
            killed += 1
        else:
            break
        world.clock.now_ns += 31 * 10**9
        # Users know the old server: they go on there, or it sends them on.
        here = is_writable(world, "s1")
        if not here:
            flipped += 1
            assert world.sites["s1"].state(VOLUME).replicas.moved_to == "s2"
            assert is_writable(world, "s2")
        do_move(world, directory)
        assert directory.replicas is not None and directory.replicas.writers == ["s2"], stop
        assert set(head_files(world, "s2")) == {b"a", b"b", b"w"}, stop
        assert set(world.sites["s2"].state(VOLUME).clones) == {"monday"}
        assert not is_writable(world, "s1") and is_writable(world, "s2"), stop
    assert killed > 15 and flipped >= 1


def dying(world: Any, stop: int) -> dict[str, Any]:
    """Return the sites as a client sees them that dies at its call number `stop`, unable to tidy up."""
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


def test_lost_answers_do_not_matter(tmp_path: Path) -> None:
    for seed in range(20):
        world = new_world("memory", tmp_path)
        directory = Directory()
        for number, site in enumerate(world.faulty.values()):
            site._chance.seed(100 * seed + number)
            site.faults = 0.05
        for _ in range(100):
            try:
                do_move(world, directory)
                break
            except Unavailable:
                world.clock.now_ns += 31 * 10**9
                if world.sites["s1"].state(VOLUME).replicas.moved_to == "":
                    commit(world, "s1", {**head_files(world, "s1"), b"w": b"w" * 200})
        else:
            raise AssertionError("never moved")
        files = head_files(world, "s2")
        for site in world.faulty.values():
            site.faults = 0.0
            site.do_late()
        do_move(world, directory)
        assert directory.replicas is not None and directory.replicas.writers == ["s2"]
        assert head_files(world, "s2") == files and not is_writable(world, "s1") and is_writable(world, "s2"), seed


def test_flip_that_comes_late_is_refused_and_strands_no_commit(world: Any) -> None:
    """The message that ends the old server's part is delayed until the lease has ended, and users wrote again."""

    def late() -> None:
        world.clock.now_ns += 31 * 10**9
        assert is_writable(world, "s1")

    world.faulty["s1"].fail["arrange"] = late
    directory = Directory()
    with pytest.raises(Conflict):
        do_move(world, directory)
    assert directory.replicas == SET and is_writable(world, "s1")
    world.faulty["s1"].fail.clear()
    assert do_move(world, directory).replicas.writers == ["s2"]
    assert b"w" in head_files(world, "s2")


def test_directory_that_is_away_hears_of_it_by_the_same_command(world: Any) -> None:
    directory = Directory()
    directory.away = True
    done = do_move(world, directory)
    assert done.deaf == ("the directory",) and is_writable(world, "s2")
    directory.away = False
    again = do_move(world, directory)
    assert again.state is None and not again.deaf and directory.replicas == done.replicas


def test_change_of_the_set_at_the_same_time_counts_too(world: Any) -> None:
    directory = Directory()

    def meanwhile() -> None:
        if directory.replicas == SET:
            directory.replicas = msgspec.structs.replace(SET, version=4, standbys=["s9"])

    world.faulty["s2"].fail["arrange"] = meanwhile
    done = do_move(world, directory)
    assert done.replicas.version == 6 and done.replicas.standbys == ["s9"] and done.replicas.writers == ["s2"]
    assert world.sites["s2"].state(VOLUME).replicas == done.replicas and is_writable(world, "s2")


def test_there_and_back_again(world: Any) -> None:
    directory = Directory()
    do_move(world, directory)
    commit(world, "s2", {**head_files(world, "s2"), b"there": b"there" * 50})
    back = do_move(world, directory, "s2", "s1")
    assert back.replicas.writers == ["s1"] and b"there" in head_files(world, "s1")
    assert is_writable(world, "s1") and not is_writable(world, "s2")


def test_what_cannot_be_moved_is_refused_and_nothing_changes(world: Any) -> None:
    with pytest.raises(Refused, match="already"):
        do_move(world, Directory(), "s1", "s3")
    other = msgspec.structs.replace(world.sites["s1"].state(VOLUME), id=b"x" * 16, head=b"", clones={}, replicas=None)
    world.sites["s2"].create(other)
    with pytest.raises(AlreadyThere):
        do_move(world, Directory())
    with pytest.raises(DalError):
        do_move(world, Directory(), "s2", "s9") if "s9" in world.faulty else do_move(world, Directory(), "s3", "s2")
    assert is_writable(world, "s1") and world.sites["s2"].state(VOLUME).id == b"x" * 16


def test_one_of_several_writers_moves(tmp_path: Path) -> None:
    world = WORLDS["keeper"](tmp_path)
    for name in NAMES:
        world.add(name)
    two = ReplicaSet(version=1, writers=["s1", "s3"], clones={"s1": "daily-*"})
    found(world, two)
    commit(world, ["s1", "s3"], {b"a": b"1" * 500})
    for name in ("s1", "s3"):
        world.sites[name].agree(VOLUME, world.sites[name].state(VOLUME).head)
    directory = Directory(two)
    done = do_move(world, directory)
    assert done.replicas.writers == ["s2", "s3"] and done.replicas.clones == {"s2": "daily-*"}
    assert world.sites["s3"].state(VOLUME).replicas == done.replicas
    assert world.sites["s2"].state(VOLUME).common == world.sites["s3"].state(VOLUME).common


def test_volume_of_a_server_alone_moves(tmp_path: Path) -> None:
    world = new_world("keeper", tmp_path)
    state = world.sites["s1"].state(VOLUME)
    world.sites["s1"].volumes.update(state.id, lambda old: msgspec.structs.replace(old, replicas=None, role=""))
    done = do_move(world, Directory(None))
    assert done.replicas.writers == ["s2"] and world.sites["s1"].state(VOLUME).replicas.moved_to == "s2"
