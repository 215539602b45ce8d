"""Every backend keeps the promises of backends/contract.py."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dalsegno.backends.contract import Backend
from dalsegno.backends.local import LocalBackend
from dalsegno.terms.errors import AlreadyThere, BadInput, NotFound, Unavailable
from dalsegno.world import files


@pytest.fixture(params=["local"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return {"local": LocalBackend}[request.param](tmp_path)


def test_created_value_is_read_whole_and_in_ranges(backend: Backend) -> None:
    backend.create("packs/ab/one", b"0123456789")
    assert backend.read("packs/ab/one") == b"0123456789"
    assert backend.read("packs/ab/one", 3, 4) == b"3456"
    assert backend.read("packs/ab/one", 8, 40) == b"89"
    assert backend.size("packs/ab/one") == 10


def test_create_never_overwrites(backend: Backend) -> None:
    backend.create("one", b"first")
    with pytest.raises(AlreadyThere):
        backend.create("one", b"second")
    assert backend.read("one") == b"first"


def test_absent_names_are_not_found(backend: Backend) -> None:
    for action in (backend.read, backend.size, backend.delete):
        with pytest.raises(NotFound):
            action("absent")


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
