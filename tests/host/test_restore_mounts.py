"""What is mounted below the target, and subvolumes there: nothing in them is deleted, and the rest is restored."""

import os
import subprocess
from pathlib import Path

import pytest
from host_kit import Machine, as_root, file_system, mounted, restore_tree

from dalsegno.host import removal
from dalsegno.host.attributes import Place, place_of

pytestmark = as_root


def prepare(machine: Machine, tmp_path: Path, *paths: str) -> Path:
    """Scan a tree of these files, and return a target that is equal."""
    root = tmp_path / "root"
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    machine.scan(root)
    assert machine.revision is not None
    restore_tree(machine.store, machine.revision, tmp_path / "target")
    return tmp_path / "target"


@pytest.mark.parametrize("below", ["extra", "extra/mnt", "extra/a/b/c/mnt"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_delete_leaves_what_is_mounted_at_any_depth(machine: Machine, tmp_path: Path, below: str, kind: str) -> None:
    """A delete that crosses into another file system; a bind mount has the same device number."""
    target = prepare(machine, tmp_path, "a")
    (tmp_path / "elsewhere").mkdir()
    words = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(tmp_path / "elsewhere")]
    with mounted(target / below, *words) as place:
        (place / "d").mkdir()
        (place / "d" / "file").write_text("precious")
        (target / "extra2").write_text("goes")
        assert machine.revision is not None
        result = restore_tree(machine.store, machine.revision, target, delete=True)
        assert (place / "d" / "file").read_text() == "precious"
        assert result.failed == [(below.encode(), f"not deleted: {removal.MOUNTED}")]
        assert result.deleted == 1 and not (target / "extra2").exists()


def test_delete_leaves_a_subvolume_and_restore_writes_into_it(machine: Machine, tmp_path: Path) -> None:
    """A delete that takes a snapshot of btrfs for a directory."""
    prepare(machine, tmp_path, "a", "sub/b")
    assert machine.revision is not None
    with file_system(tmp_path, "mkfs.btrfs", "-q", size="128M") as place:
        target = place / "target"
        target.mkdir()
        for path in ("sub", "extra"):
            subprocess.run(["btrfs", "-q", "subvolume", "create", target / path], check=True)
        (target / "extra" / "snapshot").write_text("precious")
        result = restore_tree(machine.store, machine.revision, target, delete=True)
        assert (target / "extra" / "snapshot").read_text() == "precious"
        assert [path for path, _ in result.failed] == [b"extra"]
        assert (target / "sub" / "b").read_text() == "sub/b" and (target / "a").read_text() == "a"


@pytest.mark.parametrize("cross", [False, True])
def test_a_mount_in_the_way_does_not_end_the_restore(machine: Machine, tmp_path: Path, cross: bool) -> None:
    """One entry that cannot be restored ends everything."""
    target = prepare(machine, tmp_path, "a", "full/x", "z")
    with mounted(target / "full", "-t", "tmpfs", "none") as place:
        (target / "a").unlink()
        (target / "z").unlink()
        assert machine.revision is not None
        result = restore_tree(machine.store, machine.revision, target, cross_devices=cross)
        assert (target / "a").read_text() == "a" and (target / "z").read_text() == "z"
        if cross:
            assert (place / "x").read_text() == "full/x" and result.failed == []
        else:
            assert os.listdir(place) == []
            assert [path for path, _ in result.failed] == [b"full"] and "--cross-file-systems" in result.failed[0][1]


def test_a_mount_where_the_backup_has_an_empty_directory_is_left_and_said(machine: Machine, tmp_path: Path) -> None:
    """Something left as it is without a word."""
    (tmp_path / "root" / "mnt").mkdir(parents=True)
    target = prepare(machine, tmp_path, "a")
    with mounted(target / "mnt", "-t", "tmpfs", "none") as place:
        (place / "x").write_text("other")
        assert machine.revision is not None
        result = restore_tree(machine.store, machine.revision, target, delete=True)
        assert (place / "x").read_text() == "other"
        assert result.failed == [] and [path for path, _ in result.left] == [b"mnt"]


def test_a_file_mounted_from_elsewhere_keeps_its_attributes(machine: Machine, tmp_path: Path) -> None:
    """Attributes set through an inode that lies outside the target, as the /etc/hosts of a container does."""
    target = prepare(machine, tmp_path, "hosts")
    outside = tmp_path / "outside"
    outside.write_text("hosts")
    outside.chmod(0o600)
    stat = (target / "hosts").stat()
    os.utime(outside, ns=(0, stat.st_mtime_ns))
    if subprocess.run(["mount", "--bind", outside, target / "hosts"], check=False).returncode:
        pytest.skip("NOT TESTED: mount --bind of a file")
    try:
        assert machine.revision is not None
        result = restore_tree(machine.store, machine.revision, target)
    finally:
        subprocess.run(["umount", target / "hosts"], check=True)
    assert outside.stat().st_mode & 0o777 == 0o600
    assert result.failed == [(b"hosts", removal.MOUNTED)]


@pytest.mark.parametrize(
    ("above", "below", "said"),
    [
        (Place(1, 2), Place(1, 2), ""),
        (Place(1, 2), Place(3, 2), removal.MOUNTED),
        (Place(1, 2), Place(3, 4), removal.MOUNTED),
        (Place(1, 2), Place(1, 4), "a subvolume of its own is there"),
        (Place(0, 2), Place(0, 4), removal.MOUNTED),
        (Place(0, 2), Place(0, 2), ""),
    ],
)
def test_what_begins_between_two_directories(above: Place, below: Place, said: str) -> None:
    assert removal.crossing(above, below) == said


def test_place_of_a_name_and_of_the_open_file_agree(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    above, below = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "d", os.O_RDONLY)
    try:
        assert place_of(above, b"d") == place_of(below) == place_of(above)
        assert place_of(below).device == os.fstat(below).st_dev
    finally:
        os.close(above)
        os.close(below)
