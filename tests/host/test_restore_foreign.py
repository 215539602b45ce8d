"""File systems of other worlds, real ones over FUSE: no owners, no modes, no links, no case."""

import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_kit import Machine, as_root, restore_tree

from dalsegno.host import kept
from dalsegno.host.losses import GROUP, LINK, MODE, OWNER
from dalsegno.host.outcome import RestoreResult
from dalsegno.world.workers import Workers

pytestmark = as_root


def call(*words: str | Path) -> str:
    """Run a program and return what it says; skip the test where that is not possible."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"NOT TESTED: no {words[0]}")
    if done.returncode:
        pytest.skip(f"NOT TESTED: {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def foreign(directory: Path, kind: str) -> Iterator[Path]:
    """Mount an empty exFAT or an NTFS that ignores case."""
    image, place = directory / "image", directory / "mount"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    device = ""
    try:
        if kind == "exfat":
            call("mkfs.exfat", image)
            device = call("losetup", "-f", "--show", image)
            call("mount.exfat-fuse", device, place)
        else:
            call("mkntfs", "-F", "-Q", "-q", image)
            call("lowntfs-3g", "-o", "ignore_case", image, place)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        if device:
            subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture(params=[0, 2], ids=["alone", "crew"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers | None]:
    if request.param:
        with Workers(request.param) as crew:
            yield crew
    else:
        yield None


def restore(machine: Machine, target: Path, workers: Workers | None, *, delete: bool = False) -> RestoreResult:
    assert machine.revision is not None
    return restore_tree(machine.store, machine.revision, target, workers=workers, delete=delete)


def test_what_a_stick_cannot_hold_is_said_and_the_files_are_there(
    machine: Machine, tmp_path: Path, workers: Workers | None
) -> None:
    """A place without extended attributes, links, owners and modes loses every file."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    for name in ("a", "b", "d/c"):
        (root / name).write_text(name)
    os.link(root / "a", root / "d/link")
    (root / "symlink").symlink_to("a")
    os.chown(root / "b", 7, 8)
    os.chmod(root / "b", 0o600)
    machine.scan(root)
    with foreign(tmp_path, "exfat") as place:
        first = restore(machine, place / "out", workers)
        assert [path for path, _ in first.failed] == [b"symlink"]
        for name, text in (("a", "a"), ("b", "b"), ("d/c", "d/c"), ("d/link", "a")):
            assert (place / "out" / name).read_text() == text
        assert first.lost.counts == Counter({LINK: 1, OWNER: 1, GROUP: 1, MODE: 6})
        second = restore(machine, place / "out", workers)
        assert second.created == 0 and second.bytes_written == 0
        assert second.lost.counts == first.lost.counts


def test_modes_that_are_not_taken_without_a_word_are_said(
    machine: Machine, tmp_path: Path, workers: Workers | None
) -> None:
    """A call that says it did what it did not do."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    for name, mode in (("a", 0o600), ("b", 0o777)):
        (root / name).write_text(name)
        (root / name).chmod(mode)
    os.chown(root / "b", 7, 0)
    machine.scan(root)
    with foreign(tmp_path, "ntfs") as place:
        for _ in range(2):
            result = restore(machine, place / "out", workers)
            assert result.failed == [] and result.lost.counts == Counter({MODE: 1, OWNER: 1})


def test_a_place_that_is_tried_out_looks_as_before(machine: Machine, tmp_path: Path, workers: Workers | None) -> None:
    """A trial that changes what it looks at: the directory would be restored anew each time."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    (root / "a").write_text("a")
    (root / "a").chmod(0o777)
    machine.scan(root)
    with foreign(tmp_path, "exfat") as place:
        restore(machine, place / "out", workers)
        again = restore(machine, place / "out", workers)
        assert (again.created, again.updated, again.unchanged) == (0, 0, 2)
        assert os.listdir(place / "out") == ["a"]


def test_names_that_are_one_there_never_replace_each_other(
    machine: Machine, tmp_path: Path, workers: Workers | None
) -> None:
    """Of two files whose names differ in case one is lost without a word; what was just restored is deleted."""
    root = tmp_path / "root"
    root.mkdir()
    for name in ("Makefile", "makefile", "notes", "other"):
        (root / name).write_text(name)
    (root / "Sub").mkdir()
    (root / "Sub/x").write_text("x")
    machine.scan(root)
    with foreign(tmp_path, "ntfs") as place:
        target = place / "out"
        (target / "SUB").mkdir(parents=True)
        (target / "NOTES").write_text("old")
        (target / "extra").write_text("extra")
        for _ in range(2):
            result = restore(machine, target, workers, delete=True)
            assert [path for path, _ in result.failed] == [b"makefile"]
            assert "two names for one" in result.failed[0][1]
            assert (target / "Makefile").read_text() == "Makefile"
            assert (target / "notes").read_text() == "notes" and (target / "Sub/x").read_text() == "x"
            assert not (target / "extra").exists() and len(os.listdir(target)) == 4


def test_names_with_case_are_told_apart_here(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "A").touch()
        assert kept.folds_names(fd, may_write=True) == (tmp_path / "a").exists()
        assert kept.folds_names(fd, may_write=False) == (tmp_path / "a").exists()
        assert os.listdir(tmp_path) == ["A"]
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Makefile", "MAKEFILE", True),
        ("a", "b", False),
        ("é", "É", True),
        ("e\u0301", "\u00e9", True),
        ("a.", "a", False),
    ],
)
def test_what_names_have_in_common(one: str, other: str, same: bool) -> None:
    assert (kept.fold(one.encode()) == kept.fold(other.encode())) == same
