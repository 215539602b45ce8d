"""Old versions, dumps and whole pools as a directory, looked at with the kernel's own eyes."""

import errno
import os
import pwd
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount_kit import Mount, detach, mounted, needs_fuse, needs_program

from cli_kit import User

pytestmark = needs_fuse


def fill(doc: Path) -> None:
    (doc / "sub" / "deep").mkdir(parents=True)
    (doc / "empty").mkdir()
    (doc / "plan.txt").write_text("first plan\n")
    (doc / "sub" / "big.bin").write_bytes(os.urandom(3_000_000))
    (doc / "sub" / "deep" / "one").write_bytes(b"1" * 200)
    (doc / "none").touch()
    os.symlink("plan.txt", doc / "link")
    os.link(doc / "plan.txt", doc / "hard.txt")
    os.link(doc / "plan.txt", doc / "sub" / "third.txt")
    os.mkfifo(doc / "pipe")
    with open(doc / "sparse", "wb") as file:
        file.truncate(8 << 20)
        os.pwrite(file.fileno(), b"middle", 4 << 20)
    (doc / "sub" / "\udcff odd \n name").write_text("odd")
    os.setxattr(doc / "plan.txt", "user.note", b"kept")
    os.chmod(doc / "sub", 0o2750)
    os.utime(doc / "plan.txt", ns=(5, 1_234_567_890_123_456_789))


@pytest.fixture
def doc(user: User) -> Path:
    path = user.home / "doc"
    path.mkdir()
    fill(path)
    user.quick("backup", str(path))
    return path


def looked(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that a program can see below `root`, but for what a mount says otherwise: times of change."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory) / name
            stat = path.lstat()
            data: object = None
            if path.is_symlink():
                data = os.readlink(path)
            elif path.is_file():
                data = path.read_bytes()
            xattrs = {} if path.is_symlink() else {key: os.getxattr(path, key) for key in os.listxattr(path)}
            size = 0 if path.is_dir() else stat.st_size
            links = 0 if path.is_dir() else stat.st_nlink
            facts = (
                stat.st_mode,
                stat.st_uid,
                stat.st_gid,
                size,
                links,
                stat.st_mtime_ns,
                data,
                sorted(xattrs.items()),
            )
            found[str(path.relative_to(root))] = facts
    return found


def test_mount_shows_what_was_backed_up(user: User, doc: Path) -> None:
    with mounted(user, "doc@latest") as mount:
        assert looked(mount.path) == looked(doc)
        ino = {os.stat(mount.path / name).st_ino for name in ("plan.txt", "hard.txt", "sub/third.txt")}
        assert len(ino) == 1
        mount.end()


def test_writing_is_refused_as_on_a_read_only_disk(user: User, doc: Path) -> None:
    with mounted(user, "doc@latest") as mount:
        for act in (
            lambda: (mount.path / "new").write_text("x"),
            lambda: os.mkdir(mount.path / "d"),
            lambda: os.unlink(mount.path / "plan.txt"),
            lambda: os.chmod(mount.path / "plan.txt", 0o600),
            lambda: os.rename(mount.path / "plan.txt", mount.path / "p2"),
            lambda: os.setxattr(mount.path / "plan.txt", "user.x", b"1"),
        ):
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == errno.EROFS


def test_holes_stay_holes(user: User, doc: Path) -> None:
    with mounted(user, "doc@latest") as mount, open(mount.path / "sparse", "rb") as file:
        assert os.fstat(file.fileno()).st_blocks * 512 < 1 << 20
        data = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        assert 0 < data <= 4 << 20
        hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
        assert 4 << 20 < hole < 8 << 20
        with pytest.raises(OSError) as caught:
            os.lseek(file.fileno(), hole, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO


def test_reads_anywhere_in_a_large_file_are_right(user: User, doc: Path) -> None:
    data = (doc / "sub" / "big.bin").read_bytes()
    with mounted(user, "doc@latest") as mount, open(mount.path / "sub" / "big.bin", "rb") as file:
        for offset, size in [(0, 1), (1, 4096), (131071, 2), (2_999_999, 10), (3_000_000, 5), (1_000_003, 1_500_000)]:
            assert os.pread(file.fileno(), size, offset) == data[offset : offset + size]


def test_every_clone_stands_in_the_hidden_directory(user: User, doc: Path) -> None:
    (doc / "plan.txt").write_text("second plan\n")
    with mounted(user, "doc@latest") as mount:
        assert ".clones" not in os.listdir(mount.path)
        user.quick("clone", "doc", "second")
        clones = sorted(os.listdir(mount.path / ".clones"))
        assert len(clones) == 2 and "second" in clones
        first = next(name for name in clones if name != "second")
        assert (mount.path / ".clones" / first / "plan.txt").read_text() == "first plan\n"
        assert (mount.path / ".clones" / "second" / "plan.txt").read_text() == "second plan\n"
        assert (mount.path / "plan.txt").read_text() == "first plan\n", "what is mounted does not move"
        assert not (mount.path / ".clones" / "third").exists()
        found = subprocess.run(["find", str(mount.path / ".clones"), "-name", "plan.txt"], capture_output=True)
        assert found.returncode == 0 and found.stdout.count(b"\n") == 2, found.stderr


def test_all_volumes_stand_side_by_side(user: User, doc: Path) -> None:
    other = user.home / "other"
    other.mkdir()
    (other / "file").write_text("of another")
    user.quick("backup", str(other))
    with mounted(user, "--all") as mount:
        assert sorted(os.listdir(mount.path)) == ["doc", "other"]
        assert (mount.path / "other" / "latest" / "file").read_text() == "of another"
        assert "latest" in os.listdir(mount.path / "doc")
        assert looked(mount.path / "doc" / "latest") == looked(doc)


def test_a_part_of_a_volume_can_be_mounted_alone(user: User, doc: Path) -> None:
    with mounted(user, "doc:/sub") as mount:
        assert looked(mount.path) == looked(doc / "sub")


def test_chain_of_dumps_is_mounted_without_the_pool(user: User, doc: Path) -> None:
    user.quick("dump", "doc", "--level", "0", "-o", "full.dump")
    (doc / "plan.txt").write_text("second plan\n")
    user.quick("backup", str(doc))
    user.quick("dump", "doc", "--level", "1", "-o", "incr.dump")
    user.quick("key", "export", "exported.key")
    with mounted(user, "full.dump+incr.dump") as mount:
        assert looked(mount.path) == looked(doc)
    os.rename(user.home / "pool", user.home / "pool-away")
    assert "--key FILE" in user.quick("mount", "full.dump", "mnt", code=6).error
    with mounted(user, "full.dump+incr.dump", "--key", "exported.key") as mount:
        assert looked(mount.path) == looked(doc)
    with mounted(user, "full.dump", "--key", "exported.key") as mount:
        assert (mount.path / "plan.txt").read_text() == "first plan\n"
    refused = user.quick("mount", "incr.dump", "mnt", "--key", "exported.key", code=4)
    assert "is an increment" in refused.error


def test_as_user_shows_every_file_as_the_callers_own(user: User, doc: Path) -> None:
    secret = doc / "secret"
    secret.write_text("x")
    os.chown(secret, 4321, 4321) if os.geteuid() == 0 else None
    secret.chmod(0o000 if os.geteuid() == 0 else 0o400)
    user.quick("backup", str(doc))
    with mounted(user, "doc@latest", "--as-user") as mount:
        stat = os.stat(mount.path / "secret")
        assert (stat.st_uid, stat.st_gid) == (os.getuid(), os.getgid())
        assert stat.st_mode & 0o400
        assert (mount.path / "secret").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_rights_are_those_that_were_stored(user: User, doc: Path) -> None:
    (doc / "secret").write_text("x")
    (doc / "secret").chmod(0o600)
    (doc / "open").write_text("y")
    user.quick("backup", str(doc))
    os.chmod(user.home, 0o755)
    for parent in user.home.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)

    def try_as_nobody(mount: Mount, name: str) -> int:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", str(mount.path / name)]
        return subprocess.run(command, capture_output=True).returncode

    with mounted(user, "doc@latest", "--allow-other") as mount:
        assert try_as_nobody(mount, "open") == 0
        assert try_as_nobody(mount, "secret") != 0
    with mounted(user, "doc@latest") as mount:
        assert try_as_nobody(mount, "open") != 0


def test_damaged_object_fails_its_file_alone_and_is_named_in_the_log(user: User, doc: Path) -> None:
    (doc / "sub" / "big.bin").write_bytes(os.urandom(9_000_000))
    user.quick("backup", str(doc))
    pack = max((user.home / "pool" / "packs").rglob("*.pack"), key=lambda path: path.stat().st_size)
    pack = sorted((user.home / "pool" / "packs").rglob("*.pack"), key=lambda path: path.stat().st_mtime_ns)[-1]
    with open(pack, "r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with mounted(user, "doc@latest") as mount:
        with pytest.raises(OSError) as caught:
            (mount.path / "sub" / "big.bin").read_bytes()
        assert caught.value.errno == errno.EIO
        assert (mount.path / "plan.txt").read_text() == "first plan\n"
        assert "sub/big.bin" in mount.log and str(pack) in mount.log and "offset" in mount.log
        assert "Traceback" not in mount.log


def test_mount_goes_to_the_background_and_is_listed_until_it_is_ended(user: User, doc: Path) -> None:
    mnt = user.home / "mnt"
    mnt.mkdir()
    try:
        user.quick("mount", "doc@latest", "mnt")
        assert (mnt / "plan.txt").read_text() == "first plan\n"
        listed = user.value("mount", "--list")
        assert [each["at"] for each in listed if each["at"].startswith(str(user.home))] == [str(mnt)]
        with open(mnt / "plan.txt"):
            assert "dal umount --lazy" in user.quick("umount", "mnt", code=4).error
        user.quick("umount", "mnt")
        assert os.listdir(mnt) == []
        assert "not a mount of ours" in user.quick("umount", "mnt", code=2).error
    finally:
        subprocess.run(["umount", "-l", str(mnt)], capture_output=True)


def test_what_cannot_be_mounted_is_said_in_one_line_by_the_background_too(user: User, doc: Path) -> None:
    (user.home / "mnt").mkdir()
    assert "no volume 'nothing'" in user.quick("mount", "nothing", "mnt", code=6).error
    assert "make it first" in user.quick("mount", "doc", "no-dir", code=2).error
    assert "mount a directory" in user.quick("mount", "doc:/plan.txt", "mnt", code=2).error
    assert "no such file" in user.quick("mount", "no.dump", "mnt", code=6).error


def test_missing_fuse_is_answered_with_a_remedy(user: User, doc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dalsegno.mount import kernel
    from dalsegno.terms.errors import NotFound

    options = kernel.MountOptions(read_only=True, allow_other=False, default_permissions=True, label="x")
    monkeypatch.setattr(kernel, "DEVICE", "/dev/no-fuse")
    with pytest.raises(NotFound, match="modprobe fuse"):
        kernel.mount(user.home, options)
    monkeypatch.setenv("PATH", str(user.home))
    with pytest.raises(NotFound, match="apt install fuse3"):
        kernel.fusermount()


def test_foreground_stays_until_it_is_asked_to_end(user: User, doc: Path) -> None:
    mnt = user.home / "mnt"
    mnt.mkdir()
    process = subprocess.Popen(
        [*user.command(), "mount", "--foreground", "doc@latest", str(mnt)],
        cwd=user.home,
        env=user.environ({}),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and b"dal umount" in process.stdout.readline()
        assert (mnt / "plan.txt").read_text() == "first plan\n"
        process.terminate()
        assert process.wait(timeout=30) == 0
        assert os.listdir(mnt) == []
    finally:
        detach(mnt)
        process.kill()
        process.wait()


def test_a_directory_shows_one_mount_of_ours_also_a_dead_one(user: User, doc: Path) -> None:
    with mounted(user, "doc@latest") as mount:
        error = user.quick("mount", "doc", str(mount.path), code=4).error
        assert "doc@" in error and "dal umount" in error
        os.kill(mount.process, signal.SIGKILL)
        mount.wait()
        assert "dal umount" in user.quick("mount", "doc", str(mount.path), code=4).error
        user.quick("umount", "--lazy", str(mount.path))
    with mounted(user, "doc@latest"):
        pass


@needs_program("getent")
def test_fstab_helper_knows_the_home_of_whoever_mounts(tmp_path: Path) -> None:
    (tmp_path / "dal").write_text('#!/bin/sh\necho "$HOME"\n')
    (tmp_path / "dal").chmod(0o755)
    helper = Path(__file__).resolve().parents[2] / "share" / "mount.dal"
    done = subprocess.run(
        ["sh", str(helper), "doc", "mnt"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True
    )
    assert done.stdout.decode().strip() == pwd.getpwuid(os.getuid()).pw_dir


def test_fstab_helper_passes_options_on(user: User, doc: Path) -> None:
    mnt, programs = user.home / "mnt", user.home / "bin"
    mnt.mkdir()
    programs.mkdir()
    (programs / "dal").write_text(f'#!/bin/sh\nexec {shlex.join(user.command())} "$@"\n')
    (programs / "dal").chmod(0o755)
    helper = Path(__file__).resolve().parents[2] / "share" / "mount.dal"
    environment = {**user.environ({}), "PATH": f"{programs}:{os.environ['PATH']}"}
    del environment["DAL_POOL"]
    options = f"rw,noauto,as_user,pool={user.home / 'pool'}"
    try:
        done = subprocess.run(
            ["sh", str(helper), "doc@latest", str(mnt), "-s", "-o", options], env=environment, capture_output=True
        )
        assert done.returncode == 0 and done.stdout == b"", done.stderr
        assert (mnt / "plan.txt").read_text() == "first plan\n"
        assert not os.stat(mnt / "sub").st_mode & 0o6000
    finally:
        detach(mnt)


@pytest.fixture
def ordinary(user: User) -> Iterator[User]:
    """Somebody who is not root, on a machine where /dev/fuse is everybody's, as it is where udev runs."""
    if os.geteuid() != 0:
        yield user
        return
    mode = os.stat("/dev/fuse").st_mode & 0o777
    os.chmod("/dev/fuse", 0o666)
    try:
        found = User(user.home / "nobody", uid=65534)
        os.chown(found.home, 65534, 65534)
        for parent in found.home.parents:
            if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                os.chmod(parent, 0o755)
        yield found
    finally:
        os.chmod("/dev/fuse", mode)


def test_a_pool_that_is_closed_to_the_user_is_no_access_also_in_the_background(ordinary: User) -> None:
    for name in ("closed", "mnt"):
        (ordinary.home / name).mkdir()
    (ordinary.home / "full.dump").write_text("not looked at")
    (ordinary.home / "closed").chmod(0)
    error = ordinary.quick("mount", "full.dump", "mnt", code=8, DAL_POOL=str(ordinary.home / "closed")).error
    assert "closed/pool.toml: Permission denied" in error and "Errno" not in error


@needs_program("fusermount3")
def test_ordinary_user_mounts_reads_and_writes(ordinary: User) -> None:
    user = ordinary
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    (user.home / "mnt").mkdir()
    os.chown(user.home / "mnt", user.uid or os.getuid(), -1)
    script = """
import os, subprocess
os.chdir("mnt")
open("file", "w").write("mine")
os.link("file", "other")
os.chmod("file", 0o600)
os.chdir("..")
"""
    with mounted(user, "v") as mount:
        user.quick("mount", "--list", before=script)
        user.quick("clone", "v", "c")
        mount.end()
    assert user.quick("cat", "v@c:/other").out == b"mine"
    with mounted(user, "v@c") as mount:
        user.quick("mount", "--list", before="assert open('mnt/file').read() == 'mine'")
        mount.end()
