"""What `dal restore` says of what it did not do: once, with the exit code that fits, and in --json."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_kit import User

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and owners")


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path)
    (tmp_path / "doc" / "mnt").mkdir(parents=True)
    for name in ("a", "mnt/b", "z"):
        (tmp_path / "doc" / name).write_text(name)
    return user


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A file system without extended attributes, mounted."""
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", "-t", "ramfs", "none", place], check=False).returncode:
        pytest.skip("NOT TESTED: no ramfs can be mounted")
    yield place
    subprocess.run(["umount", "-R", place], check=True)


def test_lost_attributes_are_one_line_and_listed_when_asked(user: User, place: Path) -> None:
    """Attributes lost without a word."""
    for name in ("a", "z"):
        os.setxattr(user.home / "doc" / name, "user.x", b"y")
    user.quick("backup", "doc")
    first = user.quick("restore", "doc", "--to", str(place / "out"), code=3)
    assert first.out.count(b"extended attribute") == 1 and b"could not be set: 2 extended attributes" in first.out
    assert b"4 created, 0 updated" in first.out and not first.err
    named = user.quick("restore", "doc", "--to", str(place / "out"), "-v", code=3)
    assert named.err.count(b"extended attribute not restored: user.x") == 2
    said = user.quick("--json", "restore", "doc", "--to", str(place / "out"), code=3).out
    for word in (b'"attributes_lost": {', b'"extended attribute": 2', b'"path": "a"', b"Operation not supported"):
        assert word in said


def test_owners_that_an_ordinary_user_cannot_set_are_one_line_and_no_failure(user: User, tmp_path: Path) -> None:
    """What is normal is said and ends with 0, as with tar and rsync."""
    user.quick("backup", "doc")  # all of it is root's
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    user.uid = 65534
    done = user.quick("restore", "doc", "--to", "back")
    assert b"not set, because only root can: 5 groups, 5 owners" in done.out and not done.err
    assert b"could not be set" not in done.out


def test_what_is_mounted_below_is_said_and_crossed_when_asked(user: User, place: Path) -> None:
    """An option that a message advises is there."""
    user.quick("backup", "doc")
    (place / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place / "mnt"], check=True)
    done = user.quick("restore", "doc", "--to", str(place), code=3)
    assert done.err.count(b"mnt: ") == 1 and b"--cross-file-systems" in done.err
    assert b"1 is missing or not as it should be" in done.out
    assert (place / "z").read_text() == "z" and not (place / "mnt/b").exists()
    user.quick("restore", "doc", "--to", str(place), "--cross-file-systems")
    assert (place / "mnt/b").read_text() == "mnt/b"
