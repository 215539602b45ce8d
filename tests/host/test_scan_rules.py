"""Times that prove nothing, renames, and what the rules leave out, on real file systems."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host_kit import REVISION_ID, Machine, MemoryStore, restore_tree, revision_of

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host.fields import RACY_NS
from dalsegno.host.ignore import CACHE_TAG_SIGNATURE, Rules
from dalsegno.host.scan import ScanResult, scan_tree
from dalsegno.terms.events import Note
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.read import iterate_directory, links_key, lookup

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


class BusyStore(MemoryStore):
    """A store at which the world changes: `act(payload)` is called before an object is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[bytes], None] = lambda payload: None

    def put(self, kind: int, payload: bytes) -> ObjectId:
        self.act(payload)
        return super().put(kind, payload)


def scan_now(machine: Machine, root: Path) -> ScanResult:
    """Scan with the clock as it is."""
    result = scan_tree(
        root,
        sink=machine.store,
        cutter=machine.cutter,
        baseline=machine.baseline(),
    )
    machine.revision = revision_of(result)
    result.cache.save(machine.cache_path, revision=REVISION_ID)
    return result


def entry_at(machine: Machine, path: bytes) -> Entry:
    assert machine.revision is not None
    entry = machine.revision.root
    for name in path.split(b"/"):
        found = lookup(machine.store, entry.content, name)
        assert found is not None, path
        entry = found
    return entry


def content_at(machine: Machine, path: bytes) -> bytes:
    entry = entry_at(machine, path)
    if entry.content_kind == objects.CONTENT_INLINE:
        return entry.content
    assert entry.content_kind == objects.CONTENT_CHUNK
    return machine.store.get(ObjectId(entry.content))


def grow_old() -> None:
    time.sleep(2.5 * RACY_NS / 1e9)


# -- times that prove nothing


def test_second_scan_right_after_the_first_reads_nothing(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(20):
        (root / f"{number}").write_bytes(b"%d" % number * 200)
    grow_old()
    assert scan_now(machine, root).files_read == 20
    again = scan_now(machine, root)
    assert again.files_read == 0 and again.directories_reused == 1


def test_same_size_change_right_after_a_scan_is_never_missed(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    file = root / "file"
    file.write_bytes(b"----")
    os.link(file, root / "other-name")
    os.utime(file, ns=(1, 1))
    for number in range(60):
        scan_now(machine, root)
        with open(file, "r+b") as stream:
            stream.write(b"%04d" % number)
        os.utime(file, ns=(1, 1))
        scan_now(machine, root)
        assert machine.revision is not None
        link = entry_at(machine, b"file")
        table = {entry.name: entry for entry in iterate_directory(machine.store, machine.revision.links)}
        assert table[links_key(link.link)].content == b"%04d" % number


@as_root
def test_same_size_change_within_the_second_of_a_coarse_file_system_is_never_missed(
    machine: Machine, tmp_path: Path
) -> None:
    """Inodes of 128 bytes have no room for less than a second."""
    root, image = tmp_path / "tree", tmp_path / "image"
    root.mkdir()
    image.write_bytes(bytes(4 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, stderr=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", "loop", image, root], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (root / "file").write_bytes(b"one")
        assert (root / "file").stat().st_ctime_ns % 10**9 == 0
        grow_old()
        for content in (b"two", b"six", b"ten", b"one"):
            scan_now(machine, root)
            (root / "file").write_bytes(content)
            scan_now(machine, root)
            assert content_at(machine, b"file") == content
    finally:
        subprocess.run(["umount", root], check=True)


def test_file_that_changed_during_a_scan_is_read_again_at_the_next(tmp_path: Path) -> None:
    """Its directory was listed with old times; what counts are those of the last look."""
    machine = Machine(tmp_path)
    store = machine.store = BusyStore()
    root = tmp_path / "tree"
    root.mkdir()
    file = root / "file"
    file.write_bytes(b"a" * 200)
    grow_old()

    def overwrite(payload: bytes) -> None:
        if payload == b"a" * 200:
            file.write_bytes(b"b" * 200)

    store.act = overwrite
    first = scan_now(machine, root)
    assert content_at(machine, b"file") == b"b" * 200 and first.changed == []
    grow_old()
    assert scan_now(machine, root).files_read == 1
    assert scan_now(machine, root).files_read == 0


def test_file_that_never_rests_is_reported_and_read_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.store = BusyStore()
    root = tmp_path / "tree"
    root.mkdir()
    file = root / "busy"
    file.write_bytes(bytes(200))
    (root / "calm").write_bytes(b"calm")
    grow_old()
    rounds = iter(range(1, 250))

    def overwrite(payload: bytes) -> None:
        if len(payload) == 200:
            file.write_bytes(bytes([next(rounds)]) * 200)

    store.act = overwrite
    assert scan_now(machine, root).changed == [b"busy"]
    store.act = lambda payload: None
    grow_old()
    again = scan_now(machine, root)
    assert (again.changed, again.files_read) == ([], 1)
    assert content_at(machine, b"busy") == file.read_bytes()


# -- renames


@pytest.fixture
def tracked(machine: Machine, tmp_path: Path) -> Path:
    """Two directories with a file each, a hard link and a symlink, scanned once."""
    root = tmp_path / "tracked"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "empty").mkdir()
    (root / "a" / "file").write_bytes(b"file" * 100)
    (root / "a" / "stays").write_bytes(b"stays")
    (root / "b" / "other").write_bytes(b"other")
    os.symlink("file", root / "a" / "symlink")
    (root / "b" / "linked").write_bytes(b"linked")
    os.link(root / "b" / "linked", root / "a" / "linked-too")
    grow_old()
    scan_now(machine, root)
    return root


def nodes(machine: Machine) -> dict[bytes, int]:
    """Return node, or link id, of every path."""

    def walk(identity: bytes, above: bytes) -> dict[bytes, int]:
        found = {}
        for entry in iterate_directory(machine.store, identity):
            path = above + entry.name
            found[path] = entry.link if entry.kind == objects.ENTRY_LINK else entry.node
            if entry.kind == objects.ENTRY_DIRECTORY:
                found |= walk(entry.content, path + b"/")
        return found

    assert machine.revision is not None
    return walk(machine.revision.root.content, b"")


def has_no_twins(found: dict[bytes, int], *, links: int = 0) -> bool:
    return len(set(found.values())) == len(found) - links


@pytest.mark.parametrize("target", ["a/renamed", "a/AAA", "b/file", "b/zzz", "top", "empty/file"])
@pytest.mark.parametrize("edited", [False, True])
def test_renamed_file_keeps_its_node_and_birth(machine: Machine, tracked: Path, target: str, edited: bool) -> None:
    before, birth = nodes(machine), entry_at(machine, b"a/file").btime_ns
    if edited:
        (tracked / "a" / "file").write_bytes(b"edited" * 200)
    os.rename(tracked / "a" / "file", tracked / target)
    scan_now(machine, tracked)
    after = nodes(machine)
    assert after.pop(os.fsencode(target)) == before.pop(b"a/file")
    assert after == before and entry_at(machine, os.fsencode(target)).btime_ns == birth


def test_renamed_directory_keeps_its_node_and_those_in_it(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    os.rename(tracked / "a", tracked / "b" / "moved")
    os.rename(tracked / "b" / "moved" / "file", tracked / "b" / "moved" / "file2")
    scan_now(machine, tracked)
    assert nodes(machine) == {
        path.replace(b"a/file", b"a/file2").replace(b"a", b"b/moved", 1) if path[:1] == b"a" else path: node
        for path, node in before.items()
    }


def test_renamed_symlink_and_swapped_files_keep_their_nodes(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    os.rename(tracked / "a" / "symlink", tracked / "b" / "symlink")
    os.rename(tracked / "a" / "file", tracked / "aside")
    os.rename(tracked / "b" / "other", tracked / "a" / "file")
    os.rename(tracked / "aside", tracked / "b" / "other")
    scan_now(machine, tracked)
    after = nodes(machine)
    assert after[b"b/symlink"] == before[b"a/symlink"]
    assert (after[b"a/file"], after[b"b/other"]) == (before[b"b/other"], before[b"a/file"])


def test_file_that_an_editor_replaced_keeps_the_node_of_its_path(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    (tracked / "a" / "file.tmp").write_bytes(b"saved")
    os.rename(tracked / "a" / "file.tmp", tracked / "a" / "file")
    scan_now(machine, tracked)
    assert nodes(machine) == before
    os.rename(tracked / "a" / "file", tracked / "b" / "file")
    scan_now(machine, tracked)
    assert nodes(machine)[b"b/file"] == before[b"a/file"]


@pytest.mark.parametrize("kept", ["a/file.1", "a/FILE", "b/file.1", "0/file"])
def test_rotated_log_takes_its_node_along_and_no_two_files_share_one(
    machine: Machine, tracked: Path, kept: str
) -> None:
    before = nodes(machine)
    (tracked / kept).parent.mkdir(exist_ok=True)
    os.rename(tracked / "a" / "file", tracked / kept)
    (tracked / "a" / "file").write_bytes(b"new log")
    scan_now(machine, tracked)
    after = nodes(machine)
    assert has_no_twins(after, links=1)
    if not kept.startswith("b"):  # a directory that is scanned later comes too late for it
        assert after[os.fsencode(kept)] == before[b"a/file"]


def test_directory_made_anew_beside_the_renamed_one_shares_no_node(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    os.rename(tracked / "a", tracked / "a.old")
    (tracked / "a").mkdir()
    (tracked / "a" / "file").write_bytes(b"another")
    scan_now(machine, tracked)
    after = nodes(machine)
    assert has_no_twins(after, links=1)
    assert (after[b"a.old"], after[b"a.old/file"]) == (before[b"a"], before[b"a/file"])


def test_reused_inode_is_a_new_file(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    victim = tracked / "a" / "file"
    inode = victim.stat().st_ino
    keep_away = []
    victim.unlink()
    for number in range(2000):
        path = tracked / "b" / f"new{number}"
        path.write_bytes(b"file" * 100)
        if path.stat().st_ino == inode:
            break
        keep_away.append(path)
    else:
        pytest.skip("this file system does not give the inode out again")
    for other in keep_away:
        other.unlink()
    scan_now(machine, tracked)
    assert nodes(machine)[os.fsencode(f"b/{path.name}")] not in before.values()


def test_reused_inode_of_a_hard_linked_file_is_a_new_file(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    inode = (tracked / "b" / "linked").stat().st_ino
    (tracked / "b" / "linked").unlink()
    (tracked / "a" / "linked-too").unlink()
    for number in range(2000):
        path = tracked / "b" / f"new{number}"
        path.write_bytes(b"other links")
        if path.stat().st_ino == inode:
            break
    else:
        pytest.skip("this file system does not give the inode out again")
    os.link(path, tracked / "b" / "twin")
    scan_now(machine, tracked)
    assert nodes(machine)[b"b/twin"] not in before.values()


def test_nodes_follow_hard_links_made_renamed_and_undone(machine: Machine, tracked: Path) -> None:
    before = nodes(machine)
    os.rename(tracked / "b" / "linked", tracked / "b" / "linked2")
    os.rename(tracked / "a" / "linked-too", tracked / "top")
    os.rename(tracked / "a" / "file", tracked / "b" / "file")
    os.link(tracked / "b" / "file", tracked / "b" / "file-too")
    scan_now(machine, tracked)
    after = nodes(machine)
    assert after[b"b/linked2"] == after[b"top"] == before[b"b/linked"]
    assert after[b"b/file"] == after[b"b/file-too"] == before[b"a/file"]
    (tracked / "b" / "linked2").unlink()
    os.rename(tracked / "top", tracked / "a" / "alone")
    (tracked / "b" / "file").unlink()
    scan_now(machine, tracked)
    last = nodes(machine)
    assert last[b"a/alone"] == before[b"b/linked"] and last[b"b/file-too"] == before[b"a/file"]
    assert entry_at(machine, b"a/alone").kind == objects.ENTRY_FILE and has_no_twins(last)


@as_root
def test_without_birth_times_a_rename_is_known_by_size_and_time(machine: Machine, tmp_path: Path) -> None:
    root, image = tmp_path / "tree", tmp_path / "image"
    root.mkdir()
    image.write_bytes(bytes(4 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, stderr=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", "loop", image, root], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (root / "one").write_bytes(b"one")
        (root / "two").write_bytes(b"two")
        inode = (root / "two").stat().st_ino
        scan_now(machine, root)
        before = nodes(machine)
        os.rename(root / "one", root / "renamed")
        (root / "two").unlink()
        (root / "other").write_bytes(b"longer than two")
        assert (root / "other").stat().st_ino == inode
        scan_now(machine, root)
        after = nodes(machine)
        assert after[b"renamed"] == before[b"one"] and after[b"other"] not in before.values()
    finally:
        subprocess.run(["umount", root], check=True)


# -- what the rules leave out


def paths_of(machine: Machine) -> set[str]:
    return {os.fsdecode(path) for path in nodes(machine)}


@pytest.fixture
def with_mount(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "tree"
    (root / "mounted" / "hidden").mkdir(parents=True)
    (root / "here").write_bytes(b"here")
    if subprocess.run(["mount", "-t", "tmpfs", "none", root / "mounted"], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (root / "mounted" / "there").write_bytes(b"there")
        (root / "mounted" / "sub").mkdir()
        yield root
    finally:
        subprocess.run(["umount", root / "mounted"], check=True)


@as_root
def test_one_file_system_keeps_the_mount_point_and_nothing_in_it(machine: Machine, with_mount: Path) -> None:
    within = {"here", "mounted"}
    rules = Rules(one_file_system=True)
    first = machine.scan(with_mount, rules=rules)
    assert paths_of(machine) == within and first.files_read == 1
    again = machine.scan(with_mount, rules=rules)
    assert again.root == first.root and again.files_read == 0
    machine.scan(with_mount)
    assert paths_of(machine) == within | {"mounted/there", "mounted/sub"}
    machine.scan(with_mount, rules=rules)
    assert paths_of(machine) == within


def test_nodump_flag_leaves_out_files_and_whole_directories(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "flagged-directory").mkdir(parents=True)
    (root / "flagged-directory" / "inner").write_bytes(b"inner")
    (root / "flagged").write_bytes(b"flagged")
    (root / "plain").write_bytes(b"plain")
    for name in ("flagged", "flagged-directory"):
        if subprocess.run(["chattr", "+d", root / name], check=False).returncode:
            pytest.skip("THE FILE SYSTEM KEEPS NO NODUMP FLAG: --nodump is not tested here")
    rules = Rules(nodump=True)
    first = machine.scan(root, rules=rules)
    assert paths_of(machine) == {"plain"}
    assert machine.scan(root, rules=rules).root == first.root
    subprocess.run(["chattr", "-d", root / "flagged"], check=True)
    machine.scan(root, rules=rules)
    assert paths_of(machine) == {"plain", "flagged"}
    subprocess.run(["chattr", "+d", root / "plain"], check=True)
    machine.scan(root, rules=rules)
    assert paths_of(machine) == {"flagged"}
    machine.scan(root)
    assert paths_of(machine) == {"plain", "flagged", "flagged-directory", "flagged-directory/inner"}


def test_cache_directory_keeps_only_its_valid_tag(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name, start in (("good", CACHE_TAG_SIGNATURE), ("false", b"Signature: none")):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "CACHEDIR.TAG").write_bytes(start + b"\n# made by a test\n")
        (root / name / "data").write_bytes(b"data")
    rules = Rules(cache_tags=True)
    machine.scan(root, rules=rules)
    kept = {"good", "good/CACHEDIR.TAG", "false", "false/CACHEDIR.TAG", "false/data", "false/deep"}
    assert paths_of(machine) == kept
    (root / "good" / "more").write_bytes(b"more")
    machine.scan(root, rules=rules)
    assert paths_of(machine) == kept
    (root / "good" / "CACHEDIR.TAG").unlink()
    machine.scan(root, rules=rules)
    assert paths_of(machine) == kept - {"good/CACHEDIR.TAG"} | {"good/data", "good/deep", "good/more"}


def test_ignore_file_counts_beneath_its_directory_and_changes_are_obeyed(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "in" / "deep").mkdir(parents=True)
    for name in ("a.o", "in/a.o", "in/deep/b.o", "in/deep/keep.o", "in/top.o"):
        (root / name).write_bytes(b"o")
    (root / "in" / ".dalignore").write_text("*.o\n/deep/none\n")
    (root / "in" / "deep" / ".dalignore").write_text("!keep.o\n")
    rules = Rules(ignore_files=True)
    machine.scan(root, rules=rules)
    ignores = {"in", "in/.dalignore", "in/deep", "in/deep/.dalignore"}
    assert paths_of(machine) == ignores | {"a.o", "in/deep/keep.o"}
    (root / "in" / ".dalignore").write_text("/top.o\n")
    machine.scan(root, rules=rules)
    assert paths_of(machine) == ignores | {"a.o", "in/a.o", "in/deep/b.o", "in/deep/keep.o"}
    machine.scan(root)
    assert "in/top.o" in paths_of(machine)


def test_larger_files_are_left_out_until_they_shrink(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "limit").write_bytes(bytes(1000))
    (root / "over").write_bytes(bytes(1001))
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 40)
    rules = Rules(larger_than=1000)
    machine.scan(root, rules=rules)
    assert paths_of(machine) == {"limit"}
    os.truncate(root / "over", 10)
    os.truncate(root / "limit", 2000)
    machine.scan(root, rules=rules)
    assert paths_of(machine) == {"over"}


def test_socket_is_left_out_with_a_note_at_every_new_look(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        first = machine.scan(root)
        assert paths_of(machine) == {"file"} and first.unreadable == []
        notes = [(event.path, event.severity) for event in machine.events if isinstance(event, Note)]
        assert notes == [(b"socket", "note")]
        again = machine.scan(root)
        assert again.root == first.root and again.directories_reused == 1


def as_nobody(act: Callable[[], bool]) -> bool:
    """Run `act` in a child without rights and return what it did."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = 0 if act() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@as_root
@pytest.mark.parametrize("rules", [Rules(), Rules(patterns=("*.nothing",)), Rules(larger_than=1 << 30)])
def test_what_a_user_may_not_read_is_listed_at_every_scan(tmp_path: Path, rules: Rules) -> None:
    root = tmp_path / "tree"
    (root / "locked" / "inner").mkdir(parents=True)
    (root / "names-only").mkdir()
    (root / "names-only" / "file").write_bytes(b"x")
    (root / "open").write_bytes(b"open")
    (root / "secret").write_bytes(b"secret")
    for name, mode in (("locked", 0), ("secret", 0), ("names-only", 0o744)):
        (root / name).chmod(mode)
    machine = Machine(tmp_path)
    unreadable = {b"locked", b"names-only/file", b"secret"}

    def scan_thrice() -> bool:
        os.chdir("/")
        machine.cache_path = Path(f"/dev/shm/dal-nobody-{os.getpid()}")
        try:
            good = True
            for _ in range(3):
                result = machine.scan(root, rules=rules)
                good = good and {path for path, _ in result.unreadable} == unreadable
                good = good and paths_of(machine) == {"open", "names-only"}
            return good
        finally:
            machine.cache_path.unlink(missing_ok=True)

    for parent in [tmp_path, *tmp_path.parents]:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    assert as_nobody(scan_thrice)


# -- a dry run of a restore


def lstat_all(root: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in [root, *root.rglob("*")]:
        stat = path.lstat()
        found[str(path)] = (
            stat.st_mode, stat.st_ino, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime_ns,
            stat.st_ctime_ns,
        )  # fmt: skip
    return found


def test_dry_run_of_a_restore_writes_nothing_and_foretells_the_counts(
    machine: Machine, tracked: Path, tmp_path: Path
) -> None:
    assert machine.revision is not None
    absent = tmp_path / "absent"
    foretold = restore_tree(machine.store, machine.revision, absent, dry_run=True, delete=True)
    assert not absent.exists()
    done = restore_tree(machine.store, machine.revision, absent)
    assert foretold.created == done.created > 0
    (absent / "a" / "file").write_bytes(b"changed")
    (absent / "a" / "stays").chmod(0o600)
    (absent / "b" / "other").unlink()
    (absent / "extra").mkdir()
    (absent / "extra" / "inner").write_bytes(b"inner")
    (absent / "a" / "symlink").unlink()
    os.symlink("elsewhere", absent / "a" / "symlink")
    os.unlink(absent / "a" / "linked-too")
    (absent / "a" / "linked-too").write_bytes(b"linked")
    os.utime(absent / "b", ns=(5, 5))
    before = lstat_all(absent)
    foretold = restore_tree(machine.store, machine.revision, absent, dry_run=True, delete=True)
    assert lstat_all(absent) == before
    done = restore_tree(machine.store, machine.revision, absent, delete=True)
    assert (foretold.created, foretold.updated, foretold.deleted) == (done.created, done.updated, done.deleted)
