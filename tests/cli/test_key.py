"""Keys: what a file says of itself, copies that are remembered, files that do or do not open a pool."""

import json
import re
import shutil
from pathlib import Path

import pytest
from face_kit import Person


@pytest.fixture
def person(tmp_path: Path) -> Person:
    (tmp_path / "doc").mkdir()
    person = Person(tmp_path)
    person.run("backup", "doc", "--name", "one")
    return person


def own_key(person: Person) -> Path:
    return Path(person.run("key", "show").stdout.decode().strip())


def test_doctor_is_content_once_a_copy_is_elsewhere(person: Person) -> None:
    """Kind: a warning that nothing ends, and that people learn to pass over."""
    hint = person.run("doctor").stdout.decode()
    assert "hint: the key" in hint and "dal key export FILE" in hint and "all well" in hint
    beside = person.run("key", "export", "beside.key").stdout.decode()
    assert "on the same disk" in beside and "beside.key" in person.run("doctor").stdout.decode()
    assert person.run("key", "export", "-").stdout.count(b"dalsegno-key-1 ") == 1
    assert not (person.home / "-").exists()
    assert person.value("doctor") == {"findings": [], "hints": []}
    assert "copied to standard output on" in person.run("key", "show", "-v").stdout.decode()


def test_a_copy_on_another_disk_is_enough(person: Person) -> None:
    other = Path("/dev/shm") / f"dalsegno-{person.home.name}"
    if other.parent.stat().st_dev == person.home.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    other.mkdir()
    try:
        assert "same disk" not in person.run("key", "export", str(other / "pool.key")).stdout.decode()
        assert person.value("doctor")["hints"] == []
    finally:
        shutil.rmtree(other)
    assert {each["opens"] for each in person.value("key", "check")} == {True, None}  # the disk is away


def test_key_files_say_whose_they_are_and_old_ones_are_read(person: Person) -> None:
    """Kind: a file that nobody can tell what it is for in ten years."""
    key = own_key(person)
    text = key.read_text()
    pool = person.home / ".local" / "share" / "dalsegno" / "pool"
    assert f"# place: {pool}\n" in text and re.search(r"^# made: 2\d{3}-.*Z$", text, re.MULTILINE)
    (listed,) = person.value("key", "list")
    assert listed["place"] == str(pool) and listed["host"] and listed["pool"] == key.stem
    key.write_text(text.splitlines(keepends=True)[-1])  # as they were before
    (listed,) = person.value("key", "list")
    assert listed["pool"] == key.stem and listed["since"] and listed["problem"] is None
    person.run("ls", "doc")
    (key.parent / "other.key").write_text("rubbish\n")
    assert [bool(each["problem"]) for each in person.value("key", "list")].count(True) == 1


def test_key_check_tells_which_file_opens_the_pool(person: Person) -> None:
    person.run("key", "export", "copy.key")
    person.run("--pool", "pool2", "init")
    person.run("--pool", "pool2", "key", "export", "other.key")
    assert b"opens" in person.run("key", "check", "copy.key").stdout
    assert b"another pool's realm" in person.run("key", "check", "other.key", code=8).stderr
    person.run("key", "check", "nothing.key", code=8)
    shutil.copy(person.home / "other.key", person.home / "copy.key")
    found = json.loads(person.run("--json", "key", "check", code=8).stdout)
    assert [each["opens"] for each in found] == [True, False]


def test_names_with_line_ends_add_no_line_to_a_key(person: Person) -> None:
    """Kind: a name that writes into a file's structure."""
    odd = "pool\ndalsegno-key-1 00 00"
    person.run("--pool", odd, "init", "--key", "odd.key")
    assert len((person.home / "odd.key").read_text().splitlines()) == 6
    person.run("--pool", odd, "--key", "odd.key", "volume", "list")


def test_export_into_a_directory_says_what_to_do(person: Person) -> None:
    for place in ("doc", "new/"):
        assert b"name the file" in person.run("key", "export", place, code=2).stderr
    assert not (person.home / "new").exists()
