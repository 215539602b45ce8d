"""Ignore files mean to a scan what a .gitignore means to git."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from host_kit import Machine
from ignore_kit import git_keeps, grow_tree

from dalsegno.formats import objects
from dalsegno.host.ignore import (
    IGNORE_FILE,
    IGNORE_FILE_BYTES_MAX,
    PROBLEMS_TOLD_MAX,
    IgnoreProblem,
    Rules,
    check_pattern,
)
from dalsegno.host.patterns import PATTERN_BYTES_MAX, WILD_LINES_MAX, read_lines, read_words
from dalsegno.terms.errors import BadInput
from dalsegno.trees.read import iterate_directory

TREES = int(os.environ.get("DAL_IGNORE_TREES", "150"))
SEED = int(os.environ.get("DAL_SEED", "20261130"))


def kept_files(machine: Machine, content: bytes, above: bytes = b"") -> set[bytes]:
    found: set[bytes] = set()
    for entry in iterate_directory(machine.store, content):
        if entry.kind == objects.ENTRY_DIRECTORY:
            found |= kept_files(machine, entry.content, above + entry.name + b"/")
        else:
            found.add(above + entry.name)
    return found


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """Return a directory in memory, where there is one: thousands of files are made and removed."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="dal-test-") as place:
        yield Path(place)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git to compare with")
def test_random_trees_keep_what_git_keeps(machine: Machine, quick_path: Path) -> None:
    """Kind: names and patterns as people type them, in any encoding."""
    print(f"DAL_SEED={SEED} DAL_IGNORE_TREES={TREES}")
    random = Random(SEED)
    root = quick_path / "trees"
    root.mkdir()
    for number in range(TREES):
        grow_tree(random, os.fsencode(root / str(number)), name=IGNORE_FILE)
    kept = kept_files(machine, machine.scan(root, rules=Rules(ignore_files=True)).root.content)
    assert kept == git_keeps(root, os.fsdecode(IGNORE_FILE))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"!", "names nothing"),
        (b"/", "names nothing"),
        (b"a\\", "ends in a backslash"),
        (b"*[a-", "a [ without its ]"),
        (b"[", "a [ without its ]"),
        (b"[[:alpha:]", "a [ without its ]"),
        (b"[[:letter:]]", "a class [:...:] that there is not"),
        (b"a" * (PATTERN_BYTES_MAX + 1), f"longer than {PATTERN_BYTES_MAX} bytes"),
    ],
)
def test_a_line_that_can_match_nothing_is_a_problem_of_its_own(line: bytes, reason: str) -> None:
    """Kind: one bad line stops everything."""
    patterns = read_lines(b"cache\n" + line + b"\n\n# comment\n  \nlog\n")
    assert [(problem.line, problem.reason) for problem in patterns.problems] == [(2, reason)]
    assert patterns.count == 2 and patterns.excludes(b"log", b"log", is_directory=False)
    with pytest.raises(BadInput, match="pattern"):
        check_pattern(os.fsdecode(line))


@pytest.mark.parametrize("word", ["#x", "a ", "\ta", "caf\udce9", "a\nb", "!x", "*.o", "/a/**/b/", "[]a]"])
def test_words_of_a_command_line_are_patterns_to_the_byte(word: str) -> None:
    check_pattern(word)
    name = os.fsencode(word)
    assert "*" in word or word[0] in "![" or read_words([name]).excludes(name, name, is_directory=False)


@pytest.mark.parametrize(
    "pattern", [b"*a" * 60 + b"b", b"**/a" * 300 + b"/b", b"**/*a*a" * 50 + b"/b", b"*?" * 100 + b"z"]
)
def test_no_pattern_takes_long(pattern: bytes) -> None:
    """Kind: a pattern that somebody wrote in a shared tree holds up the backup of all."""
    patterns = read_lines(pattern)
    assert not patterns.problems
    for path in (b"/".join([b"a" * 255] * 16), b"/".join([b"a"] * 2000)):
        assert patterns.excludes(path[-255:].rpartition(b"/")[2], path, is_directory=False) is None


def test_ignore_files_that_are_none_are_said_and_not_obeyed(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name in ("link", "large", "directory", "pipe", "bom"):
        (root / name).mkdir(parents=True)
        (root / name / "secret").touch()
    (root / "rules").write_text("secret\n")
    (root / "link/.dalignore").symlink_to("../rules")
    (root / "large/.dalignore").write_bytes(b"secret\n" + b"#" * IGNORE_FILE_BYTES_MAX)
    (root / "directory/.dalignore").mkdir()
    os.mkfifo(root / "pipe/.dalignore")
    (root / "bom/.dalignore").write_bytes(b"\xef\xbb\xbfsecret")
    result = machine.scan(root, rules=Rules(ignore_files=True, patterns=("[",)))
    kept = kept_files(machine, result.root.content)
    assert {name for name in kept if name.endswith(b"/secret")} == {
        b"link/secret", b"large/secret", b"directory/secret", b"pipe/secret",
    }  # fmt: skip
    assert result.ignore_problems == [
        IgnoreProblem(path=b"", line=0, reason="pattern '[' leaves out nothing: a [ without its ]"),
        IgnoreProblem(path=b"directory/.dalignore", line=0, reason="not obeyed: not a regular file"),
        IgnoreProblem(path=b"large/.dalignore", line=0, reason="not obeyed: larger than 1 MiB"),
        IgnoreProblem(path=b"link/.dalignore", line=0, reason="not obeyed: a symbolic link"),
        IgnoreProblem(path=b"pipe/.dalignore", line=0, reason="not obeyed: not a regular file"),
    ]


HOSTILE = {
    "stars": b"*a" * 40 + b"*b\n",
    "many": b"*a*b\n" * 200_000,
    "sets": (b"[!a]" * 8 + b"*x\n") * 30_000,
    "long sets": (b"[!a]" * 1000 + b"\n") * 260,
    "deep": (b"**/a*" * 10 + b"/**/b\n") * 18_000,
    "classes": (b"[[:alnum:][:punct:]]" * 100 + b"*\n") * 500,
    "bad": b"[z-a\n\\\n!\n" * 100_000,
    "spaces": (b"a" + b" " * 4000 + b"\n") * 250,
}
CPU_SECONDS_MAX = 8.0


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_ignore_file_costs_little(what: str) -> None:
    """Kind: whoever may write a file in somebody's source stops the backup of it."""
    started = time.process_time()
    patterns = read_lines(HOSTILE[what][: 1024 * 1024])
    for number in range(300):
        name = b"a" * 240 + b"%d" % number
        patterns.excludes(name, b"d/" * 20 + name, is_directory=False)
    assert time.process_time() - started < CPU_SECONDS_MAX


def test_of_too_many_wildcards_the_first_are_obeyed_and_the_line_is_named(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("first-x", "last-x", "plain", "kept"):
        (root / name).touch()
    lines = [b"first*x", *(b"no*%d*" % number for number in range(WILD_LINES_MAX)), b"last*x", b"plain"]
    (root / ".dalignore").write_bytes(b"\n".join(lines))
    result = machine.scan(root, rules=Rules(ignore_files=True))
    assert kept_files(machine, result.root.content) == {b".dalignore", b"kept", b"last-x"}
    (problem,) = result.ignore_problems
    assert problem.line == WILD_LINES_MAX + 1 and "not obeyed" in problem.reason
    # A volume's own rules are its owner's: all of them count.
    assert read_words(lines).refused_from == 0


def test_of_very_many_bad_lines_some_are_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".dalignore").write_bytes(b"!\n" * 5000)
    problems = machine.scan(tmp_path / "tree", rules=Rules(ignore_files=True)).ignore_problems
    assert len(problems) == PROBLEMS_TOLD_MAX + 1 and "4,900 more" in problems[-1].reason
