"""What a directory holds comes back exactly, and nothing outside the target is touched."""

import errno
import os
import random
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import host_kit
import pytest
from host_kit import Machine, describe_tree, revision_of
from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host import attributes, restore
from dalsegno.host.outcome import RestoreResult
from dalsegno.host.owners import OwnerMap
from dalsegno.terms.errors import BadInput, Damaged, Full, NotFound
from dalsegno.terms.events import Note
from dalsegno.terms.sizes import MIB
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import iterate_directory, lookup
from dalsegno.world.workers import Workers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners and devices")


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


def restore_tree(*arguments: Any, **options: Any) -> RestoreResult:
    if _crew:
        options.setdefault("workers", _crew[0])
    return host_kit.restore_tree(*arguments, **options)


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[bytes]:
    root = os.fsencode(tmp_path / "corpus")
    os.mkdir(root)

    def make(name: bytes, data: bytes = b"x", mode: int = 0o644) -> bytes:
        path = os.path.join(root, name)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, mode)
        return path

    for directory in (b"empty", b"dir", b"dir/sub", b"sticky", b"\xfe\xff"):
        os.mkdir(os.path.join(root, directory))
    os.chmod(os.path.join(root, b"sticky"), 0o3777)
    make(b"zero", b"")
    make(b"tiny", b"hello")
    make(b"middle", os.urandom(70_000))
    make(b"large", os.urandom(3_000_000))
    make(b"\xff\n -rf", b"odd name")
    make(b"n" * 255, b"long name")
    make(b"dir/setuid", b"#!", 0o4755)
    make(b"\xfe\xff/inner", b"inner")
    make(b"unreadable-mode", b"secret", 0o000)
    for name in (b"hard2", b"dir/hard3"):
        os.link(os.path.join(root, b"middle"), os.path.join(root, name))
    with open(os.path.join(root, b"sparse"), "wb") as file:
        file.write(b"a" * 4096)
        file.seek(50 * 2**20)
        file.write(b"b" * 4096)
        file.truncate(100 * 2**20)
    with open(os.path.join(root, b"hole"), "wb") as file:
        file.truncate(64 * 1024)
    os.symlink(b"../" * 1000 + b"nowhere", os.path.join(root, b"symlink"))
    os.symlink(b"tiny", os.path.join(root, b"dir/link"))
    os.mkfifo(os.path.join(root, b"fifo"), 0o620)
    deep = root
    for _ in range(60):
        deep += b"/d"
        os.mkdir(deep)
    with open(deep + b"/bottom", "wb") as file:
        file.write(b"bottom")
    if os.geteuid() == 0:
        os.mknod(os.path.join(root, b"null"), 0o020666, os.makedev(1, 3))
        os.mknod(os.path.join(root, b"block"), 0o060640, os.makedev(7, 99))
        os.chown(os.path.join(root, b"tiny"), 12345, 23456)
        os.chown(os.path.join(root, b"symlink"), 1, 2, follow_symlinks=False)
        os.setxattr(os.path.join(root, b"dir/sub"), b"trusted.dal", b"\0\1")
        capability = bytes.fromhex("0100000200200000000000000000000000000000")
        os.setxattr(os.path.join(root, b"dir/setuid"), b"security.capability", capability)
        os.setxattr(os.path.join(root, b"symlink"), b"trusted.link", b"on a symlink", follow_symlinks=False)
        os.setxattr(os.path.join(root, b"fifo"), b"trusted.fifo", b"on a fifo")
    os.setxattr(os.path.join(root, b"tiny"), b"user.note", b"value")
    os.setxattr(os.path.join(root, b"large"), b"user.big", os.urandom(2000))
    if shutil.which("setfacl"):
        subprocess.run([b"setfacl", b"-m", b"u:1:rw", os.path.join(root, b"dir/sub")], check=False)
        subprocess.run([b"setfacl", b"-d", b"-m", b"g:2:r", os.path.join(root, b"dir")], check=False)
    os.utime(os.path.join(root, b"tiny"), ns=(1, 1_234_567_890_123_456_789))
    os.utime(os.path.join(root, b"zero"), ns=(1, -1_500_000_001))
    os.utime(os.path.join(root, b"symlink"), ns=(1, 987_654_321_000_000_007), follow_symlinks=False)
    os.utime(os.path.join(root, b"empty"), ns=(1, 77))
    yield root


def test_everything_comes_back(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    result = machine.scan(corpus)
    assert result.unreadable == [] and result.changed == []
    assert machine.revision is not None
    target = os.fsencode(tmp_path / "target")
    restored = restore_tree(machine.store, machine.revision, target, owners=OwnerMap(mode="number"))
    assert restored.failed == []
    assert not [event for event in machine.events if isinstance(event, Note)]
    assert describe_tree(target) == describe_tree(corpus)
    sparse = os.stat(target + b"/sparse")
    assert sparse.st_blocks == os.stat(corpus + b"/sparse").st_blocks
    assert restored.created == result.entry_count
    again = restore_tree(machine.store, machine.revision, target, verify_content=True)
    assert (again.created, again.updated, again.bytes_written, again.failed) == (0, 0, 0, [])
    assert again.unchanged == result.entry_count + 1


def test_restored_tree_has_the_same_id(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    first = machine.scan(corpus)
    assert machine.revision is not None
    target = tmp_path / "target"
    restore_tree(machine.store, machine.revision, target)
    second = machine.scan(target, cached=False)
    assert second.root == first.root and second.links == first.links
    assert (second.entry_count, second.total_bytes) == (first.entry_count, first.total_bytes)


def test_second_scan_reads_nothing_and_one_change_reads_one_file(machine: Machine, corpus: bytes) -> None:
    first = machine.scan(corpus)
    gets = machine.store.gets
    second = machine.scan(corpus)
    assert (second.root, second.links) == (first.root, first.links)
    assert (second.files_read, machine.store.gets) == (0, gets)
    assert (second.entry_count, second.total_bytes) == (first.entry_count, first.total_bytes)
    with open(corpus + b"/dir/setuid", "ab") as file:
        file.write(b"more")
    third = machine.scan(corpus)
    assert third.files_read == 1 and third.root != second.root
    assert (third.entry_count, third.total_bytes) == (second.entry_count, second.total_bytes + 4)
    assert machine.scan(corpus, cached=False).root == third.root
    fourth = machine.scan(corpus)
    assert fourth.root == third.root and fourth.files_read == 0


def test_links_stay_true_through_changes(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    os.unlink(corpus + b"/hard2")
    os.link(corpus + b"/tiny", corpus + b"/dir/tiny2")
    os.link(corpus + b"/large", corpus + b"/empty/large2")
    os.unlink(corpus + b"/dir/hard3")
    os.link(corpus + b"/zero", corpus + b"/dir/hard3")
    result = machine.scan(corpus)
    assert machine.revision is not None
    restore_tree(machine.store, machine.revision, tmp_path / "target")
    assert describe_tree(os.fsencode(tmp_path / "target")) == describe_tree(corpus)
    full = machine.scan(corpus, cached=False)
    assert (full.root, full.links) == (result.root, result.links)
    assert (full.entry_count, full.total_bytes) == (result.entry_count, result.total_bytes)


def test_young_files_are_read_again(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "young"
    root.mkdir()
    (root / "file").write_bytes(b"one")
    from dalsegno.host.scan import scan_tree

    result = scan_tree(root, sink=machine.store, cutter=machine.cutter)
    result.cache.save(machine.cache_path, revision=b"r" * 32)
    machine.revision = revision_of(result)
    assert machine.scan(root).files_read == 1
    assert machine.scan(root).files_read == 0


def test_foreign_or_torn_cache_is_ignored(machine: Machine, corpus: bytes) -> None:
    first = machine.scan(corpus)
    data = bytearray(machine.cache_path.read_bytes())
    data[len(data) // 2] ^= 1
    machine.cache_path.write_bytes(data)
    second = machine.scan(corpus)
    assert second.root == first.root and second.files_read > 0
    machine.cache_path.write_bytes(machine.cache_path.read_bytes()[:-5])
    assert machine.scan(corpus).root == first.root


def test_two_thousand_levels(machine: Machine, tmp_path: Path) -> None:
    def descend(root: Path, *, make: bool) -> int:
        fd = os.open(root, os.O_RDONLY)
        for depth in range(2000):
            if make:
                os.mkdir(b"level", dir_fd=fd)
            try:
                below = os.open(b"level", os.O_RDONLY, dir_fd=fd)
            except FileNotFoundError:
                return depth
            finally:
                os.close(fd)
            fd = below
        os.close(fd)
        return 2000

    root = tmp_path / "deep"
    root.mkdir()
    descend(root, make=True)
    first = machine.scan(root)
    assert first.entry_count == 2000
    assert machine.scan(root).root == first.root
    assert machine.revision is not None
    target = tmp_path / "target"
    assert restore_tree(machine.store, machine.revision, target).failed == []
    assert descend(target, make=False) == 2000
    empty = tmp_path / "empty"
    empty.mkdir()
    machine.revision = None
    machine.scan(empty)
    assert machine.revision is not None
    for place in (target, root):
        assert restore_tree(machine.store, machine.revision, place, delete=True).failed == []
        assert os.listdir(place) == []


def test_changed_while_read_is_noted(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "busy"
    root.mkdir()
    (root / "log").write_bytes(b"a" * 1000)
    real = os.pread

    def growing(fd: int, length: int, offset: int) -> bytes:
        data = real(fd, length, offset)
        with open(root / "log", "ab") as file:
            file.write(b"b")
        return data

    monkeypatch.setattr(os, "pread", growing)
    result = machine.scan(root)
    assert result.changed == [b"log"] and result.unreadable == []
    monkeypatch.undo()
    assert machine.scan(root).files_read == 1


def test_vanished_is_noted_and_unreadable_is_listed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("gone", "good", "locked", "stale"):
        (root / name).write_bytes(name.encode())
    real = os.open

    def failing(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"gone":
            raise FileNotFoundError(2, "No such file or directory")
        if path == b"locked":
            raise PermissionError(13, "Permission denied")
        if path == b"stale":  # a server's, perhaps with all that is beneath
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", failing)
    result = machine.scan(root)
    assert result.unreadable == [(b"locked", "Permission denied"), (b"stale", "Stale file handle")]
    assert result.entry_count == 1
    severities = {event.path: event.severity for event in machine.events if isinstance(event, Note)}
    assert severities == dict.fromkeys((b"gone", b"locked", b"stale"), "note")


def test_socket_is_left_out(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir()
    (root / "file").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(root / "socket"))
        assert machine.scan(root).entry_count == 1
        again = machine.scan(root)
        assert again.files_read == 0 and again.directories_reused == 1


def test_a_socket_is_counted_once_where_a_file_changed(machine: Machine, tmp_path: Path) -> None:
    """What was counted for an answer that is dropped: a directory compared with the cache, then listed anew."""
    root = tmp_path / "s"
    root.mkdir()
    (root / "file").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(root / "socket"))
        assert machine.scan(root).socket_count == 1
        assert machine.scan(root).socket_count == 1
        (root / "file").write_bytes(b"changed")
        assert machine.scan(root).socket_count == 1


def test_a_large_file_is_compared_piece_by_piece(machine: Machine, tmp_path: Path) -> None:
    """All of a file held in memory to look at it once: what differs at its start is told after its first pieces."""
    root, target = tmp_path / "root", tmp_path / "target"
    root.mkdir()
    content = random.Random(1).randbytes(16 * MIB)
    (root / "file").write_bytes(content)
    machine.scan(root)
    assert machine.revision is not None
    restore_tree(machine.store, machine.revision, target)
    stat = os.stat(target / "file")
    (target / "file").write_bytes(b"\0" + content[1:])
    os.utime(target / "file", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    machine.store.gets = 0
    done = restore_tree(machine.store, machine.revision, target, verify_content=True, dry_run=True)
    assert done.updated == 1
    assert machine.store.gets <= len(machine.store.objects) // 4


def test_in_place_writes_only_the_difference(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    target = os.fsencode(tmp_path / "target")
    restore_tree(machine.store, machine.revision, target)
    with open(target + b"/tiny", "ab") as file:
        file.write(b"!")
    os.chmod(target + b"/large", 0o600)
    os.unlink(target + b"/hard2")
    os.link(target + b"/large", target + b"/hard2")
    with open(target + b"/extra", "wb") as file:
        file.write(b"extra")
    os.mkdir(target + b"/dir/extra")
    os.unlink(target + b"/symlink")
    os.mkdir(target + b"/symlink")
    dry = restore_tree(machine.store, machine.revision, target, delete=True, dry_run=True)
    before = describe_tree(target)
    assert describe_tree(target) == before
    result = restore_tree(machine.store, machine.revision, target, delete=True)
    assert result.failed == [] and result.deleted == dry.deleted == 2
    assert describe_tree(target) == describe_tree(corpus)


def test_interrupted_restore_resumes(
    machine: Machine, corpus: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    target = os.fsencode(tmp_path / "target")
    real = os.utime
    count = 0

    def failing(*args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if count == 10:
            raise KeyboardInterrupt
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "utime", failing)
    with pytest.raises(KeyboardInterrupt):
        restore_tree(machine.store, machine.revision, target)
    monkeypatch.undo()
    with open(target + b"/.dal-restore-0123456789abcdef", "wb") as file:
        file.write(b"left by a killed restore")
    result = restore_tree(machine.store, machine.revision, target)
    assert result.failed == [] and result.unchanged > 0
    assert describe_tree(target) == describe_tree(corpus)


def test_selected_paths_only(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    target = tmp_path / "target"
    restore_tree(machine.store, machine.revision, target, paths=[b"dir/sub", b"dir/hard3", b"tiny"])
    assert sorted(os.listdir(target)) == ["dir", "tiny"] and sorted(os.listdir(target / "dir")) == ["hard3", "sub"]
    assert os.stat(target / "dir").st_mtime_ns == os.stat(corpus + b"/dir").st_mtime_ns
    assert (target / "dir/hard3").stat().st_size == 70_000
    with pytest.raises(NotFound):
        restore_tree(machine.store, machine.revision, target, paths=[b"dir/none"])
    with pytest.raises(BadInput):
        restore_tree(machine.store, machine.revision, target, paths=[b"../x"])


def test_planted_symlinks_are_not_followed(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"victim")
    os.utime(outside, ns=(5, 5))
    target = tmp_path / "target"
    target.mkdir()
    os.symlink(outside, target / "dir")
    os.symlink(outside / "victim", target / "tiny")
    os.symlink(outside, target / "extra")
    result = restore_tree(machine.store, machine.revision, target, delete=True)
    assert result.failed == []
    assert (outside / "victim").read_bytes() == b"victim" and os.listdir(outside) == ["victim"]
    assert outside.stat().st_mtime_ns == 5
    assert describe_tree(os.fsencode(target)) == describe_tree(corpus)


@pytest.mark.parametrize("name", [b"..", b".", b"../evil", b"a/b", b"a\0b"])
def test_forbidden_names_are_refused(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    entry = Entry(name=name, kind=objects.ENTRY_FILE, mode=0o644)
    (tmp_path / "one").mkdir()
    machine.scan(tmp_path / "one")
    assert machine.revision is not None
    monkeypatch.setattr(restore, "iterate_directory", lambda source, identity: iter([entry]))
    with pytest.raises(Damaged):
        restore_tree(machine.store, machine.revision, tmp_path / "target")
    assert os.listdir(tmp_path / "target") == [] and not (tmp_path / "evil").exists()


def test_lost_content_fails_one_file(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    lost = lookup(machine.store, machine.revision.root.content, b"large")
    assert lost is not None
    recipe = objects.decode_recipe(machine.store.get(lost.content))  # type: ignore[arg-type]
    del machine.store.objects[recipe.ids[-1]]
    result = restore_tree(machine.store, machine.revision, tmp_path / "target")
    assert [path for path, _ in result.failed] == [b"large"]
    names = set(os.listdir(os.fsencode(tmp_path / "target")))
    assert names == set(os.listdir(corpus)) - {b"large"}


def test_full_target_is_full(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"THE FULL DISK IS NOT TESTED: no tmpfs can be mounted: {made.stderr.strip()}")
    try:
        files_open = len(os.listdir("/proc/self/fd"))
        with pytest.raises(Full, match="no space left"):
            restore_tree(machine.store, machine.revision, place / "target")
        left = [name for _, _, names in os.walk(place / "target") for name in names]
        assert not [name for name in left if name.startswith(".dal-restore")]
        assert len(os.listdir("/proc/self/fd")) <= files_open
    finally:
        subprocess.run(["umount", place], check=True)


@as_root
def test_immutable_files_come_back_and_can_be_updated(machine: Machine, tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    root.mkdir()
    (root / "locked").write_bytes(b"one")
    fd = os.open(root / "locked", os.O_RDONLY)
    try:
        attributes.set_flags(fd, attributes.FLAG_IMMUTABLE | attributes.FLAG_NODUMP)
    except OSError:
        pytest.skip("this file system keeps no immutable flag")

    def flags_of(path: Path) -> int | None:
        other = os.open(path, os.O_RDONLY)
        try:
            return attributes.get_flags(other)
        finally:
            os.close(other)

    try:
        machine.scan(root)
        assert machine.revision is not None
        assert restore_tree(machine.store, machine.revision, target).failed == []
        assert flags_of(target / "locked") == flags_of(root / "locked")
        attributes.set_flags(fd, 0)
        (root / "locked").write_bytes(b"second")
        machine.scan(root)
        assert restore_tree(machine.store, machine.revision, target).failed == []
        assert (target / "locked").read_bytes() == b"second"
    finally:
        attributes.set_flags(fd, 0)
        os.close(fd)


def test_large_directory(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(3000):
        (root / f"{number:05}").write_bytes(b"%d" % number)
    first = machine.scan(root)
    assert [entry.name for entry in iterate_directory(machine.store, first.root.content)] == sorted(
        os.listdir(os.fsencode(root))
    )
    (root / "01500").unlink()
    second = machine.scan(root)
    assert second.files_read == 0 and second.entry_count == 2999
    assert store_directory(machine.store, []) != second.root.content


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs setfacl")
def test_default_acl_of_the_target_does_not_leak_in(machine: Machine, corpus: bytes, tmp_path: Path) -> None:
    machine.scan(corpus)
    assert machine.revision is not None
    target = tmp_path / "target"
    target.mkdir()
    if subprocess.run(["setfacl", "-d", "-m", "u:7:rwx", target], check=False).returncode:
        pytest.skip("this file system keeps no ACLs")
    assert restore_tree(machine.store, machine.revision, target).failed == []
    assert describe_tree(os.fsencode(target)) == describe_tree(corpus)


def test_symlink_with_nul_fails_alone(machine: Machine, tmp_path: Path) -> None:
    bad = Entry(name=b"bad", kind=objects.ENTRY_SYMLINK, content_kind=objects.CONTENT_INLINE, content=b"a\0b", size=3)
    good = Entry(name=b"good", kind=objects.ENTRY_FILE, mode=0o644)
    (tmp_path / "one").mkdir()
    machine.scan(tmp_path / "one")
    assert machine.revision is not None
    content = store_directory(machine.store, [bad, good])
    revision = replace(machine.revision, root=replace(machine.revision.root, content=content))
    result = restore_tree(machine.store, revision, tmp_path / "target")
    assert [path for path, _ in result.failed] == [b"bad"] and os.listdir(tmp_path / "target") == ["good"]


@as_root
def test_a_set_id_file_restored_by_another_user_does_not_run_as_that_user(tmp_path: Path) -> None:
    """Without root rights the owner cannot be given back: then neither may the set-id bits be."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "su").write_bytes(b"#!/bin/sh\n")
    os.chown(source / "su", 1, 1)
    os.chmod(source / "su", 0o6755)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    machine = Machine(tmp_path)
    revision = revision_of(machine.scan(source))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            code = 0
            for _ in range(2):  # new, and there already
                lost = restore_tree(machine.store, revision, tmp_path / "out").lost
                is_plain = stat.S_IMODE(os.stat(tmp_path / "out" / "su").st_mode) == 0o755
                is_said = lost.expected["set-id bit"] == 1 and not lost.unexpected()
                code = code or (0 if is_plain and is_said else 2)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
