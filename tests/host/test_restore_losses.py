"""What a place cannot hold, or we may not set, is said once for each file, and the rest is restored."""

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import host_kit
import pytest
from host_kit import USER, Machine, as_root, describe_tree, file_system, let_users_in, mounted, run_apart, run_as_user

from dalsegno.host import attributes, setting
from dalsegno.host.kept import TIME_NS_MAX, KeptTimes
from dalsegno.host.losses import ACL, FLAGS, GROUP, LINK, OWNER, SET_ID, TIME, XATTR
from dalsegno.host.outcome import RestoreResult
from dalsegno.host.owners import OwnerMap
from dalsegno.terms.errors import Full, NoAccess
from dalsegno.world.workers import Workers

CLONE_NEWUSER = 0x10000000
NUMBERS = OwnerMap(mode="number")
_crew: list[Workers] = []


@pytest.fixture(params=[0, 2], ids=["alone", "crew"], autouse=True)
def crew(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every promise holds for a restore in one thread and for one with workers."""
    if not request.param:
        yield
        return
    with Workers(request.param) as workers:
        _crew.append(workers)
        yield
        _crew.clear()


def restore_tree(machine: Machine, target: Path, *, crew: bool = True, **options: object) -> RestoreResult:
    assert machine.revision is not None
    workers = _crew[0] if _crew and crew else None
    return host_kit.restore_tree(machine.store, machine.revision, target, workers=workers, **options)  # type: ignore[arg-type]


def tree(tmp_path: Path, *names: str) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    for name in names:
        (root / name).write_text(name)
    return root


@as_root
def test_an_attribute_larger_than_the_place_takes_is_left_out(machine: Machine, tmp_path: Path) -> None:
    """One attribute that cannot be set ends everything, as if the place were full."""
    with mounted(tmp_path / "tmpfs", "-t", "tmpfs", "none") as place:
        root = tree(place, "a", "b", "c")
        os.setxattr(root / "b", "user.big", b"x" * 9000)
        os.setxattr(root / "b", "user.small", b"y")
        machine.scan(root)
    with file_system(tmp_path, "mkfs.ext4", "-q", size="4M") as place:
        result = restore_tree(machine, place / "out")
        assert sorted(os.listdir(place / "out")) == ["a", "b", "c"] and result.failed == []
        assert os.listxattr(place / "out/b") == ["user.small"]
        assert result.lost.unexpected() == Counter({XATTR: 1})
        assert result.lost.listed[0].path == b"b" and "too large" in result.lost.listed[0].text


@as_root
def test_nothing_that_the_place_cannot_hold_is_lost_silently(machine: Machine, tmp_path: Path) -> None:
    """Attributes lost without a word."""
    root = tree(tmp_path, "acl", "flags", "plain", "xattr")
    os.setxattr(root / "xattr", "user.x", b"y")
    subprocess.run(["setfacl", "-m", "u:7:rwx,g::---", root / "acl"], check=True)
    fd = os.open(root / "flags", os.O_RDONLY)
    attributes.set_flags(fd, attributes.FLAG_NODUMP)
    os.close(fd)
    machine.scan(root)
    with mounted(tmp_path / "ramfs", "-t", "ramfs", "none") as place:
        for _ in range(2):  # a new file, and one that is there
            result = restore_tree(machine, place / "out")
            assert result.failed == []
            assert result.lost.unexpected() == Counter({ACL: 1, FLAGS: 1, XATTR: 1})
            assert {loss.path for loss in result.lost.listed} == {b"acl", b"flags", b"xattr"}
        # The list kept the group out; its mask, which is the mode's middle digit, does not.
        assert stat.S_IMODE(os.stat(root / "acl").st_mode) & 0o070 == 0o070
        assert stat.S_IMODE(os.stat(place / "out/acl").st_mode) & 0o070 == 0


@as_root
def test_a_user_gets_his_groups_also_in_place_and_owners_are_counted(machine: Machine, tmp_path: Path) -> None:
    """Something set at a first restore and not in place; owners not set without a word."""
    group = USER - 1
    root = tree(tmp_path, "foreign", "grouped", "mine")
    for name, uid, gid in (("foreign", 1, 1), ("grouped", USER, group), ("mine", USER, USER)):
        os.chown(root / name, uid, gid)
        os.chmod(root / name, 0o6755)
    os.chown(root, USER, USER)
    machine.scan(root)
    let_users_in(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, USER, USER)

    def check() -> None:
        result = restore_tree(machine, target, owners=NUMBERS, crew=False)
        assert result.failed == [] and not result.lost.unexpected()
        assert result.lost.counts == Counter({OWNER: 1, GROUP: 1, SET_ID: 1})

    for _ in range(2):
        run_as_user(check, groups=(group,))
        found = {name: os.stat(target / name) for name in os.listdir(target)}
        assert {name: (each.st_uid, each.st_gid, stat.S_IMODE(each.st_mode)) for name, each in found.items()} == {
            "foreign": (USER, USER, 0o755),
            "grouped": (USER, group, 0o6755),
            "mine": (USER, USER, 0o6755),
        }
        os.chown(target / "grouped", USER, USER)
        os.chmod(target / "grouped", 0o2755)
    run_as_user(check, groups=(group,))
    run_as_user(lambda: unchanged(restore_tree(machine, target, owners=NUMBERS, crew=False)), groups=(group,))


def unchanged(result: RestoreResult) -> None:
    assert result.created == result.updated == 0


@as_root
def test_a_user_gets_attributes_of_files_that_he_may_not_write(machine: Machine, tmp_path: Path) -> None:
    """An attribute that is set after the mode which forbids it."""
    root = tree(tmp_path, "a", "b")
    (root / "d").mkdir()
    for path in (root / "a", root / "d"):
        os.setxattr(path, "user.x", b"y")
    for path in (*root.iterdir(), root):
        os.chown(path, USER, USER)
        path.chmod(0o555)
    machine.scan(root)
    let_users_in(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, USER, USER)

    def check() -> None:
        result = restore_tree(machine, target, crew=False)
        assert result.failed == [] and not result.lost.counts

    run_as_user(check)
    os.removexattr(target / "a", "user.x")
    os.setxattr(target / "b", "user.extra", b"y")
    os.setxattr(target / "d", "user.x", b"other")
    run_as_user(check)
    assert describe_tree(os.fsencode(target)) == describe_tree(os.fsencode(root))


@as_root
def test_owners_that_the_user_namespace_does_not_know_are_said(machine: Machine, tmp_path: Path) -> None:
    """One owner that cannot be set (EINVAL in a rootless container) loses the file."""
    root = tree(tmp_path, "a", "b")
    os.chown(root / "a", 12345, 12345)
    (root / "link").symlink_to("a")
    os.chown(root / "link", 12345, 12345, follow_symlinks=False)
    machine.scan(root)
    (tmp_path / "target").mkdir()

    def check() -> None:
        result = restore_tree(machine, tmp_path / "target", owners=NUMBERS, crew=False)
        assert result.failed == [], result.failed
        assert result.lost.unexpected() == Counter({OWNER: 2, GROUP: 2}), result.lost.counts

    def enter_namespace() -> None:
        if ctypes.CDLL(None).unshare(CLONE_NEWUSER):
            os._exit(0)  # NOT TESTED: no user namespaces
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        check()

    run_apart(enter_namespace)


class _Capabilities(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint32 * 6)]


@as_root
def test_root_without_capabilities_loses_nothing_but_what_needs_them(machine: Machine, tmp_path: Path) -> None:
    """One call that a container forbids loses a file, or everything behind it."""
    root = tree(tmp_path, "capable", "foreign", "locked", "plain")
    os.setxattr(root / "capable", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(root / "plain", "trusted.x", b"y")
    os.chown(root / "foreign", 7, 8)
    os.chmod(root / "foreign", 0o6711)
    os.mknod(root / "device", 0o020600, os.makedev(1, 3))
    (root / "closed").mkdir()
    (root / "closed/f").write_text("f")
    (root / "closed").chmod(0)
    fd = os.open(root / "locked", os.O_RDONLY)
    attributes.set_flags(fd, attributes.FLAG_IMMUTABLE)
    try:
        machine.scan(root)
    finally:
        attributes.set_flags(fd, 0)
        os.close(fd)

    def act() -> None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        assert ctypes.CDLL(None).capset(header, ctypes.byref(_Capabilities())) == 0
        for _ in range(2):
            result = restore_tree(machine, tmp_path / "target", owners=NUMBERS, crew=False)
            assert [path for path, _ in result.failed] == [b"device"], result.failed
            assert "char-device cannot be made" in result.failed[0][1]
            assert result.lost.unexpected() == Counter({XATTR: 2, OWNER: 1, GROUP: 1, SET_ID: 1, FLAGS: 1}), result.lost
        (tmp_path / "target/closed").chmod(0o700)
        (tmp_path / "target/closed/f").unlink()
        (tmp_path / "target/closed").chmod(0)
        restore_tree(machine, tmp_path / "target", owners=NUMBERS, crew=False)

    run_apart(act)
    for name in ("capable", "foreign", "locked", "plain", "closed/f"):
        assert (tmp_path / "target" / name).read_text() == Path(name).name
    assert stat.S_IMODE(os.stat(tmp_path / "target/foreign").st_mode) == 0o711
    assert stat.S_IMODE(os.stat(tmp_path / "target/closed").st_mode) == 0


@as_root
def test_coarse_times_are_equal_and_those_out_of_range_are_said(machine: Machine, tmp_path: Path) -> None:
    """A place with times in seconds makes everything look changed; a time past its range is lost without a word."""
    root = tree(tmp_path, "a", "b", "late")
    (root / "link").symlink_to("a")
    os.utime(root / "late", (2**32, 2**32))
    machine.scan(root)
    with file_system(tmp_path, "mkfs.ext4", "-q", "-I", "128", size="4M") as place:
        first = restore_tree(machine, place / "out")
        inode = (place / "out/a").stat().st_ino
        again = restore_tree(machine, place / "out", dry_run=True)
        second = restore_tree(machine, place / "out")
        assert (place / "out/a").stat().st_ino == inode
        for result in (first, again, second):
            assert result.failed == [] and result.lost.unexpected() == Counter({TIME: 1})
            assert result.lost.listed[0].path == b"late"
        assert again.unchanged == second.unchanged == 5
        os.utime(place / "out/a", (1_500_000_000, 1_500_000_000))
        assert restore_tree(machine, place / "out").updated in (1, 2)  # the file, and mostly its directory's time
        assert (place / "out/a").stat().st_mtime == int((root / "a").stat().st_mtime)


def test_fine_times_are_compared_to_the_nanosecond(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    times = KeptTimes(may_write=True)
    try:
        wanted = 1_700_000_000_123_456_789
        if times.kept(fd, wanted) != wanted:
            pytest.skip("NOT TESTED: this file system keeps no nanoseconds")
        for found, same in ((wanted, True), (wanted - 1, False), (wanted - wanted % 10**9, False)):
            assert times.is_same(fd, found, wanted) == same
        assert not times.is_same(fd, wanted, TIME_NS_MAX + 1)
        limit = attributes.TIME_SECONDS_MAX * attributes.SECOND_NS
        assert times.is_same(fd, 10**21, limit)  # later than a tree holds: the nearest was stored
        assert os.listdir(tmp_path) == []
    finally:
        times.close()
        os.close(fd)


@as_root
def test_links_that_the_place_does_not_allow_become_copies(machine: Machine, tmp_path: Path) -> None:
    """One link that cannot be made loses the file."""
    root = tree(tmp_path)
    for name in ("one", "two"):
        (root / name).mkdir()
    (root / "one/f").write_text("content")
    for name in ("one/g", "two/f", "two/g"):
        os.link(root / "one/f", root / name)
    machine.scan(root)
    with file_system(tmp_path, "mkfs.btrfs", "-q", size="128M") as place:
        for name in ("one", "two"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", place / name], check=True)
        result = restore_tree(machine, place)
        assert result.failed == [] and result.lost.unexpected() == Counter({LINK: 1})
        assert result.lost.listed[0].path == b"two/f"
        for name in ("one/g", "two/f", "two/g"):
            assert (place / name).read_text() == "content" and (place / name).stat().st_nlink == 2


@as_root
@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_no_copy_on_write_is_set_in_time(machine: Machine, tmp_path: Path) -> None:
    """A flag that is taken only while a file is empty; flags that come down from the directory above."""
    with file_system(tmp_path, "mkfs.btrfs", "-q", size="128M") as place:
        root = tree(place, "plain", "later")
        (root / "images").mkdir()
        subprocess.run(["chattr", "+C", root / "images"], check=True)
        (root / "images/disk").write_bytes(b"x" * 70_000)
        os.rename(root / "later", root / "images/later")
        machine.scan(root)
        expected = lsattr(root)
        assert "C" in expected["images/disk"] and "C" not in expected["images/later"] + expected["plain"]
        assert not restore_tree(machine, place / "out").lost.counts
        assert lsattr(place / "out") == expected
        # In place, and below a directory whose flags new files begin with.
        (place / "out/images/disk").unlink()
        (place / "out/images/later").unlink()
        assert not restore_tree(machine, place / "out").lost.counts
        assert lsattr(place / "out") == expected
        above = place / "above"
        above.mkdir()
        subprocess.run(["chattr", "+Cd", above], check=True)
        assert not restore_tree(machine, above / "out").lost.counts
        assert lsattr(above / "out") == expected


def lsattr(root: Path) -> dict[str, str]:
    lines = subprocess.run(["lsattr", "-R", root], capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line and not line.endswith(":")]
    return {os.path.relpath(path, root): flags for flags, path in pairs}


def test_flags_of_the_directory_above_do_not_come_down(machine: Machine, tmp_path: Path) -> None:
    """A restored file that the next backup leaves out: `nodump` is inherited from the directory above."""
    root = tree(tmp_path, "a")
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_text("f")
    machine.scan(root)
    above = tmp_path / "above"
    above.mkdir()
    fd = os.open(above, os.O_RDONLY)
    try:
        attributes.set_flags(fd, attributes.FLAG_NODUMP | attributes.FLAG_NOATIME)
    except OSError:
        pytest.skip("NOT TESTED: this file system keeps no flags")
    finally:
        os.close(fd)
    restore_tree(machine, above / "out")
    shutil.rmtree(above / "out/d/e")
    subprocess.run(["chattr", "+d", above / "out/d"], check=True)
    restore_tree(machine, above / "out", paths=[b"d/e"])
    for path in (above / "out").rglob("*"):
        flags = lsattr(path.parent)[path.name]
        assert "A" not in flags and ("d" in flags) == (path.name == "d"), path


@as_root
def test_a_symlink_too_long_for_the_place_fails_alone(machine: Machine, tmp_path: Path) -> None:
    """One entry that cannot be made ends everything."""
    root = tree(tmp_path, "a", "z")
    (root / "link").symlink_to("x" * 3000)
    machine.scan(root)
    with file_system(tmp_path, "mkfs.ext4", "-q", "-b", "1024", size="4M") as place:
        result = restore_tree(machine, place / "out")
        assert [path for path, _ in result.failed] == [b"link"]
        assert sorted(os.listdir(place / "out")) == ["a", "z"]


@as_root
def test_a_read_only_target_is_said_once(machine: Machine, tmp_path: Path) -> None:
    """What no entry survives, said for each of them."""
    machine.scan(tree(tmp_path, "a", "b"))
    target = tmp_path / "target"
    restore_tree(machine, target)
    (target / "a").unlink()
    with mounted(tmp_path / "ro", "-o", "bind,ro", str(target)) as place:
        with pytest.raises(NoAccess, match="read-only"):
            restore_tree(machine, place)
        with pytest.raises(NoAccess, match="read-only"):
            restore_tree(machine, place / "new")


@as_root
def test_no_room_for_names_is_full_also_for_attributes(machine: Machine, tmp_path: Path) -> None:
    """Real fullness is told from an attribute that is too large."""
    root = tree(tmp_path, "a")
    os.setxattr(root / "a", "user.big", b"x" * 3000)
    machine.scan(root)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=2M,nr_inodes=6", "none") as place:
        assert not setting.is_full(bytes(place))
        for number in range(5):
            (place / f"f{number}").touch()
        assert setting.is_full(bytes(place))
        with pytest.raises(Full):
            restore_tree(machine, place)


def acl(*entries: tuple[int, int]) -> list[tuple[bytes, bytes]]:
    """Return an access control list of these (tag, rights)."""
    packed = b"".join(tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + b"\xff" * 4 for tag, rights in entries)
    return [(b"system.posix_acl_access", b"\2\0\0\0" + packed)]


@pytest.mark.parametrize(
    ("mode", "wanted", "without"),
    [
        (0o4775, acl((1, 7), (2, 7), (4, 0), (0x10, 7), (0x20, 5)), 0o4705),
        (0o664, acl((1, 6), (4, 4), (0x10, 6), (0x20, 4)), 0o644),
        (0o640, acl((1, 6), (4, 7), (0x10, 4), (0x20, 0)), 0o640),
        (0o644, acl((1, 6), (4, 4), (0x20, 4)), 0o644),
        (0o775, [], 0o775),
    ],
)
def test_mode_without_its_access_control_list(mode: int, wanted: list[tuple[bytes, bytes]], without: int) -> None:
    lost = {name for name, _ in wanted}
    assert setting.mode_without_acl(mode, wanted, lost) == without
    assert setting.mode_without_acl(mode, wanted, set()) == mode


def test_a_name_that_does_not_fit_is_no_full_disk(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One directory whose index is full ends everything."""
    root = tree(tmp_path, "z")
    (root / "d").mkdir()
    machine.scan(root)
    if setting.is_full(bytes(tmp_path)):
        pytest.skip("NOT TESTED: the disk is full")
    mkdir = os.mkdir

    def full(name: object, *arguments: int, **options: int) -> None:
        if name == b"d":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        mkdir(name, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "mkdir", full)
    result = restore_tree(machine, tmp_path / "target")
    assert [path for path, _ in result.failed] == [b"d"] and (tmp_path / "target/z").exists()


def test_a_target_that_was_made_is_no_changed_directory(machine: Machine, tmp_path: Path) -> None:
    """A count that holds something nobody asked about."""
    machine.scan(tree(tmp_path, "a", "b"))
    foretold = restore_tree(machine, tmp_path / "target", dry_run=True)
    done = restore_tree(machine, tmp_path / "target")
    assert (foretold.created, foretold.updated) == (done.created, done.updated) == (2, 0)
