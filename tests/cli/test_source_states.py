"""What a backup takes from sources that are not what people think they are."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from face_kit import Person

from dalsegno.actions.shrunk import Shrunk, find_shrunk
from dalsegno.cli.backup import listed
from dalsegno.host.scan import OWN


@pytest.fixture
def person(tmp_path: Path) -> Person:
    doc = tmp_path / "doc"
    doc.mkdir()
    for number in range(60):
        (doc / f"f{number}").write_text(str(number))
    return Person(tmp_path)


# -- a source that is not mounted


@pytest.mark.parametrize(
    ("before", "now", "shrunk"),
    [(0, 0, False), (1, 0, True), (49, 1, False), (50, 5, False), (50, 4, True), (50, 0, True), (1000, 2000, False)],
)
def test_all_or_nine_tenths_of_fifty_is_too_much_to_lose(before: int, now: int, shrunk: bool) -> None:
    found = find_shrunk(entries_before=before, entries_now=now)
    assert found == (Shrunk(entries_before=before, entries_now=now) if shrunk else None)


def test_an_empty_source_is_warned_of_each_time_until_it_is_back_or_accepted(person: Person) -> None:
    """Kind: a backup of what is not there counts as good."""
    person.run("backup", "doc")
    (person.home / "doc").rename(person.home / "away")
    (person.home / "doc").mkdir()
    for words in (["backup", "doc"], ["backup", "-q", "doc"], ["clone", "doc", "one"]):
        assert b"60 files and directories before, none now" in person.run(*words, code=3).stderr
    assert person.run("--json", "backup", code=3).stdout.count(b'"entries_before": 60') == 1
    (person.home / "doc").rmdir()
    (person.home / "away").rename(person.home / "doc")
    assert person.value("backup", "doc")["shrunk"] is None
    for name in os.listdir(person.home / "doc")[1:]:
        (person.home / "doc" / name).unlink()
    person.run("backup", "doc", code=3)
    assert person.value("backup", "doc", "--accept-shrunk")["shrunk"] is None
    assert person.value("backup", "doc")["shrunk"] is None
    shutil.rmtree(person.home / "doc")
    person.run("backup", "doc", code=6)


# -- a pool that is not mounted


def test_no_second_pool_is_made_where_the_pool_is_not_mounted(person: Person) -> None:
    """Kind: a backup silently begins anew beside what it should go on with."""
    disk = person.home / "disk"
    disk.mkdir()
    person.run("--pool", str(disk / "pool"), "backup", "doc")
    disk.rename(person.home / "away")
    disk.mkdir()
    for made in (None, "pool"):  # not there, or an empty mount point
        if made:
            (disk / made).mkdir()
        error = person.run("--pool", f"{disk}/../disk/pool", "backup", "doc", code=6).stderr
        assert b"is its disk mounted?" in error
        assert b"`dal init " in error
        assert not (disk / "pool" / "pool.toml").exists()
    (disk / "pool").rmdir()
    disk.rmdir()
    (person.home / "away").rename(disk)
    assert not person.value("--pool", str(disk / "pool"), "backup", "doc")["created"]  # it goes on with the old one
    (disk / "pool").rename(person.home / "gone")
    person.run("init", str(disk / "pool"))
    person.run("--pool", str(disk / "pool"), "backup", "doc")


# -- ignore files with mistakes


def test_a_bad_line_in_one_ignore_file_is_named_and_the_rest_is_backed_up(person: Person) -> None:
    """Kind: a bad line in an ignore file stops the backup of everybody."""
    (person.home / "doc" / "sub").mkdir()
    (person.home / "doc" / "sub" / ".dalignore").write_bytes(b"cache/\n!\r\nx\\\n")
    done = person.run("backup", "doc")
    assert b"of ignore files, these could not be obeyed:\n" in done.stdout
    assert b"doc" not in done.stderr and b"    sub/.dalignore: line 2: matches nothing: names nothing" in done.stdout
    found = person.value("backup", "doc")["ignore_problems"]
    assert [(each["path"], each["line"]) for each in found] == [("sub/.dalignore", 2), ("sub/.dalignore", 3)]


# -- what cannot be read


@pytest.mark.skipif(not os.path.exists("/sys/class/net/lo/speed"), reason="needs files that nobody can read")
def test_what_cannot_be_read_is_said_once(person: Person) -> None:
    """Kind: the same fault is told twice, or, when asked to be quiet, not at all."""
    source = os.path.realpath("/sys/class/net/lo")
    said = person.run("backup", source, code=3)
    missing = [line for line in said.stdout.splitlines() if b": Invalid argument" in line]
    assert missing and len(missing) == len(set(missing)) and b"Invalid" not in said.stderr
    quiet = person.run("backup", source, "-q", code=3)
    assert not quiet.stdout and quiet.stderr.count(b": Invalid argument") == len(missing)
    assert b"error" not in person.run("--json", "backup", source, code=3).stderr
    volume = person.value("volume", "list")[0]["volume"]
    compared = person.run("diff", volume)
    assert compared.stderr.count(b"not readable: Invalid argument") == len(missing)


def test_long_lists_end_with_how_much_more_there_is() -> None:
    texts = [str(number) for number in range(7_500)]
    assert listed(texts, 100)[-2:] == ["    99", "    and 7,400 more (`--json` has all)"]
    assert len(listed(texts[:100], 100)) == 100


# -- what is our own


def test_a_backup_of_home_holds_nothing_of_our_own(person: Person) -> None:
    """Kind: each backup makes the next one larger."""
    home = person.home
    person.run("backup", "doc")
    for place in (".local/state/dalsegno/spool", ".cache/dalsegno/other", ".cache/else"):
        (home / place).mkdir(parents=True, exist_ok=True)
        (home / place / "file").touch()
    value = person.value("backup", ".", "--name", "first")
    own = [".cache/dalsegno", ".local/share/dalsegno/pool", ".local/state/dalsegno"]
    assert sorted(each["path"] for each in value["not_entered"]) == own
    assert {each["reason"] for each in value["not_entered"]} == {OWN}
    listed = person.run("ls", "-R", f"{value['volume']}@first").stdout
    assert b"else/file" in listed and b"packs" not in listed and b"spool" not in listed and b"other" not in listed
    again = person.run("backup", ".")
    assert b"nothing changed" in again.stdout and b"not entered: .cache/dalsegno (Dal Segno's own)" in again.stdout


# -- limits of the system


def grow_deep(root: Path, levels: int) -> str:
    """Make a file so deep that its path from `root` has more than 4,096 bytes; return that path."""
    fd = os.open(root, os.O_RDONLY)
    for _level in range(levels):
        os.mkdir("d" * 100, dir_fd=fd)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    file = os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
    os.write(file, b"deep down")
    os.close(file)
    os.close(fd)
    return "/".join(["d" * 100] * levels) + "/file"


def remove_deep(root: Path) -> None:
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_paths_beyond_what_the_system_takes_and_few_open_files(person: Person) -> None:
    """Kind: limits of paths and descriptors."""
    person.run("backup", "doc", "--name", "before")
    path = grow_deep(person.home / "doc", 60)
    assert len(path) > 4096

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))

    def few(*words: str) -> bytes:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 32, before[1]))
        try:
            return person.run(*words).stdout
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    few("backup", "doc", "--name", "after")
    assert few("cat", f"doc:/{path}") == b"deep down"
    assert few("ls", f"doc:/{path}").count(b"file") == 1
    assert few("find", "file", "doc").count(b"/file") == 1
    assert few("diff", "doc@before", "doc@after").count(b"/file") == 1
    few("dump", "doc", "-o", "doc.dump")
    for words in (["doc", "--to", "one"], ["doc.dump", "--to", "two"], [f"doc:/{path}", "--to", "three"]):
        few("restore", *words)
    for name in ("one", "two", "three"):
        again = person.home / name
        listed = subprocess.run(["find", str(again), "-name", "file", "-size", "9c"], capture_output=True, check=True)
        assert listed.stdout.count(b"/file") == 1
        remove_deep(again)
    remove_deep(person.home / "doc")
