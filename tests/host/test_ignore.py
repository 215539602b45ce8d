"""What the rules leave out, and that they cost nothing to the cache."""

from pathlib import Path

import pytest
from host_kit import Machine

from dalsegno.host.ignore import CACHE_TAG_SIGNATURE, Rules
from dalsegno.trees.read import iterate_directory


def names_of(machine: Machine, content: bytes, above: bytes = b"") -> set[bytes]:
    found: set[bytes] = set()
    for entry in iterate_directory(machine.store, content):
        found.add(above + entry.name)
        if entry.kind == 2:
            found |= names_of(machine, entry.content, above + entry.name + b"/")
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "keep").mkdir(parents=True)
    (root / "cache").mkdir()
    (root / "keep/a.o").write_bytes(b"o")
    (root / "keep/b.c").write_bytes(b"c" * 100)
    (root / "keep/important.o").write_bytes(b"o")
    (root / "keep/.dalignore").write_bytes(b"!important.o\nlocal\n")
    (root / "keep/local").write_bytes(b"l")
    (root / "local").write_bytes(b"l")
    (root / "cache/CACHEDIR.TAG").write_bytes(CACHE_TAG_SIGNATURE + b"\n")
    (root / "cache/data").write_bytes(b"d")
    return root


def test_patterns_files_and_tags(machine: Machine, tree: Path) -> None:
    rules = Rules(patterns=("*.o",), ignore_files=True, cache_tags=True)
    first = machine.scan(tree, rules=rules)
    assert names_of(machine, first.root.content) == {
        b"keep", b"keep/b.c", b"keep/important.o", b"keep/.dalignore", b"local", b"cache", b"cache/CACHEDIR.TAG",
    }  # fmt: skip
    second = machine.scan(tree, rules=rules)
    assert second.root == first.root and second.files_read == 0 and second.directories_reused == 3
    assert len(names_of(machine, machine.scan(tree).root.content)) == 10


def test_larger_than(machine: Machine, tree: Path) -> None:
    result = machine.scan(tree, rules=Rules(larger_than=99))
    assert b"keep/b.c" not in names_of(machine, result.root.content) and result.entry_count == 9


def test_directory_pattern_is_not_entered(machine: Machine, tree: Path) -> None:
    result = machine.scan(tree, rules=Rules(patterns=("cache/",)))
    assert b"cache" not in names_of(machine, result.root.content)
