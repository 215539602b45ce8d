"""Locked and read-only files and directories in place: changed for the time of the restore, and put back."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_kit import USER, Machine, as_root, describe_tree, let_users_in, restore_tree, run_as_user

from dalsegno.host import attributes
from dalsegno.host.outcome import RestoreResult
from dalsegno.terms.events import Event


def set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        attributes.set_flags(fd, flags)
    except OSError:
        pytest.skip("NOT TESTED: this file system keeps no immutable flag")
    finally:
        os.close(fd)


def flags_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return attributes.get_flags(fd) or 0
    finally:
        os.close(fd)


@pytest.fixture
def unlocking(tmp_path: Path) -> Iterator[None]:
    """Let pytest remove what the test leaves."""
    yield
    subprocess.run(["chattr", "-R", "-i", "-a", tmp_path], capture_output=True, check=False)


def restore(machine: Machine, target: Path, **options: object) -> RestoreResult:
    assert machine.revision is not None
    return restore_tree(machine.store, machine.revision, target, **options)  # type: ignore[arg-type]


@as_root
def test_a_path_within_locked_directories_leaves_them_locked(machine: Machine, tmp_path: Path, unlocking: None) -> None:
    """What was unlocked on the way is not locked again."""
    (tmp_path / "root/d/e").mkdir(parents=True)
    (tmp_path / "root/d/e/f").write_text("f")
    for path in ("root/d/e", "root/d", "root"):
        set_flags(tmp_path / path, attributes.FLAG_IMMUTABLE)
    machine.scan(tmp_path / "root")
    target = tmp_path / "target"
    restore(machine, target)
    (target / "d/e/f").write_text("broken")
    assert restore(machine, target, paths=[b"d/e/f"]).failed == []
    assert (target / "d/e/f").read_text() == "f"
    for path in (target, target / "d", target / "d/e"):
        assert flags_of(path) & attributes.FLAG_IMMUTABLE, path


@as_root
@pytest.mark.parametrize("workers", [False, True])
def test_an_interrupted_restore_leaves_nothing_unlocked(
    machine: Machine, tmp_path: Path, unlocking: None, workers: bool
) -> None:
    """What was unlocked is not locked again after an error."""
    (tmp_path / "root/d").mkdir(parents=True)
    (tmp_path / "root/d/f").write_text("f")
    for path in ("root/d", "root"):
        set_flags(tmp_path / path, attributes.FLAG_IMMUTABLE)
    machine.scan(tmp_path / "root")
    target = tmp_path / "target"
    restore(machine, target)
    (target / "d/f").write_text("broken")

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    real = machine.store.get

    def get(identity):  # type: ignore[no-untyped-def]
        raise KeyboardInterrupt

    set_flags(target / "d", 0)
    (target / "d/g").write_text("extra")
    set_flags(target / "d", attributes.FLAG_IMMUTABLE)
    machine.store.get = get if workers else real  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        restore(machine, target, report=interrupt)
    for path in (target, target / "d"):
        assert flags_of(path) & attributes.FLAG_IMMUTABLE, path


@as_root
@pytest.mark.parametrize("place", ["extra", "extra/x", "extra/a/b/x"])
def test_delete_unlocks_at_every_level(machine: Machine, tmp_path: Path, unlocking: None, place: str) -> None:
    """A lock that is opened at one level and not at the others."""
    (tmp_path / "root").mkdir()
    machine.scan(tmp_path / "root")
    target = tmp_path / "target"
    restore(machine, target)
    (target / place).parent.mkdir(parents=True, exist_ok=True)
    (target / place).write_text("x")
    each = Path(place)
    while each != Path():
        set_flags(target / each, attributes.FLAG_IMMUTABLE)
        each = each.parent
    result = restore(machine, target, delete=True)
    assert result.failed == [] and result.deleted == 1 and os.listdir(target) == []


@as_root
def test_what_stays_of_an_extra_directory_is_said_not_counted_and_locked_again(
    machine: Machine, tmp_path: Path, unlocking: None
) -> None:
    """Something not done that is counted as done."""
    (tmp_path / "root").mkdir()
    machine.scan(tmp_path / "root")
    target = tmp_path / "target"
    restore(machine, target)
    (target / "extra/d/busy").mkdir(parents=True)
    (target / "extra/goes").write_text("x")
    subprocess.run(["mount", "-t", "tmpfs", "none", target / "extra/d/busy"], check=True)
    try:
        set_flags(target / "extra/d", attributes.FLAG_IMMUTABLE)
        result = restore(machine, target, delete=True)
        assert [path for path, _ in result.failed] == [b"extra/d/busy"] and result.deleted == 0
        assert os.listdir(target / "extra") == ["d"]
        assert flags_of(target / "extra/d") & attributes.FLAG_IMMUTABLE
    finally:
        subprocess.run(["umount", target / "extra/d/busy"], check=True)


@as_root
def test_a_locked_file_with_a_name_outside_stays_locked_there(
    machine: Machine, tmp_path: Path, unlocking: None
) -> None:
    """A lock opened through one name that another name, outside the target, is left without."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root/f").write_text("new")
    machine.scan(tmp_path / "root")
    target = tmp_path / "target"
    target.mkdir()
    for name in ("f", "extra"):
        (target / name).write_text("old one")
        os.link(target / name, tmp_path / f"outside-{name}")
        set_flags(target / name, attributes.FLAG_IMMUTABLE)
    assert restore(machine, target, delete=True).failed == []
    assert (target / "f").read_text() == "new" and not (target / "extra").exists()
    for name in ("f", "extra"):
        assert flags_of(tmp_path / f"outside-{name}") & attributes.FLAG_IMMUTABLE


@pytest.mark.parametrize("names", [["one"], ["one", "two"], ["one", "two", "three"]])
@pytest.mark.parametrize("linked", [1, 2])
def test_files_with_names_outside_the_target_are_not_changed(
    machine: Machine, tmp_path: Path, names: list[str], linked: int
) -> None:
    """Attributes set through an inode that has names outside the target."""
    root, target, outside = tmp_path / "root", tmp_path / "target", tmp_path / "outside"
    for place in (root, outside):
        place.mkdir()
    (root / names[0]).write_text("content")
    for name in names[1:]:
        os.link(root / names[0], root / name)
    machine.scan(root)
    restore(machine, target)
    for name in names[linked:]:  # as many names as the backup has, but not the same
        (target / name).unlink()
    for name in names[:linked]:
        os.link(target / name, outside / name)
        os.chmod(outside / name, 0o604)
    before = describe_tree(os.fsencode(outside))
    assert restore(machine, target).failed == []
    assert {path: value[:8] for path, value in describe_tree(os.fsencode(outside)).items()} == {
        path: value[:8] for path, value in before.items()
    }
    assert describe_tree(os.fsencode(target)) == describe_tree(os.fsencode(root))


@as_root
def test_a_user_restores_over_his_own_read_only_files_and_directories(machine: Machine, tmp_path: Path) -> None:
    """What is the user's own keeps him out by its mode."""
    root, target = tmp_path / "root", tmp_path / "target"
    modes = {"ro": 0o555, "none": 0o000, "search": 0o111, "read": 0o444}
    for name in modes:
        (root / name / "below").mkdir(parents=True)
        for file in ("f", "g", "below/h"):
            (root / name / file).write_text(f"{name}/{file}")
            (root / name / file).chmod(0o400 if file == "f" else 0)
    for path in (*root.rglob("*"), root):
        os.chown(path, USER, USER)
    for name, mode in modes.items():
        (root / name).chmod(mode)
    machine.scan(root)
    let_users_in(tmp_path)
    target.mkdir()
    os.chown(target, USER, USER)
    run_as_user(lambda: check(restore(machine, target)))
    assert describe_tree(os.fsencode(target)) == describe_tree(os.fsencode(root))
    for name in modes:
        (target / name / "g").unlink()
        (target / name / "below/h").write_text("broken")
        (target / name / "extra").mkdir()
        (target / name / "extra/x").write_text("x")
        for path in (target / name / "extra/x", target / name / "extra"):
            os.chown(path, USER, USER)
            path.chmod(0)
    run_as_user(lambda: check(restore(machine, target, delete=True)))
    assert describe_tree(os.fsencode(target)) == describe_tree(os.fsencode(root))
    run_as_user(lambda: check(restore(machine, target), changed=0))


def check(result: RestoreResult, changed: int | None = None) -> None:
    assert result.failed == []
    assert changed is None or result.created + result.updated == changed


def test_a_deep_tree_needs_few_descriptors(machine: Machine, tmp_path: Path) -> None:
    """A limit of descriptors that ends a deep tree in the middle."""
    deep = tmp_path / "root"
    deep.mkdir()
    for number in range(60):
        deep = deep / "d"
        deep.mkdir()
        (deep / f"f{number}").write_text("x")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 24, limits[1]))
    try:
        assert machine.scan(tmp_path / "root").unreadable == []
        assert restore(machine, tmp_path / "target").failed == []
        (tmp_path / "target" / "extra").mkdir()
        os.rename(tmp_path / "target/d", tmp_path / "target/extra/d")
        assert restore(machine, tmp_path / "target", delete=True).failed == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert describe_tree(os.fsencode(tmp_path / "target")) == describe_tree(os.fsencode(tmp_path / "root"))


@as_root
def test_a_user_restores_directories_that_cannot_be_searched_below_many_others(
    machine: Machine, tmp_path: Path
) -> None:
    """The way back up is looked for after the mode that forbids it was set; paths longer than the kernel takes."""
    name = b"n" * 60
    deep = os.open(tmp_path, os.O_RDONLY)
    for number in range(70):
        part = name if number else b"root"
        os.mkdir(part, 0o700, dir_fd=deep)
        below = os.open(part, os.O_RDONLY, dir_fd=deep)
        os.chown(below, USER, USER)
        os.close(deep)
        deep = below
        for file in (b"f", b"g"):
            fd = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=deep)
            os.fchown(fd, USER, USER)
            os.close(fd)
    os.symlink(b"f", b"link", dir_fd=deep)
    os.chown(b"link", USER, USER, dir_fd=deep, follow_symlinks=False)
    os.link(b"f", b"h", src_dir_fd=deep, dst_dir_fd=deep)
    os.fchmod(deep, 0o600)
    os.close(deep)
    machine.scan(tmp_path / "root")
    let_users_in(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, USER, USER)

    def act() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        check(restore(machine, target))
        check(restore(machine, target), changed=0)

    run_as_user(act)
    assert machine.revision is not None
    wanted = machine.revision.root.content
    assert machine.scan(target, cached=False).root.content == wanted
    for place in (tmp_path / "root", target):
        subprocess.run(["rm", "-rf", place], check=True)
