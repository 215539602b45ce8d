"""A mount beside a plain directory, call by call: each row of a table does one thing in both, with the same outcome.

The rows are what well-known checkers of POSIX ask (pjdfstest, xfstests' generic group): error codes, times that change
and times that do not, set-id bits, what happens while a directory is read.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User

pytestmark = needs_fuse

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")
STRANGER = 65534
PUNCH, ZERO, KEEP = 2, 0x10, 1
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
UTC_2400, UTC_1000 = 13_569_465_600, -30_610_224_000
"""Instants, in seconds, that do not fit into 64 bits of nanoseconds."""
libc = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    called(libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def renameat2(source: str, target: str, flags: int) -> None:
    called(libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags))


def utimens(path: str, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    called(libc.utimensat(-100, os.fsencode(path), (ctypes.c_long * 4)(*atime, *mtime), 0))


@contextmanager
def opened(path: str, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def with_file(act: Callable[[int], Any], flags: int = os.O_RDWR, path: str = "file") -> Callable[[], Any]:
    def run() -> Any:
        with opened(path, flags) as descriptor:
            return act(descriptor)

    return run


def write_through_map(descriptor: int) -> None:
    with mmap.mmap(descriptor, 0) as shared:
        shared[:3] = b"MAP"
        shared.flush()


def fill() -> None:
    """Make what every row works on, in the current directory."""
    Path("file").write_bytes(b"hello world" * 1000)
    Path("twin").write_bytes(b"twin")
    os.link("twin", "twin2")
    Path("program").write_bytes(b"#!/bin/true\n")
    os.mkdir("empty")
    os.makedirs("full/below")
    os.mkdir("other")
    os.mkfifo("fifo")
    os.symlink("file", "to-file")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    Path("sticky/of-root").write_bytes(b"")
    os.mkdir("grouped")
    os.chmod("grouped", 0o2777)
    for path in ("file", "twin", "program"):
        os.chmod(path, 0o666)
    for path in (".", "full", "empty", "other"):
        os.chmod(path, 0o777)
    for number, path in enumerate(sorted(seen())):
        os.utime(path, ns=(number, number), follow_symlinks=False)


def seen() -> dict[str, tuple[Any, ...]]:
    """Return all that stat tells of everything here, but for what may differ: sizes and link counts of directories."""
    found = {}
    for above, directories, files in os.walk("."):
        for name in [".", *directories, *files] if above == "." else [*directories, *files]:
            path = os.path.normpath(os.path.join(above, name))
            facts = os.lstat(path)
            is_directory = stat.S_ISDIR(facts.st_mode)
            xattrs = () if stat.S_ISLNK(facts.st_mode) else tuple(sorted(os.listxattr(path)))
            size, links = (0, 0) if is_directory else (facts.st_size, facts.st_nlink)
            owner = (facts.st_uid, facts.st_gid)
            times = (facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns)
            found[path] = (facts.st_mode, owner, size, links, xattrs, facts.st_ino, times)
    return found


def difference(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return what changed: times by their letters, with their values where they were set; what was read may differ."""
    changed: dict[str, Any] = dict.fromkeys(before.keys() - after.keys(), "gone")
    for path, (*facts, inode, times) in after.items():
        if path not in before:
            changed[path] = facts
            continue
        *facts_before, inode_before, times_before = before[path]
        letters = []
        for letter, old, new in zip("amc", times_before, times, strict=True):
            is_set = abs(time.time_ns() - new) > 10**12
            is_read = letter == "a" and (not is_set or stat.S_ISDIR(facts[0]))
            if old != new and not is_read:
                letters.append((letter, new if is_set else "now"))
        moved = inode != inode_before
        if facts != facts_before or letters or moved:
            changed[path] = (facts if facts != facts_before else "", letters, moved)
    return changed


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def in_child(work: Callable[[], Any], uid: int = 0) -> Any:
    """Return what `work` gives in a process of its own, as another user when asked."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            os.write(writer, repr(work()).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        answer = said.read()
    os.waitpid(process, 0)
    return answer


def prepare(place: Path) -> dict[str, tuple[Any, ...]]:
    """Make a row's own directory, and return what there is to see."""
    place.mkdir()
    os.chdir(place)
    fill()
    return seen()


def tried(place: Path, act: Callable[[], Any], uid: int, before: dict[str, tuple[Any, ...]]) -> Any:
    """Return what a call says and what is different then."""
    os.chdir(place)
    said = in_child(lambda: outcome(act), uid)
    return said, sorted(difference(before, seen()).items())


LONG = "n" * 256
CALLS: dict[str, Callable[[], Any]] = {
    "name of 255 bytes": lambda: os.mkdir("n" * 255),
    "name of 256 bytes": lambda: os.mkdir(LONG),
    "look up 256 bytes": lambda: os.lstat(LONG),
    "rename to 256 bytes": lambda: os.rename("file", LONG),
    "link to 256 bytes": lambda: os.link("file", LONG),
    "path of 4096 bytes": lambda: os.stat("./" * 2048),
    "symlink of 4095 bytes": lambda: (os.symlink("x" * 4095, "long"), len(os.readlink("long"))),
    "symlink of 4096 bytes": lambda: os.symlink("x" * 4096, "long"),
    "through a loop": lambda: os.open("loop/x", os.O_RDONLY),
    "through a file": lambda: os.mkdir("file/x"),
    "file with a slash": lambda: os.open("file/", os.O_RDONLY),
    "mkdir over something": lambda: os.mkdir("fifo"),
    "symlink over dangling": lambda: os.symlink("x", "dangling"),
    "create through dangling": lambda: os.close(os.open("dangling", os.O_CREAT | os.O_WRONLY, 0o600)),
    "O_EXCL on dangling": lambda: os.open("dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "O_NOFOLLOW": lambda: os.open("to-file", os.O_NOFOLLOW),
    "O_TRUNC of a fifo": lambda: os.close(os.open("fifo", os.O_RDWR | os.O_TRUNC)),
    "O_TRUNC of a directory": lambda: os.open("empty", os.O_RDONLY | os.O_TRUNC),
    "O_TRUNC, set-id": lambda: (os.chmod("file", 0o6777), os.close(os.open("file", os.O_WRONLY | os.O_TRUNC))),
    "rmdir full": lambda: os.rmdir("full"),
    "rmdir a file": lambda: os.rmdir("file"),
    "rmdir .": lambda: os.rmdir("empty/."),
    "rmdir": lambda: os.rmdir("empty"),
    "unlink a directory": lambda: os.unlink("empty"),
    "unlink one of two names": lambda: os.unlink("twin"),
    "link": lambda: os.link("file", "new"),
    "link a symlink": lambda: os.link("to-file", "new", follow_symlinks=False),
    "link a directory": lambda: os.link("empty", "new"),
    "link over something": lambda: os.link("file", "fifo"),
    "rename": lambda: os.rename("file", "other/file"),
    "rename a directory": lambda: os.rename("full", "other/full"),
    "rename over a file": lambda: os.rename("file", "twin"),
    "rename over an empty directory": lambda: os.rename("full", "empty"),
    "rename over a full directory": lambda: os.rename("empty", "full"),
    "rename file over directory": lambda: os.rename("file", "empty"),
    "rename directory over file": lambda: os.rename("empty", "file"),
    "rename over a name of itself": lambda: os.rename("twin", "twin2"),
    "rename into itself": lambda: os.rename("full", "full/below/x"),
    "rename over what is above": lambda: os.rename("full/below", "full"),
    "rename nothing": lambda: os.rename("nothing", "file"),
    "rename noreplace": lambda: renameat2("file", "twin", 1),
    "rename exchange": lambda: renameat2("full", "file", 2),
    "rename exchange nothing": lambda: renameat2("file", "nothing", 2),
    "truncate": lambda: os.truncate("file", 5),
    "truncate longer": lambda: os.truncate("file", 1 << 40),
    "truncate to the same": lambda: os.truncate("file", 11000),
    "truncate below 0": lambda: os.truncate("file", -1),
    "truncate a directory": lambda: os.truncate("empty", 0),
    "ftruncate to the same": with_file(lambda fd: os.ftruncate(fd, 11000)),
    "ftruncate for reading": with_file(lambda fd: os.ftruncate(fd, 5), os.O_RDONLY),
    "write": with_file(lambda fd: os.write(fd, b"x")),
    "write nothing": with_file(lambda fd: os.write(fd, b"")),
    "read": with_file(lambda fd: os.read(fd, 5)),
    "write through a map": with_file(write_through_map),
    "fallocate": with_file(lambda fd: fallocate(fd, 0, 5000, 50_000)),
    "fallocate behind the end": with_file(lambda fd: fallocate(fd, KEEP, 50_000, 5000)),
    "fallocate of nothing": with_file(lambda fd: fallocate(fd, 0, 5, 0)),
    "punch": with_file(lambda fd: (fallocate(fd, PUNCH | KEEP, 3, 5000), os.pread(fd, 10, 0))),
    "punch without keeping the size": with_file(lambda fd: fallocate(fd, PUNCH, 0, 10)),
    "zero": with_file(lambda fd: (fallocate(fd, ZERO, 10_000, 5000), os.pread(fd, 10, 9995))),
    "copy a range": with_file(lambda fd: (os.copy_file_range(fd, fd, 100, 50, 20_000), os.pread(fd, 9, 20_000))),
    "copy a range onto itself": with_file(lambda fd: os.copy_file_range(fd, fd, 100, 50, 60)),
    "seek": with_file(lambda fd: [outcome(lambda o=o, w=w: os.lseek(fd, o, w)) for w in (3, 4) for o in (0, 99_999)]),
    "chmod": lambda: os.chmod("file", 0o4711),
    "chmod of a directory": lambda: os.chmod("empty", 0o7777),
    "chown": lambda: os.chown("file", 1, 2),
    "chown of nothing": lambda: os.chown("file", -1, -1),
    "chown of a symlink": lambda: os.lchown("dangling", 1, 2),
    "chown, set-id": lambda: (os.chmod("file", 0o6775), os.chown("file", 1, 2)),
    "chown, set-id of a directory": lambda: (os.chmod("empty", 0o6775), os.chown("empty", 1, 2)),
    "utimes": lambda: os.utime("file", ns=(5, -7)),
    "utimes now": lambda: os.utime("file"),
    "utimes omit": lambda: utimens("file", (0, OMIT), (0, OMIT)),
    "utimes access only": lambda: utimens("file", (1, 2), (0, OMIT)),
    "utimes change only": lambda: utimens("file", (0, OMIT), (1, 2)),
    "utimes change only of what is new": lambda: (
        Path("new").touch(),
        utimens("new", (0, OMIT), (1, 2)),
        os.stat("new").st_atime_ns > 10**18,
    ),
    "utimes now and omit": lambda: utimens("file", (0, NOW), (0, OMIT)),
    "utimes bad": lambda: utimens("file", (0, 1_000_000_000), (0, 0)),
    "utimes after 2106": lambda: utimens("file", (5_000_000_000, 1), (5_000_000_001, 2)),
    "setxattr": lambda: os.setxattr("file", "user.a", b""),
    "setxattr without a namespace": lambda: os.setxattr("file", "name", b"x"),
    "setxattr in no namespace": lambda: os.setxattr("file", "system.a", b"x"),
    "setxattr without a name": lambda: os.setxattr("file", "user.", b"x"),
    "setxattr of a long name": lambda: os.setxattr("file", "user." + "x" * 251, b"x"),
    "setxattr of a fifo": lambda: os.setxattr("fifo", "user.a", b"x"),
    "setxattr of a symlink": lambda: os.setxattr("dangling", "user.a", b"x", follow_symlinks=False),
    "getxattr of none": lambda: os.getxattr("file", "user.a"),
    "getxattr in no namespace": lambda: os.getxattr("file", "system.a"),
    "removexattr of none": lambda: os.removexattr("file", "user.a"),
    "removexattr of no access list": lambda: os.removexattr("file", "system.posix_acl_access"),
    "mknod": lambda: os.mknod("new", stat.S_IFIFO | 0o640),
    "mknod of a directory": lambda: os.mknod("new", stat.S_IFDIR | 0o755),
    "mkdir where the group is handed down": lambda: os.mkdir("grouped/new", 0o755),
    "create where the group is handed down": lambda: os.close(os.open("grouped/new", os.O_CREAT | os.O_RDWR, 0o2775)),
    "sticky: unlink": lambda: os.unlink("sticky/of-root"),
    "sticky: rename": lambda: os.rename("sticky/of-root", "sticky/new"),
    "sticky: rename over": lambda: os.rename("file", "sticky/of-root"),
}


ONLY_BESIDE_EXT4 = {
    "symlink of 4095 bytes",
    "rename over a full directory",
    "rename exchange",
    "truncate to the same",
    "zero",
    "removexattr of no access list",
}
"""In these btrfs, xfs and tmpfs differ from ext4, and from each other."""


def is_ext4(place: Path) -> bool:
    said = subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True, check=True).stdout
    return said.startswith("ext")


@as_root
@pytest.mark.parametrize("uid", [0, STRANGER], ids=["root", "stranger"])
def test_every_call_says_and_does_what_it_does_on_a_plain_directory(
    home: User, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.home)
    plain = home.home / "plain"
    plain.mkdir()
    calls = {name: act for name, act in CALLS.items() if name not in ONLY_BESIDE_EXT4 or is_ext4(plain)}
    differing = {}
    with mounted(home, "v", "--devices", "--allow-other") as mount:
        tops = (mount.path, plain)
        before = {(top, name): prepare(top / str(number)) for top in tops for number, name in enumerate(calls)}
        time.sleep(0.02)  # older kernels stamp files with a clock as coarse as that
        for number, (name, act) in enumerate(calls.items()):
            ours, theirs = (tried(top / str(number), act, uid, before[top, name]) for top in tops)
            if ours != theirs:
                differing[name] = (ours, theirs)
        os.chdir("/")
    assert not differing, "\n".join(f"{name}:\n  {ours}\n  {theirs}" for name, (ours, theirs) in differing.items())


def set_id_rows() -> dict[str, Callable[[int], Any]]:
    def splice(descriptor: int) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"x")
        os.splice(reader, descriptor, 1)

    return {
        "write": lambda fd: os.write(fd, b"x"),
        "truncate": lambda fd: os.ftruncate(fd, 1),
        "fallocate": lambda fd: fallocate(fd, 0, 0, 50_000),
        "punch": lambda fd: fallocate(fd, PUNCH | KEEP, 0, 10),
        "copy a range": lambda fd: os.copy_file_range(fd, fd, 1, 0, 10),
        "splice": splice,
        "chown": lambda fd: outcome(lambda: os.fchown(fd, -1, -1)) and None,
    }


@as_root
def test_set_id_bits_go_when_a_stranger_changes_the_file_and_only_then(home: User) -> None:
    plain = home.home / "plain"
    plain.mkdir()
    with mounted(home, "v", "--devices", "--allow-other") as mount:
        for name, act in set_id_rows().items():
            for mode in (0o6777, 0o6766, 0o2777, 0o2767):

                def work(act: Callable[[int], Any] = act, mode: int = mode) -> Any:
                    with opened("file", os.O_RDWR | os.O_CREAT) as descriptor:
                        os.fchmod(descriptor, mode)
                        in_child(lambda: act(descriptor), STRANGER)
                        return oct(os.fstat(descriptor).st_mode)

                def there(top: Path, work: Callable[[], Any] = work) -> Any:
                    os.chdir(top)
                    return work()

                ours, theirs = (in_child(lambda top=top: there(top)) for top in (mount.path, plain))
                # A stranger's chown of nothing is EPERM there where it would clear bits, and does nothing here.
                assert ours == theirs, (name, oct(mode), ours, theirs)


def test_directory_that_changes_while_it_is_listed_has_an_end_and_misses_nothing(home: User) -> None:
    count = 400
    for era in ("new", "stored"):
        with mounted(home, "v") as mount:
            place = mount.path / "many"
            if era == "new":
                place.mkdir()
                for number in range(count):
                    (place / f"f{number:04}").write_text(str(number))
            listed = []
            with os.scandir(place) as names:
                for entry in names:
                    listed.append(entry.name)
                    assert len(listed) <= 2 * count, "the list finds what was renamed again and again"
                    os.rename(entry.path, place / "other")
                    os.rename(place / "other", entry.path)
            assert sorted(set(listed)) == [f"f{number:04}" for number in range(count)]

            # What is replaced while somebody lists is there all the time.
            listed = []
            with os.scandir(place) as names:
                for entry in names:
                    if not listed:
                        for number in range(count):
                            (place / "draft").write_text("replaced")
                            os.replace(place / "draft", place / f"f{number:04}")
                    listed.append(entry.name)
            assert {f"f{number:04}" for number in range(count)} <= set(listed)

            facts = {name: (place / name).stat().st_ino for name in (".", "..")}
            assert {name: inode for name, inode in dots(place) if name in facts} == facts
            mount.end()


def dots(place: Path) -> list[tuple[str, int]]:
    """Return names and inode numbers as the directory itself tells them."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    buffer = ctypes.create_string_buffer(32 * 1024)
    found = []
    size = libc.syscall(217, descriptor, buffer, len(buffer)) if os.uname().machine == "x86_64" else 0
    os.close(descriptor)
    at = 0
    while at < size:
        inode, _, length, _ = struct.unpack_from("=QqHB", buffer.raw, at)
        found.append((buffer.raw[at + 19 : at + length].split(b"\0")[0].decode(), inode))
        at += length
    return found


def test_times_and_sizes_beyond_what_a_tree_can_say_do_not_keep_the_rest_from_being_stored(home: User) -> None:
    with mounted(home, "v") as mount:
        for number in range(3):
            with opened(str(mount.path / f"large{number}"), os.O_RDWR | os.O_CREAT) as descriptor:
                os.ftruncate(descriptor, (1 << 63) - 1)
                os.fsync(descriptor)
        for seconds in (UTC_2400, UTC_1000, 1 << 62):
            path = mount.path / f"at{seconds}"
            path.write_text("time")
            utimens(str(path), (seconds, 0), (seconds, 0))
            assert path.stat().st_mtime == pytest.approx(max(-(1 << 33), min(seconds, 1 << 33)), rel=0.1)
        with opened(str(mount.path), os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
        mount.end()
        assert "internal error" not in mount.log
    with mounted(home, "v") as mount:
        assert len(os.listdir(mount.path)) == 6
        assert (mount.path / "large2").stat().st_size == (1 << 63) - 1


def test_sockets_are_not_counted_however_many_names_they_have(home: User) -> None:
    with mounted(home, "v") as mount:
        os.mknod(mount.path / "socket", stat.S_IFSOCK | 0o644)
        os.link(mount.path / "socket", mount.path / "again")
        (mount.path / "file").touch()
        mount.end()
    assert home.value("log", "v")[0]["entries"] == 1


def test_more_room_than_the_pool_has_is_not_promised(home: User) -> None:
    with mounted(home, "v") as mount, opened(str(mount.path / "file"), os.O_RDWR | os.O_CREAT) as descriptor:
        room = os.statvfs(mount.path)
        with pytest.raises(OSError, match="No space left"):
            fallocate(descriptor, 0, 0, 2 * room.f_bavail * room.f_frsize)
        fallocate(descriptor, 0, 0, 5000)
        assert os.fstat(descriptor).st_size == 5000


def test_locks_of_an_opening_hold_against_other_openings(home: User) -> None:
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
    with mounted(home, "v") as mount:
        path = str(mount.path / "file")
        with opened(path, os.O_RDWR | os.O_CREAT) as one, opened(path) as other:
            fcntl.fcntl(one, 37, lock)  # F_OFD_SETLK
            with pytest.raises(BlockingIOError):
                fcntl.fcntl(other, 37, lock)


@pytest.fixture
def home(user: User) -> User:
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    return user
