"""Every backend keeps the promises of backends/contract.py."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend
from dalsegno.backends.local import LocalBackend
from dalsegno.backends.memory import MemoryBackend
from dalsegno.terms.errors import AlreadyThere, BadInput, NotFound, Refused, Unavailable
from dalsegno.world import files
from dalsegno.world.clock import real_now_ns


@pytest.fixture(params=["local", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Every backend is a row here: the whole contract holds for it."""
    makers: dict[str, Callable[[], Backend]] = {
        "local": lambda: LocalBackend(tmp_path / "place"),
        "memory": MemoryBackend,
    }
    made = makers[request.param]()
    made.prepare(())
    return made


def test_created_value_is_read_whole_and_in_ranges(backend: Backend) -> None:
    backend.create("packs/ab/one", b"0123456789")
    assert backend.read("packs/ab/one") == b"0123456789"
    assert backend.read("packs/ab/one", 3, 4) == b"3456"
    assert backend.read("packs/ab/one", 8, 40) == b"89"
    assert backend.status("packs/ab/one").size_bytes == 10


def test_create_never_overwrites(backend: Backend) -> None:
    backend.create("one", b"first")
    with pytest.raises(AlreadyThere):
        backend.create("one", b"second")
    assert backend.read("one") == b"first"


def test_absent_names_are_not_found(backend: Backend) -> None:
    for action in (backend.read, backend.open, backend.status, backend.delete, backend.settle_value):
        with pytest.raises(NotFound):
            action("absent")
    assert not backend.has("absent") and not backend.has("absent/below")
    assert not backend.discard("absent")


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../b", "a//b", "./a", "a\0b", "x.partial", "refs.lock"])
def test_names_stay_inside(backend: Backend, name: str) -> None:
    with pytest.raises(BadInput):
        backend.create(name, b"x")
    with pytest.raises(BadInput):
        backend.read(name)


def test_swap_needs_the_expected_value(backend: Backend) -> None:
    assert backend.swap("refs/a", expected=None, value=b"1")
    assert not backend.swap("refs/a", expected=None, value=b"2")
    assert not backend.swap("refs/a", expected=b"9", value=b"2")
    assert backend.swap("refs/a", expected=b"1", value=b"2")
    assert backend.read("refs/a") == b"2"
    assert backend.swap("refs/a", expected=b"2", value=None)
    assert backend.swap("refs/a", expected=None, value=None)
    with pytest.raises(NotFound):
        backend.read("refs/a")


def test_of_swaps_at_once_exactly_one_wins(backend: Backend) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def swap(number: int) -> None:
        barrier.wait()
        if backend.swap("refs/x", expected=None, value=b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and backend.read("refs/x") == b"%d" % won[0]


def test_list_gives_names_by_prefix(backend: Backend) -> None:
    for name in ("refs/a/1", "refs/a/2", "refs/ab", "refs/b", "other"):
        backend.create(name, b"")
    assert list(backend.list("refs/a")) == ["refs/a/1", "refs/a/2", "refs/ab"]
    assert list(backend.list("refs/a/")) == ["refs/a/1", "refs/a/2"]
    assert list(backend.list("nothing/here")) == []
    assert len(list(backend.list(""))) == 5
    assert list(backend.list("refs/", after="refs/a/2")) == ["refs/ab", "refs/b"]
    assert list(backend.list("refs/", after="refs/a")) == ["refs/a/1", "refs/a/2", "refs/ab", "refs/b"]


def test_a_listing_tells_size_and_age_by_the_clock_of_the_place(backend: Backend) -> None:
    backend.create("packs/ab/one", b"0123456789")
    backend.create("packs/cd/two", b"")
    backend.create("other", b"x")
    one, two = backend.entries("packs/")
    assert (one.name, one.size_bytes, two.name, two.size_bytes) == ("packs/ab/one", 10, "packs/cd/two", 0)
    assert one.changed_ns <= two.changed_ns <= real_now_ns()
    assert one == backend.status("packs/ab/one")


def test_an_open_value_is_read_in_any_order_and_outlives_its_name(backend: Backend) -> None:
    backend.create("packs/ab/one", b"0123456789")
    value = backend.open("packs/ab/one")
    backend.delete("packs/ab/one")
    assert (value.read_at(8, 40), value.read_at(0, 2), value.size_bytes) == (b"89", b"01", 10)
    assert str(value.path) == backend.where("packs/ab/one")
    value.close()
    value.close()


def test_what_is_put_replaces_and_what_is_discarded_goes(backend: Backend) -> None:
    for data in (b"1", b"22", b""):
        backend.put("condemned/a", data)
        assert backend.read("condemned/a") == data
    backend.replace("condemned/a", b"4")
    assert backend.read("condemned/a") == b"4"
    assert backend.discard("condemned/a") and not backend.has("condemned/a")
    assert not backend.discard("condemned/a", lasting=False)
    backend.put("condemned/a", b"5")
    backend.delete("condemned/a")
    assert list(backend.list("")) == []


def test_a_value_is_put_where_another_process_removed_the_folder(tmp_path: Path) -> None:
    """What is remembered of a disk is believed against what it says."""
    backend = LocalBackend(tmp_path)
    backend.put("condemned/a", b"1")
    (tmp_path / "condemned/a").unlink()
    (tmp_path / "condemned").rmdir()
    backend.put("condemned/a", b"2")
    assert backend.read("condemned/a") == b"2"


def test_a_file_is_taken_as_a_value_and_is_gone(backend: Backend, tmp_path: Path) -> None:
    path = backend.scratch("uploads") / "one.partial"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"whole")
    with files.UploadFile(path, create=False) as upload:
        assert upload.lock() and not backend.has("packs/ab/one")
        backend.take("packs/ab/one", upload)
    assert backend.read("packs/ab/one") == b"whole" and not path.exists()
    path.write_bytes(b"other")
    with files.UploadFile(path, create=False) as upload, pytest.raises(AlreadyThere):
        assert upload.lock() and not backend.has_taken("packs/ab/one", upload)
        backend.take("packs/ab/one", upload)
    assert backend.read("packs/ab/one") == b"whole"


def test_a_lock_is_held_by_one_alone_or_shared(backend: Backend) -> None:
    with backend.lock("writers") as one, backend.lock("writers") as two, backend.lock("other") as other:
        assert one.acquire(shared=True) and two.acquire(shared=True, wait=False)
        assert not one.acquire(wait=False), "another shares it"
        assert other.acquire(wait=False)
        two.release()
        assert one.acquire(wait=False) and not two.acquire(shared=True, wait=False)
        assert one.acquire(shared=True, wait=False) and two.acquire(shared=True, wait=False)
        one.close()
        assert two.acquire(wait=False)


def test_who_waits_for_a_lock_gets_it_when_it_is_released(backend: Backend) -> None:
    got = []
    with backend.lock("writers") as held:
        held.acquire()
        begun = threading.Event()

        def wait() -> None:
            with backend.lock("writers") as lock:
                begun.set()
                got.append(lock.acquire(shared=True))

        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        assert got == []
        held.release()
        thread.join()
    assert got == [True]


def test_a_place_is_free_for_a_pool_or_says_why_not(backend: Backend) -> None:
    backend.require_free({"refs"})
    backend.prepare(["refs/", "packs/"])
    assert backend.is_there()
    backend.require_free({"refs", "packs"})
    assert not backend.was_used("packs/")
    backend.create("packs/ab/one", b"")
    backend.delete("packs/ab/one")
    assert backend.was_used("packs/"), "one that lost its values is not one that is not mounted"
    backend.create("diary", b"")
    with pytest.raises(Refused):
        backend.require_free({"refs", "packs"})


def test_what_makes_room_is_done_and_its_result_returned(backend: Backend) -> None:
    backend.keep_reserve()
    assert backend.making_room(lambda: 5) == 5
    backend.release_reserve()
    space = backend.space()
    assert space is None or 0 <= space.free_bytes <= space.total_bytes


def test_only_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.create("packs/ab/one", b"")
    for name in ("packs/ab/two.partial", "three.partial"):
        (tmp_path / name).write_bytes(b"half")
    backend.sweep("packs/", before_ns=0)
    assert (tmp_path / "packs/ab/two.partial").exists()
    backend.sweep("packs/", before_ns=None)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["one", "three.partial"]
    backend.sweep("", before_ns=real_now_ns())
    assert not (tmp_path / "three.partial").exists()


def test_a_value_has_one_name_in_messages_also_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that names its file twice, since the name is written in two ways."""
    monkeypatch.chdir(tmp_path)
    for root in (Path("."), Path("pool"), tmp_path / "other"):
        backend = LocalBackend(root)
        backend.create("packs/one", b"")
        value = backend.open("packs/one")
        assert str(value.path) == backend.where("packs/one")
        value.close()
    assert backend.where("") == f"{tmp_path}/other/"


def test_an_address_names_its_backend(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert open_backend(place).directory == tmp_path
    memory = MemoryBackend()
    assert open_backend(memory) is memory
    with pytest.raises(BadInput, match="s3://"):
        open_backend("s3://bucket/prefix")


def test_written_value_appears_only_at_commit(backend: Backend) -> None:
    with backend.writer("packs/p") as writer:
        writer.write(b"half")
        assert list(backend.list("packs/")) == []
    assert list(backend.list("")) == []
    with backend.writer("packs/p") as writer:
        writer.write(b"whole")
        writer.write(b"ness")
        writer.commit()
    assert backend.read("packs/p") == b"wholeness"
    with backend.writer("packs/p") as writer, pytest.raises(AlreadyThere):
        writer.commit()
    assert backend.read("packs/p") == b"wholeness"


def syncs_of(action: Callable[[], object]) -> int:
    """Return how many directories are synced while something is done."""
    steps: list[str] = []
    files.rehearse(lambda name, writes: steps.append(name))
    try:
        action()
    finally:
        files.rehearse(None)
    return steps.count("fsync-directory")


def test_what_is_read_while_another_thread_swaps_is_synced_by_the_next_swap(tmp_path: Path) -> None:
    """What was seen counts as synced, though it came after the sync."""
    backend = LocalBackend(tmp_path)
    for name in ("refs/volumes/a", "refs/names/a"):
        backend.swap(name, expected=None, value=b"1")
    os.mkfifo(tmp_path / "refs/volumes/slow")
    reader = threading.Thread(target=backend.read, args=("refs/volumes/slow",))
    reader.start()  # it waits until there is something to read
    with open(tmp_path / "refs/volumes/slow", "wb", buffering=0) as slow:
        usual = syncs_of(lambda: backend.swap("refs/names/a", expected=b"1", value=b"2"))
        slow.write(b"later")
    reader.join()
    assert syncs_of(lambda: backend.swap("refs/names/a", expected=b"2", value=b"3")) == usual + 1


def test_what_could_not_be_synced_once_is_synced_by_the_next_swap(tmp_path: Path) -> None:
    """What a sync failed for is forgotten with the failure."""
    backend = LocalBackend(tmp_path)
    for name in ("refs/volumes/a", "refs/names/a"):
        backend.swap(name, expected=None, value=b"1")
    usual = syncs_of(lambda: backend.swap("refs/names/a", expected=b"1", value=b"2"))
    backend.read("refs/volumes/a")

    def fail(name: str, writes: bool) -> None:
        if name == "fsync-directory":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    files.rehearse(fail)
    try:
        with pytest.raises(Unavailable):
            backend.swap("refs/names/a", expected=b"2", value=b"3")
    finally:
        files.rehearse(None)
    assert syncs_of(lambda: backend.swap("refs/names/a", expected=b"2", value=b"3")) == usual + 1


def test_what_was_prepared_is_not_made_again(tmp_path: Path) -> None:
    """A sync for each note, in a folder that was made durable a moment ago and is still empty."""
    backend = LocalBackend(tmp_path)
    backend.prepare(["condemned/"])
    assert syncs_of(lambda: backend.put("condemned/a", b"1")) == 1
    assert syncs_of(lambda: backend.put("condemned/a", b"2")) == 1


def test_what_is_told_is_synced_once_and_again_when_somebody_else_changed_it(tmp_path: Path) -> None:
    """What a killed process left is told to others as if it were durable."""
    ours, theirs = LocalBackend(tmp_path), LocalBackend(tmp_path)
    ours.swap("refs/volumes/a", expected=None, value=b"1")
    assert syncs_of(lambda: ours.settle_seen("refs/volumes/a")) == 0
    theirs.swap("refs/volumes/a", expected=b"1", value=b"2")
    assert syncs_of(lambda: ours.settle_seen("refs/volumes/a")) > 0
    assert syncs_of(lambda: ours.settle_seen("refs/volumes/a")) == 0
    theirs.swap("refs/volumes/a", expected=b"2", value=None)
    assert syncs_of(lambda: ours.settle_seen("refs/volumes/a")) > 0
    assert syncs_of(lambda: ours.settle_seen("refs/volumes/a")) == 0
