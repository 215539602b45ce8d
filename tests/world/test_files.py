"""Durable files: whole or not there; faults are injected at each step."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dalsegno.terms.errors import AlreadyThere, Conflict, Full, Refused
from dalsegno.world import chance, clock, files
from dalsegno.world.files import FileLock, PartialFile, make_directory, remove_left_behind, write_durable
from dalsegno.world.workers import Workers


@pytest.mark.parametrize("step", [1, 2, 3])
def test_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    path = tmp_path / "value"
    files.write_durable(path, b"old")
    monkeypatch.setattr(files, "_steps_taken", 0)
    monkeypatch.setenv("DAL_FAULT", f"full:{step}")
    with pytest.raises(Full, match="value"):
        files.write_durable(path, b"new")
    assert [child.name for child in tmp_path.iterdir()] == ["value"] and path.read_bytes() == b"old"


def test_write_without_replace_refuses_a_taken_name(tmp_path: Path) -> None:
    files.write_durable(tmp_path / "a", b"1", replace=False)
    with pytest.raises(AlreadyThere):
        files.write_durable(tmp_path / "a", b"2", replace=False)
    assert [child.name for child in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"1"


def test_stale_partial_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "p.partial").write_bytes(b"left by a killed writer")
    with files.PartialFile(tmp_path / "p") as file:
        file.write(b"good")
        assert file.offset == 4
        file.commit()
    assert [child.name for child in tmp_path.iterdir()] == ["p"] and (tmp_path / "p").read_bytes() == b"good"


def test_lock_is_exclusive_between_openings(tmp_path: Path) -> None:
    with files.FileLock(tmp_path / "l") as first, files.FileLock(tmp_path / "l") as second:
        assert first.acquire(shared=True) and second.acquire(shared=True)
        assert not first.acquire(wait=False)
        second.close()
        assert first.acquire(wait=False)


def test_clock_stops_for_a_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_NOW", "2026-11-21T02:00:00.000001+00:00")
    assert clock.now_ns() == 1795226400000001000
    monkeypatch.setenv("DAL_NOW", "17")
    assert clock.now_ns() == 17


def test_nodes_are_63_bits_and_never_zero() -> None:
    assert all(0 < chance.random_node() < 2**63 for _ in range(1000))


def test_crew_ends_with_its_block() -> None:
    with Workers(2) as crew:
        futures = [crew.submit(pow, 2, number) for number in range(10)]
    assert [future.result() for future in futures] == [2**number for number in range(10)]


def test_a_file_never_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="no ordinary file"):
        files.PartialFile(tmp_path / "pipe")
    with pytest.raises(Refused, match="no ordinary file"):
        files.write_durable(tmp_path / "pipe", b"text")
    assert os.listdir(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()


NO_SUCH_CALLS = r"""
import ctypes, os, struct, sys
from pathlib import Path
refused = {NUMBERS}
# Each: compare the call's number, answer with an error. As the kernel does for file systems that lack the call.
code = [(0x20, 0, 0, 0)]
for number, error in refused:
    code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
code.append((0x06, 0, 0, 0x7FFF0000))
filters = b"".join(struct.pack("HBBI", *each) for each in code)
buffer = ctypes.create_string_buffer(filters)
program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
from dalsegno.terms.errors import AlreadyThere
from dalsegno.world.files import PartialFile, UploadFile, make_directory, write_durable
place = Path(sys.argv[1])
make_directory(place / "new" / "deep")
write_durable(place / "a", b"first", replace=False)
with PartialFile(place / "p", replace=False) as partial:
    partial.write(b"whole")
    partial.commit()
for name, write in (("a", lambda path: write_durable(path, b"second", replace=False)),):
    try:
        write(place / name)
    except AlreadyThere:
        pass
    else:
        raise SystemExit("replaced")
with UploadFile(place / "u", create=True) as upload:
    upload.write_at(0, b"sent")
    upload.take_to(place / "taken")
"""
RENAMEAT2, LINK, LINKAT, FSYNC = (316, 22), (86, 1), (265, 1), (74, 22)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of calls are x86_64's")
@pytest.mark.parametrize(
    "refused",
    [[RENAMEAT2], [LINK, LINKAT], [RENAMEAT2, LINK, LINKAT], [RENAMEAT2, LINK, LINKAT, FSYNC]],
    ids=["no-renameat2", "no-links", "neither", "no-fsync-either"],
)
def test_new_files_get_their_name_once_where_calls_are_missing(tmp_path: Path, refused: list[tuple[int, int]]) -> None:
    """The kind: file systems without hard links, or without other calls that Linux's own have."""
    done = subprocess.run(
        [sys.executable, "-c", NO_SUCH_CALLS.replace("{NUMBERS}", repr(refused)), tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert found == {"a": b"first", "p": b"whole", "taken": b"sent"}


NO_LOCKS = r"""
from dalsegno.terms.errors import Refused
from dalsegno.world.files import FileLock
try:
    FileLock(place / "lock").acquire()
except Refused as error:
    assert "no locks" in str(error)
else:
    raise SystemExit("locked")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of calls are x86_64's")
@pytest.mark.parametrize("answer", [38, 37, 95], ids=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_refused_in_words(tmp_path: Path, answer: int) -> None:
    """The kind: a feature of Linux's own file systems that others lack is an error without a way out."""
    code = NO_SUCH_CALLS.replace("{NUMBERS}", repr([(73, answer)])) + NO_LOCKS
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_into_anothers_directory_is_its_owners_when_asked(tmp_path: Path) -> None:
    """The kind: root helps once, and the user's own program stands before a file that it may not read."""
    os.chown(tmp_path, 1234, 1235)
    write_durable(tmp_path / "file", b"x", to_owner=True)
    make_directory(tmp_path / "a" / "b", to_owner=True)
    with PartialFile(tmp_path / "partial", to_owner=True) as partial:
        partial.commit()
    FileLock(tmp_path / "lock").close()
    write_durable(tmp_path / "own", b"x")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.rglob("*")}
    assert owners.pop("own") == (0, 0)
    assert owners == dict.fromkeys(("file", "a", "b", "partial", "lock"), (1234, 1235))


def test_half_files_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"a.key.{ended.pid}.0.partial", f"a.key.{os.getpid()}.0.partial", f"a.txt.{ended.pid}.0.partial"):
        (tmp_path / name).touch()
    (tmp_path / "a.key").touch()
    remove_left_behind(tmp_path, "*.key")
    left = {f"a.key.{os.getpid()}.0.partial", f"a.txt.{ended.pid}.0.partial", "a.key"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_directories_that_stay_are_made_by_who_syncs_their_names() -> None:
    """A directory that one part made and did not sync is taken for durable by another, for there is something in it."""
    source = Path(files.__file__).parents[1]
    others = {
        "world/files.py",
        "host/restore.py",  # what is restored has a sync of its own
        "host/target.py",
        "bridges/application.py",  # images that a restore of Amanda's keeps for a moment
    }
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if any(call in path.read_text() for call in (".mkdir(", ".makedirs("))
    }
    assert found == others


def test_a_file_that_somebody_else_writes_just_now_is_not_committed_half(tmp_path: Path) -> None:
    """A name that two writers take for their own: the half of one got the name when the other committed."""
    with PartialFile(tmp_path / "p") as first:
        first.write(b"whole")
        with pytest.raises(Conflict, match="another process writes this file now"):
            PartialFile(tmp_path / "p")
        first.commit()
    assert (tmp_path / "p").read_bytes() == b"whole"
    with files.ResumedFile(tmp_path / "q") as going_on:
        going_on.write(b"whole")
        with pytest.raises(Conflict, match="another process writes this file now"):
            files.ResumedFile(tmp_path / "q")


def test_without_locks_the_half_of_another_writer_does_not_get_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_try_lock", lambda descriptor: True)  # as on a share without locks
    with pytest.raises(Conflict, match="another process writes this file, too"), PartialFile(tmp_path / "p") as first:
        first.write(b"whole")
        with PartialFile(tmp_path / "p") as second:
            second.write(b"ha")
            first.commit()
    assert not (tmp_path / "p").exists()


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "p.partial").write_bytes(b"half")
    with PartialFile(tmp_path / "p") as file:
        file.write(b"whole")
        file.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
