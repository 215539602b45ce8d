"""Reading from the nearest server that lives: who is asked, who takes over, and that nobody is believed."""

import random
from pathlib import Path

import pytest
from memory_site import VOLUME, MemorySite

from dalsegno.formats import objects
from dalsegno.formats.object_records import Record
from dalsegno.replicas import nearest
from dalsegno.replicas.nearest import FAILED_NS, MEASURED_NS, NearestSource, Nearness
from dalsegno.terms.errors import Damaged, NoAccess, NotFound, Unavailable
from dalsegno.terms.ids import ObjectId
from dalsegno.volumes.state import NATIVE, VolumeState
from kit import REALM

SECOND = 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 10**18

    def __call__(self) -> int:
        return self.now


class SlowSite(MemorySite):
    """A server at a distance, which may be away, lie, or refuse."""

    def __init__(self, name: str, clock: Clock, *, seconds: float) -> None:
        super().__init__(name, clock)
        self.seconds = seconds
        self.is_away = self.lies = self.refuses = False
        self.asked = 0
        self.volumes[VOLUME] = VolumeState(id=bytes(16), name=VOLUME, kind=NATIVE, source=b"", created_ns=1)

    def block(self, volume: str, identity: ObjectId) -> list[Record]:
        self.asked += 1
        self.clock.now += int(self.seconds * SECOND)
        if self.is_away:
            raise Unavailable(f"{self.name}: away")
        if self.refuses:
            raise NoAccess(f"{self.name}: not for you")
        records = super().block(volume, identity)
        return [(kind, name, payload[::-1] + b"!") for kind, name, payload in records] if self.lies else records


class World:
    def __init__(self, path: Path, **seconds: float) -> None:
        self.clock = Clock()
        self.path = path / "nearness.json"
        self.sites = {name: SlowSite(name, self.clock, seconds=each) for name, each in seconds.items()}
        self.open()

    def open(self) -> None:
        """Begin a new command."""
        self.nearness = Nearness(self.path, clock=self.clock)
        self.source = NearestSource(REALM, site=self.sites.__getitem__, nearness=self.nearness, ticks=self.clock)
        self.source.place(VOLUME, self.sites)

    def put(self, payload: bytes, *names: str) -> ObjectId:
        identity = REALM.identify(objects.KIND_CHUNK, payload)
        for name in names or self.sites:
            self.sites[name].store.put(objects.KIND_CHUNK, payload)
        return identity

    def asked(self) -> dict[str, int]:
        counts = {name: site.asked for name, site in self.sites.items()}
        for site in self.sites.values():
            site.asked = 0
        return counts


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, far=0.5, near=0.01, middle=0.1)


def test_each_server_is_measured_once_and_then_the_nearest_is_asked(world: World) -> None:
    for number in range(20):
        assert world.source.get(world.put(b"%d" % number)) == b"%d" % number
    assert world.asked() == {"far": 1, "near": 18, "middle": 1}
    assert world.nearness.order(world.sites) == ["near", "middle", "far"]


def test_what_was_measured_is_remembered_by_the_next_command(world: World) -> None:
    for number in range(3):
        world.source.get(world.put(b"%d" % number))
    world.nearness.save()
    world.asked()
    world.open()
    for number in range(5):
        world.source.get(world.put(b"again %d" % number))
    assert world.asked() == {"far": 0, "near": 5, "middle": 0}
    world.clock.now += MEASURED_NS
    world.open()
    for number in range(4):
        world.source.get(world.put(b"later %d" % number))
    assert world.asked() == {"far": 1, "near": 2, "middle": 1}


@pytest.mark.parametrize("torn", [b"", b"[]", b'{"near": 1}', b"\xff"])
def test_a_torn_memory_is_made_anew(world: World, torn: bytes) -> None:
    world.path.write_bytes(torn)
    world.open()
    assert world.source.get(world.put(b"x")) == b"x"


def test_the_next_nearest_takes_over_in_the_middle_and_the_first_comes_back(world: World) -> None:
    ids = [world.put(b"%d" % number) for number in range(30)]
    for identity in ids[:10]:
        world.source.get(identity)
    world.asked()
    world.sites["near"].is_away = True
    for identity in ids[10:20]:
        world.source.get(identity)
    # The dead one was asked once, not for each object.
    assert world.asked() == {"far": 0, "near": 1, "middle": 10}
    world.sites["near"].is_away = False
    world.clock.now += FAILED_NS
    for identity in ids[20:]:
        world.source.get(identity)
    assert world.asked() == {"far": 0, "near": 10, "middle": 0}


def test_one_server_alone_is_enough(world: World) -> None:
    identity = world.put(b"x")
    world.sites["near"].is_away = world.sites["middle"].is_away = True
    assert world.source.get(identity) == b"x"


def test_an_object_that_only_one_server_has_is_found(world: World) -> None:
    identity = world.put(b"x", "far")
    assert world.source.get(identity) == b"x"
    with pytest.raises(NotFound):
        world.source.get(REALM.identify(objects.KIND_CHUNK, b"nobody's"))


def test_forged_payloads_are_passed_over_and_never_kept(world: World) -> None:
    identity = world.put(b"true")
    world.sites["near"].lies = world.sites["middle"].lies = True
    assert world.source.get(identity) == b"true"
    world.sites["far"].lies = True
    with pytest.raises(Damaged, match="disagree"):
        world.source.get(world.put(b"other"))


def test_what_comes_along_under_a_false_id_is_dropped(world: World) -> None:
    first, second = world.put(b"first"), world.put(b"second")

    class Mixing(SlowSite):
        def block(self, volume: str, identity: ObjectId) -> list[Record]:
            return [*super().block(volume, identity), (objects.KIND_CHUNK, second, b"forged")]

    mixing = Mixing("near", world.clock, seconds=0.01)
    mixing.store = world.sites["near"].store
    world.sites["near"] = mixing
    world.source.get(first)
    assert world.source.get(second) == b"second"


def test_errors_say_why(world: World) -> None:
    identity = world.put(b"x")
    for site in world.sites.values():
        site.is_away = True
    with pytest.raises(Unavailable, match=r"far: away.*middle: away.*near: away"):
        world.source.get(identity)
    for site in world.sites.values():
        site.is_away, site.refuses = False, True
    with pytest.raises(NoAccess):
        world.source.get(identity)
    world.sites["far"].refuses, world.sites["far"].is_away = False, True
    with pytest.raises(Unavailable):  # it may be there
        world.source.get(identity)


def test_memory_is_bounded_by_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "RECORDS_BYTES_MAX", 10_000)
    chance = random.Random(7)
    ids = [world.put(chance.randbytes(1000)) for _ in range(100)]
    for identity in ids:
        world.source.get(identity)
    world.asked()
    for identity in reversed(ids[-10:]):
        world.source.get(identity)
    assert sum(world.asked().values()) == 0
    assert world.source._size <= 10_000 and len(world.source._records) <= 10
    world.source.get(ids[0])
    assert sum(world.asked().values()) == 1


def test_a_preferred_server_is_asked_first_while_it_lives(world: World) -> None:
    world.source.place(VOLUME, world.sites, first="far")
    for number in range(5):
        world.source.get(world.put(b"%d" % number))
    assert world.asked() == {"far": 5, "near": 0, "middle": 0}
    world.sites["far"].is_away = True
    for number in range(5):
        world.source.get(world.put(b"more %d" % number))
    assert world.asked()["far"] == 1
