"""What a client remembers of servers: who shows less than it did is passed over, and refused when nobody shows more."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from realm_world import RealmWorld

from dalsegno.actions import browse, clone
from dalsegno.actions.session import House
from dalsegno.pool.known import KnownHead, KnownPlace, line_that_counts
from dalsegno.terms.errors import Refused
from dalsegno.volumes.clones import Clones
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RealmWorld]:
    made = RealmWorld(tmp_path, ["s1", "s2", "s3"])
    yield made
    made.close()


def put_back(world: RealmWorld, *names: str) -> Callable[[], None]:
    """Keep the refs of servers, and return what puts them there again."""
    kept = {name: shutil.copytree(world.path / name / "refs", world.path / f"{name}-refs") for name in names}

    def back() -> None:
        for name, old in kept.items():
            shutil.rmtree(world.path / name / "refs")
            shutil.copytree(old, world.path / name / "refs")

    return back


def test_who_was_put_back_is_refused_although_the_others_are_away(world: RealmWorld) -> None:
    """A replica is put back and the others are cut off, so that its older state is all there is."""
    world.create("s1", "s2")
    world.write("c1", a="first")
    back = put_back(world, "s2")
    world.write("c1", a="second")
    back()
    world.down("s1")
    with pytest.raises(Refused, match="s2 shows one of"):
        world.read("c1", "home:/a")
    world.down()
    world.notes.clear()
    assert world.read("c1", "home:/a") == "second"
    assert any("s2 shows one of" in note and "other servers have the newer one" in note for note in world.notes)
    assert len(world.heads("s1", "s2")) == 1  # and it was brought up to date
    assert world.read("c2", "home:/a") == "second"


def test_who_is_merely_behind_takes_over(world: RealmWorld) -> None:
    """A server that was away never showed what it missed: failing over to it works, and is said."""
    world.create("s1", "s2")
    world.write("c1", a="first")
    world.down("s2")
    world.write("c1", a="second")
    world.down("s1")
    world.notes.clear()
    assert world.read("c1", "home:/a") == "first"
    assert any("s2 has not all" in note and "does not answer now" in note for note in world.notes)
    world.write("c1", b="third")
    world.down()
    assert world.read("c1", "home:/b") == "third"
    with world.client("c1") as house:
        assert names(house) == ["a", "b"]


def lie(world: RealmWorld, change: Callable[[VolumeState], VolumeState]) -> None:
    """Have s1 show another state than it has."""

    class Liar:
        def __getattr__(self, name: str) -> object:
            return getattr(world.keepers["s1"], name)

        def state(self, volume: str) -> VolumeState:
            return change(world.keepers["s1"].state(volume))

    world.sites["s1"].site = Liar()


def names(house: House) -> list[str]:
    return [row.path.decode() for row in browse.ls(house, "home")]


def test_all_that_hold_the_newest_state_answer_and_none_shows_it(world: RealmWorld) -> None:
    """A replica that is behind excuses nobody: who had the newer state answers, without it."""
    world.create("s1", "s2")
    world.write("c1", a="first")
    back = put_back(world, "s1")
    world.down("s2")
    world.write("c1", a="second")
    world.down()
    back()
    with pytest.raises(Refused, match="s1 shows one of"):
        world.read("c1", "home:/a")


def test_a_state_that_went_another_way_is_refused(world: RealmWorld) -> None:
    """A server was put back and others committed to it since: newer, and not what comes after the seen one."""
    world.create("s1")
    world.write("c1", a="first")
    back = put_back(world, "s1")
    world.write("c1", a="second")
    back()
    world.write("c2", a="other")
    world.write("c2", a="other again")
    with pytest.raises(Refused, match="went another way"):
        world.read("c1", "home:/a")
    with world.client("c1") as house:
        with pytest.raises(Refused):
            house.volumes.get("home")
        with pytest.raises(Refused):  # and not only the first time
            house.volumes.get("home")
        with pytest.raises(Refused):
            clone.clone(house, "home", "monday")


def test_what_is_seen_costs_no_questions(world: RealmWorld) -> None:
    """A memory that has to ask for what it compares, at each command."""
    world.create("s1", "s2")
    world.write("c1", a="first")
    world.read("c1", "home:/a")
    asked: list[str] = []
    for name in ("s1", "s2"):
        for call in ("state", "block", "missing", "objects", "states"):
            world.sites[name].fail[call] = lambda call=call: asked.append(call)  # type: ignore[misc]
    with world.client("c1") as house:
        house.volumes.get("home")
    assert asked == ["state", "state"]
    with world.client("c2") as house:
        house.realm_volumes.seen_on_servers = None
        asked.clear()
        house.volumes.get("home")
        plain = list(asked)
    world.write("c2", a="second")
    asked.clear()
    with world.client("c1") as house:
        house.volumes.get("home")
    assert asked.count("state") == plain.count("state") == 2
    assert asked.count("block") <= 1  # the head, which whoever reads the volume needs


def test_a_replica_that_was_made_anew_counts_anew(world: RealmWorld) -> None:
    """A server's disk was replaced: its states are numbered from one again, and nothing is wrong."""
    world.create("s1", "s2")
    for number in range(5):
        world.write("c1", a=str(number))
    world.keepers["s2"].remove("home")
    assert world.read("c1", "home:/a") == "4"
    world.down("s1")
    assert world.read("c1", "home:/a") == "4"


def test_a_volume_that_was_made_again_by_oneself_is_known(world: RealmWorld) -> None:
    """One's own doing raises an alarm: a volume is removed, and another one made under its name."""
    world.create("s1")
    world.write("c1", a="first")
    with world.client("c1") as house:
        house.volumes.remove("home")
        house.realm_volumes.create_replicated("home", ["s1"], now_ns=now_ns())
    shutil.rmtree(world.path / "c1-files")
    back = put_back(world, "s1")
    world.write("c1", a="again")
    assert world.read("c1", "home:/a") == "again"
    with world.client("c1") as house:
        house.volumes.remove("home")
    back()
    with world.client("c1") as house, pytest.raises(Refused, match="was removed on 2"):
        house.volumes.get("home")


def test_a_head_that_nobody_can_read_takes_no_place(world: RealmWorld) -> None:
    """A lying server shows a head that is none, then an older state: nothing is known to compare that with."""
    world.create("s1")
    world.write("c1", a="first")
    old = world.keepers["s1"].state("home")
    world.write("c1", a="second")
    lie(world, lambda state: msgspec.structs.replace(state, head=b"n" * 32, counter=state.counter + 1))
    with world.client("c1") as house, pytest.raises(Exception):  # noqa: B017 whatever it is called
        house.volumes.get("home")
        names(house)
    lie(world, lambda state: msgspec.structs.replace(old, counter=state.counter + 2))
    with pytest.raises(Refused, match="is older than it was"):
        world.read("c1", "home:/a")


def test_a_memory_of_ten_thousand_volumes_is_added_to(tmp_path: Path) -> None:
    """A memory that is written anew whenever one of many volumes changed."""
    place = KnownPlace("realm many", state=tmp_path)
    assert place.directory is not None
    heads = place.heads(b"r" * 16)
    some = KnownHead(head=b"h" * 32, created_ns=1, at_ns=1, counter=1)
    ids = [number.to_bytes(16, "big") for number in range(10_000)]
    place.append((b"r" * 16).hex(), [line_that_counts(each, 7, some) for each in ids])
    heads = place.heads(b"r" * 16)
    before = (place.directory / (b"r" * 16).hex()).stat()
    heads.put_lines(ids[5], {8: some})
    after = (place.directory / (b"r" * 16).hex()).stat()
    assert after.st_ino == before.st_ino and 0 < after.st_size - before.st_size < 400
    again = place.heads(b"r" * 16)
    assert again.volumes() == ids and again.of(ids[5]) == {7: some, 8: some}


def test_a_server_that_lies_about_its_number_can_leave_out_a_clone(world: RealmWorld) -> None:
    """What is not remembered is believed: the clones that a volume had."""
    world.create("s1")
    world.write("c1", a="first")
    with world.client("c1") as house:
        clone.clone(house, "home", "monday")
    lie(world, lambda state: msgspec.structs.replace(state, clones=Clones({}), counter=state.counter + 1))
    with world.client("c1") as house:
        assert not house.volumes.get("home").clones
