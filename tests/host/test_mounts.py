"""File systems that hold nobody's files are left out of what lies around them, and said."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host_kit import Machine

from dalsegno.formats import objects
from dalsegno.host.ignore import Rules
from dalsegno.host.mounts import find_boundaries, parse_mounts
from dalsegno.host.scan import OTHER_FILE_SYSTEM, OWN
from dalsegno.trees.read import iterate_directory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
MOUNTINFO = rb"""22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
23 27 0:22 / /sys rw - sysfs sysfs rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 0:40 / /run rw - tmpfs tmpfs rw
29 27 0:41 / /tmp rw - tmpfs tmpfs rw
30 27 0:21 /sys/kernel /srv/seen rw - proc proc rw
31 27 0:42 / /home/ann/my\040mount rw - fuse.dal pool rw
32 27 0:43 / /net rw - autofs auto rw,indirect
33 32 0:44 / /net/server rw - nfs4 server:/ rw
34 27 0:45 / /direct rw - autofs auto rw,direct
35 27 0:46 / /over rw - autofs auto rw
36 35 254:1 / /over rw - ext4 /dev/vdb rw
37 28 0:4 net:[4026532008] /run/netns/a rw - nsfs nsfs rw
nonsense
38 27 0:x / /bad rw - proc proc rw
"""


def test_which_mounts_hold_nobodys_files() -> None:
    found = find_boundaries(b"/", parse_mounts(MOUNTINFO))
    expected = [b"dev", b"dev/shm", b"direct", b"home/ann/my mount", b"proc", b"run", b"run/netns/a", b"sys"]
    assert sorted(found.pseudo) == expected
    assert found.mounted == {b"net": {b"server"}}
    assert list(find_boundaries(b"/home", parse_mounts(MOUNTINFO)).pseudo) == [b"ann/my mount"]
    # A source that is one is taken as asked.
    assert not find_boundaries(b"/proc", parse_mounts(MOUNTINFO)).pseudo


Mounter = Callable[..., None]


@pytest.fixture
def mount() -> Iterator[Mounter]:
    places: list[Path] = []

    def add(place: Path, *words: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *words, str(place)], check=True)
        places.append(place)

    yield add
    for place in reversed(places):
        subprocess.run(["umount", "-l", str(place)], check=True)


def tree_of(machine: Machine, content: bytes, above: bytes = b"") -> set[bytes]:
    found = set()
    for entry in iterate_directory(machine.store, content):
        found.add(above + entry.name)
        if entry.kind == objects.ENTRY_DIRECTORY:
            found |= tree_of(machine, entry.content, above + entry.name + b"/")
    return found


@as_root
def test_pseudo_file_systems_below_a_source_are_left_empty_and_said(
    machine: Machine, tmp_path: Path, mount: Mounter
) -> None:
    """Kind: a whole machine is backed up, and with it what its kernel shows."""
    root = tmp_path / "root"
    mount(root / "proc", "-t", "proc", "proc")
    mount(root / "a" / "sys", "-t", "sysfs", "sysfs")
    mount(root / "covered", "-t", "proc", "proc")
    mount(root / "covered", "-t", "tmpfs", "tmpfs")
    mount(root / "part", "--bind", "/proc/sys/kernel/random")
    (root / "covered" / "mine").touch()
    for _again in range(2):
        result = machine.scan(root)
        assert sorted(result.not_entered) == [(b"a/sys", "sysfs"), (b"proc", "proc")]
        found = tree_of(machine, result.root.content)
        assert b"proc" in found and b"covered/mine" in found and b"part/boot_id" in found
        assert not any(path.startswith((b"proc/", b"a/sys/")) for path in found)
        assert not result.unreadable
    assert machine.scan(root / "a" / "sys" / "kernel" / "mm").entry_count > 0


@as_root
def test_what_other_file_systems_hold_is_left_out_when_asked_and_said(
    machine: Machine, tmp_path: Path, mount: Mounter
) -> None:
    mount(tmp_path / "root" / "disk", "-t", "tmpfs", "tmpfs")
    (tmp_path / "root" / "disk" / "file").touch()
    result = machine.scan(tmp_path / "root", rules=Rules(one_file_system=True))
    assert result.not_entered == [(b"disk", OTHER_FILE_SYSTEM)] and result.entry_count == 1


def test_our_own_places_are_left_out_whatever_patterns_say(machine: Machine, tmp_path: Path) -> None:
    """Kind: the backup holds itself."""
    root = tmp_path / "root"
    (root / "a" / "pool").mkdir(parents=True)
    (root / "a" / "pool" / "pack").touch()
    (root / "a" / "kept").touch()
    (root / "own").mkdir()
    (root / ".dalignore").write_text("!pool\n!own/\n")
    rules = Rules(ignore_files=True, own=(b"a/pool", b"own", b"not/there"), patterns=("!pool",))
    for _again in range(2):
        result = machine.scan(root, rules=rules)
        assert tree_of(machine, result.root.content) == {b".dalignore", b"a", b"a/kept"}
        assert sorted(result.not_entered) == [(b"a/pool", OWN), (b"own", OWN)]
    assert result.directories_reused == 2


@as_root
def test_our_own_places_are_left_out_also_where_they_are_mounted(
    machine: Machine, tmp_path: Path, mount: Mounter
) -> None:
    root = tmp_path / "root"
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "pack").touch()
    mount(root / "seen", "--bind", str(tmp_path / "pool"))
    result = machine.scan(root, rules=Rules(own=(b"../pool",)))
    assert tree_of(machine, result.root.content) == {b"seen"} and result.not_entered == [(b"seen", OWN)]


@as_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE")
def test_a_mount_whose_program_is_gone_is_one_entry_that_cannot_be_read(machine: Machine, tmp_path: Path) -> None:
    """Kind: one entry that cannot be looked at ends everything, or is taken for one that vanished."""
    root = tmp_path / "root"
    for name in ("after", "before", "dead"):
        (root / name).mkdir(parents=True)
        (root / name / "file").touch()
    machine.scan(root)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
    mounted = libc.mount(b"gone", os.fsencode(root / "dead"), b"fuse", 0, options)
    os.close(fd)
    if mounted != 0:
        pytest.skip("FUSE cannot be mounted here")
    try:
        for _again in range(2):
            result = machine.scan(root)
            assert result.unreadable == [(b"dead", os.strerror(errno.ENOTCONN))]
            assert tree_of(machine, result.root.content) == {b"after", b"after/file", b"before", b"before/file"}
    finally:
        subprocess.run(["umount", "-l", str(root / "dead")], check=True)
    result = machine.scan(root)
    assert not result.unreadable and b"dead/file" in tree_of(machine, result.root.content)
