"""A client's pool lets go of what the servers have, and of nothing else, whenever it is killed."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from realm_world import RealmWorld

from dalsegno.actions.mount import Tree, commit_tree
from dalsegno.actions.remote import list_unsent
from dalsegno.actions.trim import trim
from dalsegno.formats.objects import CONTENT_DIRECTORY, ENTRY_DIRECTORY, KIND_DIRECTORY, KIND_REVISION, Entry
from dalsegno.pool.contract import Sink
from dalsegno.pool.pool import WRITERS_LOCK, Pool
from dalsegno.terms.errors import Full, Unacknowledged
from dalsegno.terms.events import silent
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.world import files
from kit import store_model

STEPS_MAX = 60
SERVERS = ("s1", "s2")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RealmWorld]:
    made = RealmWorld(tmp_path, list(SERVERS))
    try:
        made.create(*SERVERS)
        yield made
    finally:
        made.close()


def text(seed: int, size: int = 300_000) -> str:
    return random.Random(seed).randbytes(size // 2).hex()


def size_of(world: RealmWorld, client: str = "c1") -> int:
    return sum(path.stat().st_size for path in (world.path / client / "pool" / "packs").rglob("*.pack"))


def needed(pool: Pool) -> set[bytes]:
    """Return all that is here of commits that wait."""
    found: set[bytes] = set()

    def visit(kind: int, identity: bytes) -> bool:
        new = identity not in found and pool.has(ObjectId(identity))
        found.update([identity] if new else [])
        return new

    line = [revision for _, _, revision in list_unsent(pool)]
    visit_reachable(pool, [(KIND_REVISION, revision) for revision in line], visit)
    while line:
        found.add(line[-1])
        line += [each for each in read_revision(pool, line.pop()).parents if pool.has(ObjectId(each))]
    return found


def test_what_the_servers_have_goes_when_it_has_become_too_much(world: RealmWorld) -> None:
    world.write("c1", a=text(1), b=text(2))
    before = size_of(world)
    assert before > 300_000
    world.write("c1", cache_bytes_max=before, a=text(1), c="little")
    assert size_of(world) < 1000
    # What is gone here is read from servers, and what is as it was is not stored anew.
    assert world.read("c1", "home:/b") == text(2)
    world.write("c1", cache_bytes_max=before, c="more")
    assert 0 < size_of(world) < before
    world.write("c2", d="other")
    world.write("c1", cache_bytes_max=0, b=text(3))
    assert size_of(world) == 0
    assert world.read("c2", "home:/b") == text(3) and world.read("c2", "home:/c") == "more"
    assert len(world.heads(*SERVERS)) == 1


def test_a_mount_lets_go_as_well(world: RealmWorld) -> None:
    with world.client("c1", cache_bytes_max=0) as house:
        state, head = house.volumes.get("home"), b""
        for number in range(3):

            def build(sink: Sink, number: int = number) -> Tree:
                content = store_model(sink, {b"f%d" % number: text(number).encode()})  # type: ignore[arg-type]
                root = Entry(
                    name=b"", kind=ENTRY_DIRECTORY, mode=0o755, content_kind=CONTENT_DIRECTORY, content=content
                )
                return Tree(root=root, links=b"", entry_count=1, total_bytes=1)

            head = commit_tree(house, state.id, build, head=head, refresh=True).revision
            assert 0 < size_of(world) < 200_000
    assert size_of(world) == 0
    assert world.read("c2", "home:/f2") == text(2)


def wait(world: RealmWorld) -> None:
    """Commit a line of states that no server hears of; some of what they hold is in one pack with what servers have."""
    world.write("c1", a=text(1), b=text(2), c=text(3))
    world.down(*SERVERS)
    for number in (4, 5):
        with pytest.raises(Unacknowledged):
            world.write("c1", **{f"new{number}": text(number), "b": text(1)})
    world.down()


def test_commits_that_nobody_has_yet_stay(world: RealmWorld) -> None:
    wait(world)
    world.down(*SERVERS)
    with world.client("c1", cache_bytes_max=0) as house:
        before, there = size_of(world), needed(house.pool)
        house.realm_volumes.trim()
        assert 300_000 < size_of(world) < before and needed(house.pool) == there
        house.realm_volumes.trim()
        assert needed(house.pool) == there
    world.down()
    assert world.read("c1", "home:/new4") == text(4)
    world.write("c1", cache_bytes_max=0, last="x")
    assert size_of(world) == 0
    for name, seed in (("a", 1), ("b", 1), ("c", 3), ("new4", 4), ("new5", 5)):
        assert world.read("c2", f"home:/{name}") == text(seed)


def test_who_writes_is_not_disturbed(world: RealmWorld) -> None:
    world.write("c1", a=text(1))
    before = size_of(world)
    with world.client("c1", cache_bytes_max=0) as house, house.pool.writer():
        house.realm_volumes.trim()
    assert size_of(world) == before


def test_what_waits_is_asked_for_when_nobody_can_write_any_more(world: RealmWorld) -> None:
    """What came between the look and the lock was let go of."""
    world.write("c1", a=text(1))
    asked = []
    with world.client("c1") as house, house.pool.backend.lock(WRITERS_LOCK) as lock:

        def waiting() -> list[bytes]:
            asked.append(lock.acquire(shared=True, wait=False))
            return []

        trim(house.pool, waiting, bytes_max=0, report=silent)
    assert asked == [False]


def test_who_counted_on_what_went_stores_that_and_no_more(world: RealmWorld) -> None:
    world.write("c1", a=text(1), b=text(2))
    with world.client("c1") as house:
        root = read_revision(house.pool, house.volumes.get("home").head).root.content
        payload = house.pool.get(ObjectId(root))
        let_go(world.path / "c1" / "pool")
        with house.pool.writer(refresh=False) as writer:
            assert writer.put(KIND_DIRECTORY, payload) == root and not writer.objects_added
            writer.commit_guard()
            assert writer.objects_added == 1
    assert size_of(world) < 1000


def in_child(action: Callable[[], object], fault: str) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            files._steps_taken = 0
            os.environ["DAL_FAULT"] = fault
            action()
            code = 0
        except Full:
            code = 10
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def let_go(place: Path) -> None:
    with Pool.open(place) as pool:
        assert (
            trim(pool, lambda: [revision for _, _, revision in list_unsent(pool)], bytes_max=0, report=silent)
            is not None
        )


@pytest.mark.parametrize("action", ["kill", "full"])
def test_killed_at_every_step_it_keeps_what_waits(world: RealmWorld, action: str) -> None:
    wait(world)
    place = world.path / "c1" / "pool"
    with Pool.open(place) as pool:
        there = needed(pool)
    for step in range(1, STEPS_MAX):
        copy = world.path / f"copy{step}"
        shutil.copytree(place, copy)
        code = in_child(lambda copy=copy: let_go(copy), f"{action}:{step}")  # type: ignore[misc]
        if step % 2:
            let_go(copy)
        with Pool.open(copy) as pool:
            assert needed(pool) == there
            for identity in there:
                pool.get(ObjectId(identity))
        if code == 0:
            break
        assert code in (-9, 10)
    assert step > 5
    shutil.rmtree(place)
    copy.rename(place)
    assert world.read("c1", "home:/new5") == text(5)
    assert world.read("c2", "home:/new4") == text(4)
