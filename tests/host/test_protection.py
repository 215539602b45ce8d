"""A restore that deletes leaves what the backup did not cover, as rsync does, and says how much and why."""

import os
import socket
from pathlib import Path

import pytest
from host_kit import Machine, restore_tree
from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Coverage, Revision
from dalsegno.host.coverage import coverage_of
from dalsegno.host.ignore import Rules
from dalsegno.host.protection import BY_RULES, LARGER, NOT_ENTERED, OWN, SOCKET, UNREADABLE
from dalsegno.trees import coverage
from dalsegno.trees.coverage import bounded, join_coverage

RULES = Rules(patterns=("*.o", "/build"), ignore_files=True, larger_than=1000)


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def make(root: Path) -> None:
    for name in ("keep.txt", "src/a.c", "notes/.dalignore", "notes/n.txt", "notes/sub/deep.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "notes/.dalignore").write_text("*.tmp\n!keep.tmp\n")


def covered(machine: Machine, unreadable: list[bytes] = [], not_entered: list[bytes] = []) -> Revision:  # noqa: B006
    assert machine.revision is not None
    return replace(machine.revision, coverage=coverage_of(RULES, unreadable, not_entered))


def test_delete_leaves_what_the_backup_left_out_and_says_why(machine: Machine, tmp_path: Path) -> None:
    """Kind of fault: what was never looked at is taken for gone."""
    root = tmp_path / "root"
    make(root)
    machine.scan(root, rules=RULES)
    revision = covered(machine, [b"notes/secret", b"locked"], [b"mnt"])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(root / "s.sock"))
    (root / "mnt").mkdir()
    (root / "locked").mkdir()
    stays = ["src/a.o", "build/out", "notes/x.tmp", "notes/sub/y.tmp", "notes/secret", "locked/in", "mnt/file", "big"]
    goes = ["src/b.c", "notes/keep.tmp", "new/c.c", "x.tmp", "old/deep/d"]
    both = ["gone/e.o", "gone/e.c"]
    for name in (*stays, *goes, *both):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "big").write_bytes(bytes(2000))
    (root / "own" / "pool").mkdir(parents=True)
    (root / "own" / "other").mkdir()
    before = listing(root)
    counts = {BY_RULES: 5, UNREADABLE: 2, NOT_ENTERED: 1, LARGER: 1, SOCKET: 1, OWN: 1}
    dry = restore_tree(machine.store, revision, root, delete=True, own=[b"own/pool"], dry_run=True)
    assert listing(root) == before and dict(dry.protected.counts) == counts
    result = restore_tree(machine.store, revision, root, delete=True, own=[b"own/pool"])
    assert not result.failed and dict(result.protected.counts) == counts
    assert result.deleted == dry.deleted == 5
    now = listing(root)
    assert all(name in now for name in (*stays, "gone/e.o", "own/pool", "s.sock"))
    assert not any(name in now for name in (*goes, "gone/e.c", "new", "old", "own/other"))
    assert (b"gone/e.o", BY_RULES) in result.protected.listed
    last = restore_tree(machine.store, revision, root, delete=True, delete_excluded=True, own=[b"own/pool"])
    assert not last.failed and dict(last.protected.counts) == {OWN: 1}
    kept = ["keep.txt", "src", "src/a.c", "notes", "notes/.dalignore", "notes/n.txt", "notes/sub", "notes/sub/deep.txt"]
    assert listing(root) == sorted([*kept, "own", "own/pool"])


def test_a_file_does_not_take_the_place_of_a_directory_with_protected_files(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "name").write_text("a file")
    machine.scan(root)
    (root / "name").unlink()
    (root / "name").mkdir()
    (root / "name" / "x.o").write_text("")
    result = restore_tree(machine.store, covered(machine), root, delete=True)
    assert [path for path, _ in result.failed] == [b"name"] and "left out" in result.failed[0][1]
    assert (root / "name" / "x.o").exists()
    result = restore_tree(machine.store, covered(machine), root, delete=True, delete_excluded=True)
    assert not result.failed and (root / "name").read_text() == "a file"


def test_a_revision_without_coverage_protects_only_sockets(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(root)
    machine.scan(root)
    assert machine.revision is not None and machine.revision.coverage is None
    (root / "a.o").write_text("")
    result = restore_tree(machine.store, machine.revision, root, delete=True)
    assert (result.deleted, result.protected.count) == (1, 0)


@pytest.mark.parametrize(
    ("paths", "count_max", "expected"),
    [
        ([b"b", b"a", b"a"], 5, ([b"a", b"b"], False)),
        ([b"d/%d" % number for number in range(9)], 5, ([b"d"], True)),
        ([b"a/b/%d" % number for number in range(9)] + [b"x/1"], 5, ([b"a/b", b"x/1"], True)),
        ([b"%d" % number for number in range(9)], 5, ([b""], True)),
    ],
)
def test_too_many_paths_become_their_directories(
    monkeypatch: pytest.MonkeyPatch, paths: list[bytes], count_max: int, expected: tuple[list[bytes], bool]
) -> None:
    monkeypatch.setattr(coverage, "PATHS_MAX", count_max)
    assert bounded(paths) == expected


def test_coverage_is_a_last_field_that_old_revisions_have_not(machine: Machine, tmp_path: Path) -> None:
    make(tmp_path / "root")
    machine.scan(tmp_path / "root")
    old = machine.revision
    assert old is not None
    encoded = objects.encode(old)
    assert encoded[0] == 0x9B and objects.decode_revision(encoded) == old
    new = covered(machine, [b"x"])
    assert objects.encode(new)[0] == 0x9C
    assert objects.decode_revision(objects.encode(new)) == new
    assert coverage_of(Rules(), [], []) is None
    assert (
        Coverage(patterns=[b"*.o", b"/build"], ignore_files=True, larger_than=1000, unreadable=[b"x"]) == new.coverage
    )


def test_a_merge_covers_only_what_both_sides_looked_at() -> None:
    one = Coverage(patterns=[b"*.o", b"x"], larger_than=10, unreadable=[b"a"])
    other = Coverage(patterns=[b"x", b"y"], larger_than=5, nodump=True, unreadable=[b"b"], is_coarse=True)
    expected = Coverage(
        patterns=[b"*.o", b"x", b"y"], larger_than=5, nodump=True, unreadable=[b"a", b"b"], is_coarse=True
    )
    assert join_coverage(one, other) == expected
    assert join_coverage(one, None) == join_coverage(None, one) == join_coverage(one, one) == one
    assert join_coverage(None, None) is None
