"""Volumes: names, clones, holds and addresses; every change is one swap, and a lost race is told."""

import multiprocessing
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, NotFound, Refused
from dalsegno.trees.read import read_revision
from dalsegno.volumes.address import dump_paths, parse_address, resolve
from dalsegno.volumes.clones import Clone, is_automatic
from dalsegno.volumes.state import decode_state
from dalsegno.volumes.store import Volumes
from kit import store_revision

DAY_NS = 86_400 * 10**9


@pytest.fixture
def pool(tmp_path):
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        yield pool


@pytest.fixture
def volumes(pool):
    return Volumes(pool)


def commit(pool, volumes, name, model, created_ns=1):
    state = volumes.get(name)
    with pool.writer() as writer:
        identity = store_revision(writer, model, parents=(state.head,) if state.head else (), created_ns=created_ns)
        revision = None
        writer.flush()
        revision = read_revision(pool, identity)
        return volumes.commit_revision(writer, state, revision)


def test_a_clone_is_one_swap_and_keeps_what_it_was(pool, volumes):
    volumes.create("home", kind="native", now_ns=1)
    _, first = commit(pool, volumes, "home", {b"a": b"1"})
    name, clone = volumes.add_clone("home", None, now_ns=5 * DAY_NS)
    commit(pool, volumes, "home", {b"a": b"2"}, created_ns=2)
    assert clone.revision == first == resolve(pool, volumes, parse_address(f"home@{name}"), now_ns=0).revision
    assert resolve(pool, volumes, parse_address("home"), now_ns=0).revision != first
    assert name == "1970-01-06T000000Z"


def test_a_hundred_clones_of_one_volume(pool, volumes):
    volumes.create("home", kind="native", now_ns=1)
    commit(pool, volumes, "home", {b"a": b"1"})
    for _ in range(100):
        volumes.add_clone("home", None, now_ns=DAY_NS)
    assert len(volumes.get("home").clones) == 100


def test_names_are_unique_renamed_and_free_again(pool, volumes):
    state = volumes.create("a", kind="native", now_ns=1)
    with pytest.raises(AlreadyThere):
        volumes.create("a", kind="native", now_ns=1)
    volumes.rename("a", "b")
    assert volumes.get("b").id == state.id
    with pytest.raises(NotFound):
        volumes.get("a")
    volumes.create("a", kind="native", now_ns=1)
    with pytest.raises(AlreadyThere):
        volumes.rename("a", "b")
    volumes.remove("b")
    assert [v.name for v in volumes.list()] == ["a"]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("swaps", [1, 2])
def test_the_names_of_a_rename_that_was_killed_are_free_for_who_does_not_have_them(pool, volumes, monkeypatch, swaps):
    """The kind of fault: what a killed command left behind takes a name for ever, and nobody has it."""
    state = volumes.create("a", kind="native", now_ns=1)
    swap, done = pool.swap_ref, []

    def killed(*words):
        if len(done) == swaps:
            raise Killed
        done.append(words)
        return swap(*words)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pool, "swap_ref", killed)
        volumes.rename("a", "b")
    has, free = ("a", "b") if swaps == 1 else ("b", "a")
    assert volumes.get(has).id == state.id
    with pytest.raises(AlreadyThere):
        volumes.create(has, kind="native", now_ns=1)
    other = volumes.create(free, kind="native", now_ns=1)
    assert {each.name: each.id for each in volumes.list()} == {has: state.id, free: other.id}
    assert volumes.get(free).id == other.id and volumes.get(has).id == state.id


@pytest.mark.parametrize("at", [0, 1, 2])
def test_two_that_take_one_name_at_once_do_not_both_get_it(pool, volumes, monkeypatch, at):
    """The kind of fault: one looks, the other writes, then the first writes, too."""
    volumes.create("a", kind="native", now_ns=1)
    swap, done = pool.swap_ref, []

    def between(*words):
        done.append(words)
        if len(done) == at + 1:
            with suppress(AlreadyThere, Conflict):
                volumes.create("b", kind="native", now_ns=1)
        return swap(*words)

    with monkeypatch.context() as patch, suppress(AlreadyThere, Conflict):
        patch.setattr(pool, "swap_ref", between)
        volumes.rename("a", "b")
    names = [each.name for each in volumes.list()]
    assert len(set(names)) == len(names) and "b" in names
    assert all(volumes.get(each.name).id == each.id for each in volumes.list())


def test_a_volume_that_is_renamed_while_another_is_made_with_its_new_name_keeps_it(pool, volumes, monkeypatch):
    state = volumes.create("a", kind="native", now_ns=1)
    pool.swap_ref(volumes._name_ref("b"), None, state.id)  # an earlier rename was killed
    swap, done = pool.swap_ref, []

    def between(*words):
        if not done:
            done.append(words)
            with suppress(AlreadyThere, Conflict):
                volumes.rename("a", "b")
        return swap(*words)

    with monkeypatch.context() as patch, suppress(AlreadyThere, Conflict):
        patch.setattr(pool, "swap_ref", between)
        volumes.create("b", kind="native", now_ns=1)
    names = [each.name for each in volumes.list()]
    assert len(set(names)) == len(names)
    assert all(volumes.get(each.name).id == each.id for each in volumes.list())


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a@b", "a:b", "x" * 300, "a\0b", "-rf", "a\nb"])
def test_names_that_could_not_be_addressed_are_refused(volumes, name):
    with pytest.raises(BadInput):
        volumes.create(name, kind="native", now_ns=1)


def test_a_commit_on_a_moved_head_is_a_conflict(pool, volumes):
    volumes.create("home", kind="native", now_ns=1)
    stale = volumes.get("home")
    commit(pool, volumes, "home", {b"a": b"1"})
    with pool.writer() as writer:
        identity = store_revision(writer, {b"b": b"2"}, created_ns=3)
        writer.flush()
        with pytest.raises(Conflict):
            volumes.commit_revision(writer, stale, read_revision(pool, identity))


def test_held_clones_stay(pool, volumes):
    volumes.create("home", kind="native", now_ns=1)
    commit(pool, volumes, "home", {b"a": b"1"})
    volumes.add_clone("home", "x", now_ns=1)
    volumes.set_held("home", "x", held=True)
    with pytest.raises(Refused, match="held"):
        volumes.unclone("home", "x")
    with pytest.raises(Refused, match="held"):
        volumes.remove("home")
    volumes.set_held("home", "x", held=False)
    volumes.unclone("home", "x")
    with pytest.raises(NotFound):
        volumes.unclone("home", "x")


def test_addresses_by_time_prefix_and_old_names(pool, volumes):
    volumes.create("u.hmpierce", kind="native", now_ns=1)
    ids = []
    for day in range(3):
        _, identity = commit(pool, volumes, "u.hmpierce", {b"a": b"%d" % day}, created_ns=day)
        ids.append(identity)
        volumes.add_clone("u.hmpierce", ["backup", "b", "c"][day], now_ns=day * DAY_NS)

    def of(text, now=3 * DAY_NS):
        return resolve(pool, volumes, parse_address(text), now_ns=now).revision

    assert of("u.hmpierce.backup") == of("u.hmpierce.0.backup") == ids[0]
    assert of("u.hmpierce@1970-01-02T00:00:00Z") == ids[1]
    assert of("u.hmpierce@2d") == ids[1]
    assert of("u.hmpierce@#" + ids[2].hex()[:8]) == ids[2]
    for wrong in ("u.hmpierce@nothing", "u.hmpierce@100d", "u.hmpierce@#zz", "none"):
        with pytest.raises(NotFound):
            of(wrong)
    assert parse_address("a@b:/c/d").path == b"c/d"


def test_chains_of_dump_files_are_told_from_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("full.dump").touch()
    Path("i.dump").touch()
    assert dump_paths("full.dump+i.dump") == [Path("full.dump"), Path("i.dump")]
    assert dump_paths("home@x") is None
    with pytest.raises(NotFound):
        dump_paths("full.dump+gone.dump")


def _add_clones(path, number):
    with Pool.open(path) as pool:
        for _ in range(10):
            Volumes(pool).add_clone("home", None, now_ns=number)


def test_four_processes_clone_at_once_and_nothing_is_lost(pool, volumes):
    volumes.create("home", kind="native", now_ns=1)
    commit(pool, volumes, "home", {b"a": b"1"})
    crew = [multiprocessing.Process(target=_add_clones, args=(pool.backend.directory, n)) for n in range(4)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    assert len(volumes.get("home").clones) == 40


def test_clone_of_an_older_version_is_read_and_its_name_tells_who_chose_it() -> None:
    """Kind: what an older version wrote is read with a meaning that nobody gave it."""
    old = msgspec.msgpack.encode(
        {
            "id": bytes(16),
            "name": "home",
            "kind": "native",
            "source": b"",
            "created_ns": 1,
            "clones": {
                name: {"revision": bytes(32), "created_ns": 1, "held": False}
                for name in ("2026-11-21T02:00:00Z", "2026-11-21T020000Z-2", "2026-11-21", "before upgrade")
            },
        }
    )
    clones = decode_state(old).clones
    assert {name for name, clone in clones.items() if is_automatic(name, clone)} == {
        "2026-11-21T02:00:00Z",
        "2026-11-21T020000Z-2",
    }
    assert len(clones) == 4
    assert all(clone.entry_count is None for clone in clones.values())
    given = Clone(revision=bytes(32), created_ns=1, automatic=False)
    assert not is_automatic("2026-11-21T02:00:00Z", given)
