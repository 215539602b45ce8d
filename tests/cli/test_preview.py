"""What is looked at before it is done, or compared after: `backup -n`, `backup -v`, `diff --stat`, `find -i`."""

import os
from pathlib import Path

import pytest
from face_kit import Person


@pytest.fixture
def person(tmp_path: Path) -> Person:
    doc = tmp_path / "doc"
    (doc / "sub").mkdir(parents=True)
    (doc / "plan.txt").write_text("first\n")
    (doc / "sub" / "gone").write_bytes(bytes(3000))
    return Person(tmp_path)


def tree_of(place: Path) -> list[str]:
    return sorted(str(path) for path in place.rglob("*") if "index" not in str(path))


def test_dry_run_of_a_first_backup_makes_nothing(person: Person) -> None:
    """Kind: looking first leaves traces."""
    before = tree_of(person.home)
    said = person.run("backup", "-n", "doc").stdout.decode()
    assert "+ plan.txt  (6 B)" in said and "to a new volume: nothing was stored" in said
    assert tree_of(person.home) == before
    person.run("backup", "-n", "nothing", code=6)
    person.run("backup", "-n", "--set", "all", code=2)


def test_dry_run_tells_what_the_backup_then_does(person: Person) -> None:
    person.run("backup", "doc", "--name", "one")
    (person.home / "doc" / "plan.txt").write_bytes(os.urandom(70_000))
    (person.home / "doc" / "new.tmp").write_text("new")
    (person.home / "doc" / "sub" / "gone").unlink()
    told = person.value("backup", "doc", "-n", "-e", "*.tmp")
    assert {each["path"]: each["change"] for each in told["changes"] if each["parts"] != ["times"]} == {
        "plan.txt": "changed",
        "sub/gone": "removed",
    }
    assert told["left_out"][0]["value"] == "*.tmp" and 70_000 <= told["bytes_new"] < 80_000
    assert person.value("volume", "show", "doc")["clones"] == 1
    done = person.run("backup", "doc", "-v", "--exclude", "*.tmp", "--name", "two").stdout.decode()
    assert "M plan.txt  (content, times, 6 B -> 68.4 KiB)" in done and "- sub/gone" in done and "new.tmp" not in done
    after = person.value("backup", "doc", "-n", "-e", "*.tmp")
    assert after["changes"] == [] and after["bytes_new"] == after["files_read"] == 0
    stat = person.run("diff", "doc@one", "doc@two", "--stat").stdout.decode().splitlines()
    assert stat[-1] == "0 added, 0 B; 1 removed, 2.9 KiB; 1 changed, +68.4 KiB"
    assert not any("(times)" in line for line in stat)  # of a directory: noise
    assert person.value("diff", "doc@one", "doc@two", "--stat")["removed"] == {"entries": 1, "bytes": 3000}


def test_find_knows_letters_of_every_script(person: Person) -> None:
    """Kind: a pattern that counts bytes where people count letters."""
    (person.home / "doc" / "Größe.TXT").write_text("x")
    person.run("backup", "doc")
    for words in (["Gr??e.*"], ["-i", "GRÖẞE.txt"], ["-i", "*ÖßE*"], ["*.TXT"]):
        assert "Größe.TXT" in person.run("find", *words).stdout.decode(), words
    nothing = person.run("find", "größe*")
    assert nothing.stdout == b"" and b"nothing found" in nothing.stderr


def test_short_options_and_habits_of_others(person: Person) -> None:
    person.run("backup", "-x", "-e", "*.bak", "doc")
    assert b"plan.txt" in person.run("ls", "-la", "doc").stdout
    person.run("restore", "doc", "-t", "back")
    assert (person.home / "back" / "plan.txt").exists()
    person.run("dump", "doc", "-l", "0", "-o", "0.dump")
    assert b"`dal verify 0.dump`" in person.run("verify", "--pool", "0.dump", code=2).stderr
    for words in (["dump", "doc"], ["merge", "0.dump", "0.dump"]):
        assert b"no such directory" in person.run(*words, "-o", "new/", code=2).stderr
    assert not (person.home / "new").exists()


def test_what_find_prints_is_an_address(person: Person) -> None:
    """Kind: one command prints what no other takes."""
    for name in ("one", "two", "three"):
        person.run("backup", "doc", "--name", name)
    (person.home / "doc" / "plan.txt").unlink()
    person.run("backup", "doc", "--name", "four")
    said = person.run("find", "plan.txt").stdout.decode()
    assert said == "doc@three:/plan.txt  6 B  since one\n"
    assert person.run("cat", said.split()[0]).stdout == b"first\n"
    rows = person.run("versions", "doc:/plan.txt").stdout.decode().splitlines()
    assert rows[0].split() == ["clone", "since", "clones", "size", "changed"]
    assert rows[1].split()[:3] == ["three", "one", "3"] and rows[2].split() == ["four", "1", "not", "there"]
    person.run("dump", "doc@two", "-o", "two.dump")
    said = person.run("find", "plan.txt", "two.dump").stdout.decode()
    assert person.run("cat", said.split()[0]).stdout == b"first\n"
